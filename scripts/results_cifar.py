"""The figures of docs/results.md on CIFAR-10 in five pairs of classes, by a slim ResNet-18.

    python3 scripts/results_cifar.py OUT [--rows N] [--seeds N] [--augment LIST]

One epoch, batches of 10 new and 10 remembered rows, plain SGD, pixels standardised by the first task's. Of each task, 2000 rows
train, so that everything fits two cores and 40 minutes; `--rows 10000` is the whole stream, and takes four times as long.
OUT keeps each arm's figures: what is there is not run again. Seeds run side by side, one on each core. Pictures go to
docs/pictures. Needs `make build` and PERENNIAL_DATA.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pictures

ROOT = pathlib.Path(__file__).resolve().parent.parent
STREAM = "cifar10_class_5x2"
# Student's t at 97.5 %, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
BUFFERS = [200, 500, 1000]
COMMON = "--model resnet18:slim --normalize dataset --batch 10 --epochs 1 --optimizer sgd --threads-per-rank 1 --no-future -o json"

# Flags of each arm: what is not said is not tuned. α and β of der and der++ are the paper's for CIFAR-10 and 500 rows.
REPLAY = {
    "er": "--lr 0.1 --replay-batch 10",
    "der": "--lr 0.03 --replay-batch 10 --loss-weights alpha=0.3",
    "der++": "--lr 0.03 --replay-batch 10 --loss-weights alpha=0.2,beta=0.5",
}
# Without a buffer, or with one that holds everything.
PLAIN = {"ft": "--lr 0.1", "joint": "--lr 0.1"}


def run(method, flags, size, seed, args):
    """One seed of an arm, as `bench` prints it."""
    flags = [*COMMON.split(), *flags.split(), "--method", method, "--seed", str(seed), "--limit-per-task", str(args.rows)]
    flags += ["--buffer-size", str(size)] if size else []
    flags += ["--augment", args.augment] if args.augment else []
    # Other flags are another run.
    kept = args.out / f"{method}-{size or 'none'}-{seed}-{hashlib.sha256(' '.join(flags).encode()).hexdigest()[:8]}.json"
    if not kept.exists():
        print(f"{method}, {size or 'no'} rows, seed {seed}", file=sys.stderr)
        data, target = pathlib.Path(os.environ["PERENNIAL_DATA"]), os.environ.get("CARGO_TARGET_DIR") or ROOT / "target"
        command = [pathlib.Path(target) / "release/perennial", "bench", data / "streams" / f"{STREAM}.json"]
        quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        ran = subprocess.run([*command, *flags], env=quiet, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        whole = kept.with_suffix(".tmp")
        whole.write_bytes(ran.stdout)
        whole.rename(kept)
    return json.loads(kept.read_bytes())["runs"][0]


def spread(values):
    return T[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5


def percent(found, name):
    values = [100 * run[name] for run in found]
    return f"{statistics.mean(values):.1f} ± {spread(values):.1f}"


def over_updates(found):
    """Mean and interval of the average accuracy on the tasks so far, after each update."""
    at = lambda run, j: 100 * statistics.mean(run["accuracy_matrix"][j][: j + 1])
    values = [[at(run, j) for run in found] for j in range(len(found[0]["accuracy_matrix"]))]
    return [statistics.mean(v) for v in values], [spread(v) for v in values]


def table(arms):
    print("| method | rows | average accuracy | forgetting | ms a step |\n| --- | --- | --- | --- | --- |")
    for (method, size), found in arms.items():
        step = statistics.mean(1000 * run["seconds"]["train"] / run["steps"] for run in found)
        figures = f"{percent(found, 'average_accuracy')} | {percent(found, 'forgetting')} | {step:.0f}"
        print(f"| `{method}` | {size or '-'} | {figures} |")


def draw(arms):
    folder = ROOT / "docs/pictures"
    folder.mkdir(exist_ok=True)
    smallest = BUFFERS[0]
    lines = [(method, *over_updates(found)) for (method, size), found in arms.items() if size in (None, smallest)]
    title = f"Average accuracy on the tasks so far, {smallest} remembered rows"
    ticks = range(1, len(lines[0][1]) + 1)
    (folder / "cifar-updates.svg").write_text(pictures.chart(title, "updates", ticks, lines))
    final = lambda method: [[100 * run["average_accuracy"] for run in arms[method, size]] for size in BUFFERS]
    lines = [(method, [statistics.mean(v) for v in final(method)], [spread(v) for v in final(method)]) for method in REPLAY]
    title = "Average accuracy after the last update"
    (folder / "cifar-sizes.svg").write_text(pictures.chart(title, "remembered rows", BUFFERS, lines))


def main():
    parser = argparse.ArgumentParser(description="The figures on CIFAR-10 5×2.")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--rows", type=int, default=2000, help="of each task that train")
    parser.add_argument("--seeds", type=int, default=3, choices=[2, 3, 4, 5])
    parser.add_argument("--augment", default="", help="what bench takes as --augment, such as random-crop,hflip")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = {(method, None): flags for method, flags in PLAIN.items()}
    wanted |= {(method, size): flags for method, flags in REPLAY.items() for size in BUFFERS}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {
            arm: [pool.submit(run, arm[0], flags, arm[1], seed, args) for seed in range(args.seeds)]
            for arm, flags in wanted.items()
        }
        arms = {arm: [future.result() for future in futures] for arm, futures in started.items()}
    table(arms)
    draw(arms)


main()
