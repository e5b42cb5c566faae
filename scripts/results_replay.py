"""The figures of docs/results.md on replay, regularisation and memory-only methods: Fashion-MNIST in five pairs of classes.

    python3 scripts/results_replay.py OUT

An MLP with two hidden layers of 100, one epoch, batches of 10, plain SGD, pixels over 255; learning rates, replay batches
and weights of er, der and der++ as the paper of dark experience replay has them for S-MNIST. OUT keeps each arm's figures:
what is there is not run again. Pictures go to docs/pictures. Needs `make build` and PERENNIAL_DATA.
"""

import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pictures

ROOT = pathlib.Path(__file__).resolve().parent.parent
STREAM = "fashion_mnist_class_5x2"
SEEDS = 5
# Student's t at 97.5 % for four degrees of freedom: five seeds.
T = 2.776
BUFFERS = [200, 500, 5120]
COMMON = f"--model mlp:100,100 --batch 10 --epochs 1 --optimizer sgd --threads-per-rank 1 --no-future --seeds {SEEDS} -o json"

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


def runs(method, flags, size, out):
    flags = [*COMMON.split(), "--method", method, *flags.split()] + (["--buffer-size", str(size)] if size else [])
    # Other flags are another run.
    kept = out / f"{method}-{size or 'none'}-{hashlib.sha256(' '.join(flags).encode()).hexdigest()[:8]}.json"
    if not kept.exists():
        print(f"{method}, {size or 'no'} rows", file=sys.stderr)
        data, target = pathlib.Path(os.environ["PERENNIAL_DATA"]), os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
        command = [pathlib.Path(target) / "release/perennial", "bench", data / "streams" / f"{STREAM}.json"]
        ran = subprocess.run([*command, *flags], check=True, stdout=subprocess.PIPE)
        whole = kept.with_suffix(".tmp")
        whole.write_bytes(ran.stdout)
        whole.rename(kept)
    return json.loads(kept.read_bytes())["runs"]


def spread(values):
    return T * statistics.stdev(values) / len(values) ** 0.5


def percent(found, name):
    values = [100 * run[name] for run in found]
    return f"{statistics.mean(values):.1f} ± {spread(values):.1f}"


def over_updates(found):
    """Mean and interval of the average accuracy on the tasks so far, after each update."""
    updates = range(len(found[0]["accuracy_matrix"]))
    at = lambda run, j: 100 * statistics.mean(run["accuracy_matrix"][j][: j + 1])
    values = [[at(run, j) for run in found] for j in updates]
    return [statistics.mean(v) for v in values], [spread(v) for v in values]


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    plain = {method: runs(method, flags, None, out) for method, flags in PLAIN.items()}
    replay = {method: {size: runs(method, arms[size], size, out) for size in BUFFERS} for method, arms in REPLAY.items()}
    print("| method | rows | average accuracy | forgetting |\n| --- | --- | --- | --- |")
    for method, found in plain.items():
        print(f"| `{method}` | - | {percent(found, 'average_accuracy')} | {percent(found, 'forgetting')} |")
    for method, arms in replay.items():
        for size, found in arms.items():
            print(f"| `{method}` | {size} | {percent(found, 'average_accuracy')} | {percent(found, 'forgetting')} |")
    folder = ROOT / "docs/pictures"
    folder.mkdir(exist_ok=True)
    lines = [(method, *over_updates(found)) for method, found in plain.items()]
    lines += [(method, *over_updates(arms[200])) for method, arms in replay.items()]
    title = "Average accuracy on the tasks so far, 200 remembered rows"
    ticks = range(1, len(lines[0][1]) + 1)
    (folder / "replay-updates.svg").write_text(pictures.chart(title, "updates", ticks, lines))
    final = lambda found: [100 * run["average_accuracy"] for run in found]
    lines = [
        (method, [statistics.mean(final(arms[size])) for size in BUFFERS], [spread(final(arms[size])) for size in BUFFERS])
        for method, arms in replay.items()
    ]
    title = "Average accuracy after the last update"
    (folder / "replay-sizes.svg").write_text(pictures.chart(title, "remembered rows", BUFFERS, lines))


main()
