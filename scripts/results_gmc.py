"""Figures on gradient-matching coresets: what the rows of the buffer and their weights do, apart.

    python3 scripts/results_gmc.py OUT [--rows N] [--seeds N] [--sizes 100,200] [--streams NAME,NAME]

Every arm takes the buffer's rows at the end of each task, out of the same candidates; learner, initial weights, order and
batches of new rows are those of the seed. An MLP of two hidden layers of 100, experience replay, one epoch. The learning rate
is what serves the reservoir best on the rotated stream, the number of draws of initial weights what serves GMC best there, both
with 200 rows. OUT keeps each run's figures: what is there is not run again. Needs `make build` and PERENNIAL_DATA.
"""

import argparse
import functools
import pathlib
import statistics

import figures
import pictures

STREAMS = ["fashion_mnist_class_5x2", "fashion_mnist_permuted_10", "fashion_mnist_rotated_5"]
COMMON = """--model mlp:100,100 --batch 10 --replay-batch 10 --epochs 1 --optimizer sgd --threads-per-rank 1 --no-future
    --buffer-update chunk --measure-residual"""
RATES = [0.01, 0.03, 0.1]
DRAWS = [1, 5, 10]
ARMS = {
    "reservoir": "--method er --buffer reservoir",
    "class-balanced": "--method er --buffer class-balanced",
    "herding": "--method er --buffer herding",
    "k-centre": "--method er --buffer k-centre",
    "uniform, weighed": "--method er --buffer gmc --gmc-uniform",
    "gmc, unit weights": "--method er --buffer gmc --buffer-weights unit",
    "gmc": "--method er --buffer gmc",
}
# At one size, in other learners.
OTHERS = {
    f"{method}, {buffer}": f"--method {method} --buffer {buffer}" + (" --loss-weights alpha=0.2,beta=0.5" if method == "der++" else "")
    for method in ["der++", "offline-er"]
    for buffer in ["reservoir", "class-balanced", "gmc"]
}


def best(choices, flags, arm, out):
    """Of `choices`, the one whose runs of `arm` on the rotated stream are the most accurate; `flags` says what one means."""
    job = lambda choice: functools.partial(figures.bench, STREAMS[-1], f"{flags(choice)} {ARMS[arm]} --buffer-size 200", out)
    runs = figures.together({choice: job(choice) for choice in choices})
    means = {choice: statistics.mean(100 * run["average_accuracy"] for run in found) for choice, found in runs.items()}
    print(", ".join(f"{choice}: {mean:.1f}" for choice, mean in means.items()) + f" ({arm})", flush=True)
    return max(choices, key=means.get)


def against(arms, baseline, name):
    found = figures.differences(arms[name], arms[baseline])
    return "-" if name == baseline else figures.interval(found)


def row(arms, name):
    """Accuracy, what it is above both baselines, and the mean residual over updates and seeds."""
    left = [statistics.mean(run["memory_residuals"]) for run in arms[name]]
    seconds = statistics.mean(run["seconds"]["train"] for run in arms[name])
    above = " | ".join(against(arms, baseline, name) for baseline in ["reservoir", "class-balanced"])
    return f"{figures.percent(arms[name], 'average_accuracy')} | {above} | {statistics.mean(left):.3f} | {seconds:.1f}"


def main():
    parser = argparse.ArgumentParser(description="The figures of GMC.")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--rows", type=int, default=2000, help="of each task that train")
    parser.add_argument("--seeds", type=int, default=10, choices=range(2, 11))
    parser.add_argument("--sizes", default="100,200,500,1000")
    parser.add_argument("--streams", default=",".join(STREAMS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sizes, streams = [int(size) for size in args.sizes.split(",")], args.streams.split(",")
    common = f"{COMMON} --limit-per-task {args.rows} --seeds {args.seeds}"
    common += f" --lr {best(RATES, lambda rate: f'{common} --gmc-initialisations {DRAWS[-1]} --lr {rate}', 'reservoir', args.out)}"
    common += f" --gmc-initialisations {best(DRAWS, lambda draws: f'{common} --gmc-initialisations {draws}', 'gmc', args.out)}"
    wanted = {(stream, size, arm): flags for stream in streams for size in sizes for arm, flags in ARMS.items()}
    wanted |= {(stream, 200, arm): flags for stream in streams for arm, flags in OTHERS.items() if 200 in sizes}
    job = lambda stream, size, flags: functools.partial(figures.bench, stream, f"{common} {flags} --buffer-size {size}", args.out)
    runs = figures.together({key: job(key[0], key[1], flags) for key, flags in wanted.items()})
    head = "| rows | buffer | average accuracy | above reservoir | above class-balanced | residual | seconds |"
    for stream in streams:
        print(f"\n{stream}\n\n{head}\n| --- | --- | --- | --- | --- | --- | --- |")
        for size in sizes:
            arms = {arm: runs[stream, size, arm] for arm in ARMS}
            for arm in ARMS:
                print(f"| {size} | {arm} | {row(arms, arm)} |")
        values = lambda arm: [[100 * run["average_accuracy"] for run in runs[stream, size, arm]] for size in sizes]
        lines = [(arm, [statistics.mean(v) for v in values(arm)], [figures.spread(v) for v in values(arm)]) for arm in ARMS]
        picture = pictures.chart(f"Average accuracy, {stream}", "remembered rows", sizes, lines)
        (figures.PICTURES / f"gmc-{stream}.svg").write_text(picture)
        for method in ["der++", "offline-er"] if 200 in sizes else []:
            for buffer in ["reservoir", "class-balanced", "gmc"]:
                own, base = runs[stream, 200, f"{method}, {buffer}"], runs[stream, 200, f"{method}, reservoir"]
                above = "-" if buffer == "reservoir" else figures.interval(figures.differences(own, base))
                print(f"| 200 | {method}, {buffer} | {figures.percent(own, 'average_accuracy')} | {above} | | | |")


main()
