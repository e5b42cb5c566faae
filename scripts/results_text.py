"""The figures of docs/results.md on text streams: ours and plain PEFT's, seed by seed, as a table.

    python3 scripts/results_text.py OUT [--streams STREAM …] [--seeds 3]

OUT keeps each run's figures: what is there is not run again. One run at a time on each core. Needs `make build`,
`make reference`, and PERENNIAL_DATA.
"""

import argparse
import json
import os
import pathlib
import subprocess

from figures import ROOT, data, interval, together

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "perennial"
STREAMS = ["banking77_class_7x11", "hwu64_class_18_scenarios"]
FLAGS = """--epochs 3 --batch 32 --optimizer adamw --lr 0.002 --max-length 64 --replay-fraction 0.5 --buffer-size 500
    --buffer-update chunk --micro-batches 1 --no-future --precision auto --threads-per-rank 1 -o json""".split()
LORA = "lora:8,alpha=16"
ARMS = {
    "peft er": None,
    "er": ["--method", "er", "--adapter", LORA],
    "er, last:2": ["--method", "er", "--adapter", f"{LORA},layers=last:2"],
    "ft": ["--method", "ft", "--adapter", LORA],
    # Offline: one update on all tasks together.
    "joint": ["--method", "joint", "--at-once", "--adapter", LORA],
}


def command(arm, stream, seed, reference):
    file = data() / "streams" / f"{stream}.json"
    if arm == "peft er":
        return [reference["python"], ROOT / "tests/benches/text_stream/peft_er.py", data(), file, reference["minilm"], str(seed)]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    bench = [target / "release/perennial", "bench", file, "--model", reference["minilm"], "--seed", str(seed)]
    return [*bench, *FLAGS, *ARMS[arm]]


def figures(arm, stream, seed, out, reference):
    """(average accuracy, forgetting) in percent."""
    kept = out / f"{stream}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}.json"
    if not kept.exists():
        quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        environment = {**os.environ, **quiet, "PYTHONPATH": reference["newest"]}
        words = command(arm, stream, seed, reference)
        ran = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        kept.write_bytes(ran.stdout)
    found = json.loads(kept.read_bytes())
    found = found["runs"][0] if "runs" in found else found
    return 100 * found["average_accuracy"], 100 * found["forgetting"]


def table(stream, runs, seeds):
    print(f"\n{stream}\n\n| method | average accuracy | forgetting | seeds |\n| --- | --- | --- | --- |")
    for arm in ARMS:
        accuracies, forgetting = zip(*(runs[arm, seed] for seed in seeds))
        lost = "-" if arm == "joint" else interval(forgetting)
        print(f"| {arm} | {interval(accuracies)} | {lost} | {', '.join(f'{a:.1f}' for a in accuracies)} |")
    for better, worse in [("er", "peft er"), ("er", "ft"), ("joint", "er"), ("er", "er, last:2")]:
        gaps = [runs[better, seed][0] - runs[worse, seed][0] for seed in seeds]
        print(f"{better} above {worse}: {interval(gaps)} points")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--streams", nargs="+", default=STREAMS)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    reference = json.loads((CACHE / "reference.json").read_bytes())
    for stream in args.streams:
        seeds = range(args.seeds)
        jobs = {
            (arm, seed): lambda arm=arm, seed=seed: figures(arm, stream, seed, args.out, reference)
            for seed in seeds
            for arm in ARMS
        }
        table(stream, together(jobs), seeds)


if __name__ == "__main__":
    main()
