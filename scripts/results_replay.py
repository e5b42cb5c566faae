"""The figures of docs/results.md on replay, regularisation and memory-only methods: Fashion-MNIST in five pairs of classes.

    python3 scripts/results_replay.py OUT

An MLP with two hidden layers of 100, one epoch, batches of 10, plain SGD, pixels over 255; learning rates, replay batches
and weights of er, der and der++ as the paper of dark experience replay has them for S-MNIST. OUT keeps each arm's figures:
what is there is not run again. Pictures go to docs/pictures. Needs `make build` and PERENNIAL_DATA.
"""

import functools
import pathlib
import statistics
import sys

import figures
import pictures

STREAM = "fashion_mnist_class_5x2"
SEEDS = 5
BUFFERS = [200, 500, 5120]
COMMON = f"--model mlp:100,100 --batch 10 --epochs 1 --optimizer sgd --threads-per-rank 1 --no-future --seeds {SEEDS}"

# Flags of each arm, by buffer size.
REPLAY = {
    "er": {size: f"--lr {lr} --replay-batch 10" for size, lr in zip(BUFFERS, [0.01, 0.1, 0.1])},
    "der": {
        size: f"--lr {lr} --replay-batch {batch} --loss-weights alpha={alpha}"
        for size, lr, batch, alpha in zip(BUFFERS, [0.03, 0.03, 0.1], [10, 128, 128], [0.2, 1, 0.5])
    },
    "der++": {
        size: f"--lr {lr} --replay-batch {batch} --loss-weights alpha={alpha},beta={beta}"
        for size, lr, batch, alpha, beta in zip(BUFFERS, [0.03, 0.03, 0.1], [128, 10, 64], [0.2, 1, 0.2], [1, 0.5, 0.5])
    },
    "cls-er": {size: "--lr 0.1 --replay-batch 10" for size in BUFFERS},
    "icarl": {size: "--lr 0.1" for size in BUFFERS},
    "gdumb": {size: "--lr 0.1" for size in BUFFERS},
}
# Without a buffer, or with one that holds everything.
PLAIN = {
    "ft": "--lr 0.03",
    "lwf": "--lr 0.03",
    "ewc": "--lr 0.03 --loss-weights lambda=100",
    "online-ewc": "--lr 0.03 --loss-weights lambda=100",
    "joint": "--lr 0.03",
}


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    wanted = {(method, None): flags for method, flags in PLAIN.items()}
    wanted |= {(method, size): f"{flags} --buffer-size {size}" for method, arms in REPLAY.items() for size, flags in arms.items()}
    job = lambda method, flags: functools.partial(figures.bench, STREAM, f"{COMMON} --method {method} {flags}", out)
    arms = figures.together({key: job(key[0], flags) for key, flags in wanted.items()})
    print("| method | rows | average accuracy | forgetting |\n| --- | --- | --- | --- |")
    for (method, size), found in arms.items():
        print(f"| `{method}` | {size or '-'} | {figures.percent(found, 'average_accuracy')} | {figures.percent(found, 'forgetting')} |")
    lines = [(method, *figures.over_updates(found)) for (method, size), found in arms.items() if size in (None, BUFFERS[0])]
    title = f"Average accuracy on the tasks so far, {BUFFERS[0]} remembered rows"
    picture = pictures.chart(title, "updates", range(1, len(lines[0][1]) + 1), lines)
    (figures.PICTURES / "replay-updates.svg").write_text(picture)
    final = lambda method: [[100 * run["average_accuracy"] for run in arms[method, size]] for size in BUFFERS]
    lines = [(m, [statistics.mean(v) for v in final(m)], [figures.spread(v) for v in final(m)]) for m in REPLAY]
    picture = pictures.chart("Average accuracy after the last update", "remembered rows", BUFFERS, lines)
    (figures.PICTURES / "replay-sizes.svg").write_text(picture)


main()
