"""The figures of docs/results.md on text streams: ours and plain PEFT's, seed by seed, as a table.

    python3 scripts/results_text.py OUT [STREAM ...]

OUT keeps each run's figures: what is there is not run again. Needs `make build`, `make reference`, and PERENNIAL_DATA.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "perennial"
SEEDS = [0, 1, 2]
ARMS = ["peft er", "er", "ft", "joint"]
# Student's t at 97.5 % for two degrees of freedom: three seeds.
T = 4.303
FLAGS = """--adapter lora:8,alpha=16 --epochs 3 --batch 32 --optimizer adamw --lr 0.002 --max-length 64 --replay-fraction 0.5
    --buffer-size 500 --buffer-update chunk --micro-batches 1 --no-future --precision auto -o json""".split()


def command(arm, stream, seed, reference):
    data = pathlib.Path(os.environ["PERENNIAL_DATA"])
    file = data / "streams" / f"{stream}.json"
    if arm == "peft er":
        script = ROOT / "tests/benches/text_stream/peft_er.py"
        return [reference["python"], script, data, file, reference["minilm"], str(seed)]
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    flags = [*FLAGS, "--method", arm, "--seed", str(seed)] + (["--at-once"] if arm == "joint" else [])
    return [target / "release/perennial", "bench", file, "--model", reference["minilm"], *flags]


def figures(arm, stream, seed, out, reference):
    """(average accuracy, forgetting) in percent."""
    kept = out / f"{stream}-{arm.replace(' ', '-')}-{seed}.json"
    if not kept.exists():
        environment = {**os.environ, "PYTHONPATH": reference["newest"], "HF_HUB_OFFLINE": "1"}
        print(f"{stream}, {arm}, seed {seed}", file=sys.stderr)
        ran = subprocess.run(command(arm, stream, seed, reference), env=environment, check=True, stdout=subprocess.PIPE)
        kept.write_bytes(ran.stdout)
    found = json.loads(kept.read_bytes())
    found = found["runs"][0] if "runs" in found else found
    return 100 * found["average_accuracy"], 100 * found["forgetting"]


def interval(values):
    spread = T * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    reference = json.loads((CACHE / "reference.json").read_bytes())
    for stream in sys.argv[2:] or ["banking77_class_7x11", "hwu64_class_18_scenarios"]:
        runs = {arm: [figures(arm, stream, seed, out, reference) for seed in SEEDS] for arm in ARMS}
        print(f"\n{stream}\n\n| method | average accuracy | forgetting | seeds |\n| --- | --- | --- | --- |")
        for arm, pairs in runs.items():
            accuracies, forgetting = zip(*pairs)
            lost = "-" if arm == "joint" else interval(forgetting)
            print(f"| {arm} | {interval(accuracies)} | {lost} | {', '.join(f'{a:.1f}' for a in accuracies)} |")
        for better, worse in [("er", "peft er"), ("er", "ft"), ("joint", "er")]:
            gaps = [b[0] - w[0] for b, w in zip(runs[better], runs[worse])]
            print(f"{better} above {worse}: {interval(gaps)} points")


main()
