"""What the scripts of docs/results.md share: runs of `perennial bench`, kept and not run again, and what is said of them."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/pictures"
# Student's t at 97.5 %, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def data():
    return pathlib.Path(os.environ["PERENNIAL_DATA"])


def bench(stream, flags, out):
    """The runs of a command, from `out` if they are there. `stream` is a file of $PERENNIAL_DATA/streams, or a path."""
    flags = flags.split()
    file = stream if isinstance(stream, pathlib.Path) else data() / "streams" / f"{stream}.json"
    # Other flags are another run.
    kept = out / f"{file.stem}-{hashlib.sha256(' '.join(flags).encode()).hexdigest()[:16]}.json"
    if not kept.exists():
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        command = [target / "release/perennial", "bench", file, "--data", data(), *flags, "-o", "json"]
        quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        ran = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if ran.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}\n{ran.stderr}")
        whole = kept.with_suffix(".tmp")
        whole.write_text(ran.stdout)
        whole.rename(kept)
    return json.loads(kept.read_text())["runs"]


def together(jobs):
    """What each of `jobs`, a dict of name to call without arguments, returns. One at a time on each core, with a count."""
    done = {}
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        started = {pool.submit(job): name for name, job in jobs.items()}
        for future in concurrent.futures.as_completed(started):
            if future.exception():
                pool.shutdown(wait=False, cancel_futures=True)
            done[started[future]] = future.result()
            print(f"\r{len(done)} of {len(jobs)} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {name: done[name] for name in jobs}


def spread(values):
    """Half a 95 % interval of the mean."""
    return T[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5


def interval(values, digits=1):
    return f"{statistics.mean(values):.{digits}f} ± {spread(values):.{digits}f}"


def percent(runs, name):
    return interval([100 * run[name] for run in runs])


def over_updates(runs):
    """Mean and interval of the average accuracy on the tasks so far, after each update."""
    at = lambda run, j: 100 * statistics.mean(run["accuracy_matrix"][j][: j + 1])
    values = [[at(run, j) for run in runs] for j in range(len(runs[0]["accuracy_matrix"]))]
    return [statistics.mean(v) for v in values], [spread(v) for v in values]


def differences(better, worse, name="average_accuracy"):
    """Of the same seeds, in points."""
    pairs = [(a, b) for a, b in zip(better, worse) if a["seed"] == b["seed"]]
    return [100 * (a[name] - b[name]) for a, b in pairs]
