"""Figures on CIFAR-10 in five pairs of classes, by a slim ResNet-18.

    python3 scripts/results_cifar.py OUT [--rows N] [--seeds N] [--augment LIST]

One epoch, batches of 10 new and 10 remembered rows, plain SGD, pixels standardised by the first task's. Of each task, 2000 rows
train; `--rows 10000` is the whole stream.
OUT keeps each arm's figures: what is there is not run again. Seeds run side by side, one on each core. Pictures go to
docs/pictures. Needs `make build` and PERENNIAL_DATA.
"""

import argparse
import functools
import pathlib
import statistics

import figures
import pictures

STREAM = "cifar10_class_5x2"
BUFFERS = [200, 500, 1000]
COMMON = "--model resnet18:slim --normalize dataset --batch 10 --epochs 1 --optimizer sgd --threads-per-rank 1 --no-future"

# Flags of each arm. None is tuned.
REPLAY = {
    "er": "--lr 0.1 --replay-batch 10",
    "der": "--lr 0.03 --replay-batch 10 --loss-weights alpha=0.3",
    "der++": "--lr 0.03 --replay-batch 10 --loss-weights alpha=0.2,beta=0.5",
}
# Without a buffer, or with one that holds everything.
PLAIN = {"ft": "--lr 0.1", "joint": "--lr 0.1"}


def table(arms):
    print("| method | rows | average accuracy | forgetting | ms a step |\n| --- | --- | --- | --- | --- |")
    for (method, size), found in arms.items():
        step = statistics.mean(1000 * run["seconds"]["train"] / run["steps"] for run in found)
        columns = f"{figures.percent(found, 'average_accuracy')} | {figures.percent(found, 'forgetting')} | {step:.0f}"
        print(f"| `{method}` | {size or '-'} | {columns} |")


def draw(arms):
    smallest = BUFFERS[0]
    lines = [(method, *figures.over_updates(found)) for (method, size), found in arms.items() if size in (None, smallest)]
    title = f"Average accuracy on the tasks so far, {smallest} remembered rows"
    ticks = range(1, len(lines[0][1]) + 1)
    (figures.PICTURES / "cifar-updates.svg").write_text(pictures.chart(title, "updates", ticks, lines))
    final = lambda method: [[100 * run["average_accuracy"] for run in arms[method, size]] for size in BUFFERS]
    lines = [(method, [statistics.mean(v) for v in final(method)], [figures.spread(v) for v in final(method)]) for method in REPLAY]
    title = "Average accuracy after the last update"
    (figures.PICTURES / "cifar-sizes.svg").write_text(pictures.chart(title, "remembered rows", BUFFERS, lines))


def main():
    parser = argparse.ArgumentParser(description="The figures on CIFAR-10 5×2.")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--rows", type=int, default=2000, help="of each task that train")
    parser.add_argument("--seeds", type=int, default=3, choices=[2, 3, 4, 5])
    parser.add_argument("--augment", default="random_crop,hflip", help="what bench takes as --augment, such as random_crop,hflip")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    common = f"{COMMON} --limit-per-task {args.rows}" + (f" --augment {args.augment}" if args.augment else "")
    wanted = {(method, None): flags for method, flags in PLAIN.items()}
    wanted |= {(method, size): f"{flags} --buffer-size {size}" for method, flags in REPLAY.items() for size in BUFFERS}
    job = lambda arm, seed: functools.partial(figures.bench, STREAM, f"{common} --method {arm[0]} {wanted[arm]} --seed {seed}", args.out)
    found = figures.together({(arm, seed): job(arm, seed) for arm in wanted for seed in range(args.seeds)})
    arms = {arm: [found[arm, seed][0] for seed in range(args.seeds)] for arm in wanted}
    table(arms)
    draw(arms)


main()
