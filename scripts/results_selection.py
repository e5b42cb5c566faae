"""Figures on selective backprop: does any choice of rows beat choosing at random?

    python3 scripts/results_selection.py OUT [--rows N] [--seeds N] [--model LINE] [--stream NAME] [--batch N] [--epochs N]
        [--rates 0.1,0.3,1] [--keeps 0.1,0.25,0.5] [--evaluations N]

One task of all classes, with their labels and with a fifth of them wrong. Every arm has the same steps, a rate that
falls to zero by a cosine, and the learning rate that did best on a seed that is not counted. OUT keeps each run's figures:
what is there is not run again. Needs `make build` and PERENNIAL_DATA.
"""

import argparse
import functools
import json
import pathlib
import statistics

import figures
import pictures

# Of the seeds, the one that rates are chosen on.
TUNING = 100
ARMS = {
    "random": "--select random",
    "random, matched weights": "--select random --select-weights matched",
    "top-loss": "--select top-loss",
    "sb-fixed": "--select sb-fixed",
    "sb-history": "--select sb-history",
    "gradient-matching": "--select gradient-matching",
    "gradient-matching, equal weights": "--select gradient-matching --select-weights equal",
}


def streams(name, out):
    """All rows of a stream as one task, and the same with a fifth of the training labels changed."""
    spec = json.loads((figures.data() / "streams" / f"{name}.json").read_text())
    kept = ["input_column", "label_column", "train", "test", "labels"]
    made = {key: spec[key] for key in kept} | {"scenario": "one task", "tasks": [{"name": "all"}]}
    files = {"right labels": out / f"{name}_clean.json", "a fifth wrong": out / f"{name}_noisy.json"}
    files["right labels"].write_text(json.dumps({**made, "name": f"{name}_clean"}))
    files["a fifth wrong"].write_text(json.dumps({**made, "name": f"{name}_noisy", "label_noise": {"share": 0.2, "seed": 0}}))
    return files


def accuracy(run):
    return 100 * run["average_accuracy"]


def tuned(stream, flags, args):
    """The runs of every seed at the rate that does best on one more."""
    run = lambda rate, seed: figures.bench(stream, f"{flags} --lr {rate} --seed {seed}", args.out)[0]
    rates = args.rates.split(",")
    rate = max(rates, key=lambda rate: run(rate, TUNING)["average_accuracy"]) if len(rates) > 1 else rates[0]
    return rate, [run(rate, seed) for seed in range(args.seeds)]


def curve(runs):
    """Steps of each evaluation, mean and interval of the accuracy there."""
    mean = lambda accuracies: 100 * statistics.mean(accuracy for accuracy in accuracies if accuracy is not None)
    columns = list(zip(*([mean(at["accuracies"]) for at in run["stability"]["curve"]] for run in runs)))
    steps = [at["step"] for at in runs[0]["stability"]["curve"]]
    return steps, [statistics.mean(v) for v in columns], [figures.spread(v) for v in columns]


def table(runs):
    """`runs`: a rate and runs by labels, arm and share."""
    beaten = {arm: [] for arm in ARMS if arm != "random"}
    print("| labels | kept | rows | rate | accuracy | above random | seconds |\n| --- | --- | --- | --- | --- | --- | --- |")
    for (name, arm, keep), (rate, found) in runs.items():
        above = "-"
        if arm in beaten:
            gaps = figures.differences(found, runs[name, "random", keep][1])
            above = figures.interval(gaps)
            beaten[arm].append(statistics.mean(gaps) - figures.spread(gaps) > 0)
        seconds = statistics.mean(run["seconds"]["train"] for run in found)
        figure = figures.interval([accuracy(run) for run in found])
        print(f"| {name} | {keep} | {arm} | {rate} | {figure} | {above} | {seconds:.1f} |")
    print(f"\nAbove random on every set and share: {', '.join(arm for arm in beaten if all(beaten[arm])) or 'none'}")


def draw_shares(name, file, keeps, runs):
    values = lambda arm: [[accuracy(run) for run in runs[name, arm, keep][1]] for keep in keeps]
    lines = [(arm, [statistics.mean(v) for v in values(arm)], [figures.spread(v) for v in values(arm)]) for arm in ARMS]
    (figures.PICTURES / file).write_text(pictures.chart(f"Accuracy, {name}", "share of rows back-propagated", keeps, lines))


def draw_curves(name, file, batch, keep, arms):
    """Curves of `arms`, runs by arm, against rows back-propagated and against seconds, as far as those go that choose."""
    share = lambda arm: 1 if arm == "all" else float(keep)
    pace = lambda arm: statistics.mean(run["seconds"]["train"] / run["steps"] for run in arms[arm])
    found = {arm: curve(runs) for arm, runs in arms.items()}
    for axis, what, a_step in [
        ("rows back-propagated, thousands", "samples", lambda arm: round(batch * share(arm)) / 1000),
        ("seconds of training", "seconds", pace),
    ]:
        end = max(found[arm][0][-1] * a_step(arm) for arm in ARMS)
        # The first evaluation of an arm that takes more rows may come later than all of another's.
        within = lambda arm: [point for at, point in enumerate(zip(*found[arm])) if at == 0 or point[0] * a_step(arm) <= end]
        points = {arm: within(arm) for arm in arms}
        lines = [(arm, [step * a_step(arm) for step, *_ in of], *zip(*(values for _, *values in of))) for arm, of in points.items()]
        picture = pictures.curves(f"Accuracy, {name}, {keep} of each batch back-propagated", axis, lines)
        (figures.PICTURES / file.replace(".svg", f"-{what}.svg")).write_text(picture)


def main():
    parser = argparse.ArgumentParser(description="The figures of selective backprop.")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--stream", default="fashion_mnist_class_5x2")
    parser.add_argument("--model", default="mlp:100,100")
    parser.add_argument("--rows", type=int, default=10000, help="that train")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    parser.add_argument("--rates", default="0.1,0.3,1")
    parser.add_argument("--keeps", default="0.1,0.25,0.5")
    parser.add_argument("--evaluations", type=int, default=10, help="of which the curves are made; 0 for none")
    parser.add_argument("--flags", default="", help="more flags of bench, such as --augment random_crop,hflip")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    common = f"""--model {args.model} --method ft --batch {args.batch} --micro-batches 1 --epochs {args.epochs} --optimizer sgd --schedule cosine
        --threads-per-rank 1 --limit-per-task {args.rows} {args.flags}"""
    keeps, sets = args.keeps.split(","), streams(args.stream, args.out)
    steps = -(-args.rows // args.batch) * args.epochs
    common += f" --eval-every {max(1, steps // args.evaluations)}" if args.evaluations else ""
    wanted = {(name, "all", "1"): "--select all" for name in sets}
    wanted |= {(name, arm, keep): f"{flags} --keep {keep}" for name in sets for keep in keeps for arm, flags in ARMS.items()}
    job = lambda name, flags: functools.partial(tuned, sets[name], f"{common} {flags}", args)
    runs = figures.together({key: job(key[0], flags) for key, flags in wanted.items()})
    table(runs)
    for name in sets:
        file = f"selection-{args.stream}-{'noisy' if 'wrong' in name else 'clean'}.svg"
        if len(keeps) > 1:
            draw_shares(name, file, keeps, runs)
        if args.evaluations:
            middle = keeps[len(keeps) // 2]
            arms = {arm: runs[name, arm, middle][1] for arm in ARMS} | {"all": runs[name, "all", "1"][1]}
            draw_curves(name, file, args.batch, middle, arms)


main()
