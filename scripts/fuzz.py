"""Searches for inputs that break what reads other people's bytes: `make fuzz MINUTES=10 ONLY=name`.

The fuzzer, what it builds and what it finds on its way lie in the user's cache; inputs that crash lie beside the target,
where `cargo test` runs them again.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

TOOL = "0.13.5"
ROOT = Path(__file__).resolve().parent.parent
TARGETS = ROOT / "tests/fuzz/tests/__fuzz__"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perennial/fuzz"
# A build's memory and a minute: what one input may take before it counts as a crash.
LIMITS = ["-rss_limit_mb=6000", "-print_final_stats=1", "-max_len=65536", "-len_control=20"]


def tool() -> Path:
    root = CACHE / f"cargo-bolero-{TOOL}"
    if not (root / "bin/cargo-bolero").is_file():
        install = ["cargo", "install", "cargo-bolero", "--version", TOOL, "--locked", "--no-default-features"]
        subprocess.run([*install, "--root", root, "--target-dir", CACHE / "tool"], check=True)
    return root / "bin"


def search(name: str, minutes: float, tool: Path) -> str:
    corpus = CACHE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    crashes = TARGETS / name / "crashes"
    known = set(crashes.glob("*")) if crashes.is_dir() else set()
    seeds = str(TARGETS / name / "corpus")
    command = ["cargo", "bolero", "test", name, "--package", "perennial-fuzz", "--engine", "libfuzzer"]
    command += ["--sanitizer", "NONE", "--target-dir", CACHE / "target", "-T", f"{round(minutes * 60)}s"]
    command += ["--timeout", "60s", "--corpus-dir", corpus, "--crashes-dir", crashes]
    command += [f"--engine-args={word}" for word in [seeds, *LIMITS]]
    environment = dict(os.environ, PATH=f"{tool}:{os.environ['PATH']}")
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           errors="replace")
    tried, covers = "0", "?"
    for line in run.stdout:
        print(line, end="", flush=True)
        tried = next(iter(re.findall(r"number_of_executed_units: (\d+)", line)), tried)
        covers = next(iter(re.findall(r"cov: (\d+)", line)), covers)
    status = run.wait()
    if crashes.is_dir() and not any(crashes.iterdir()):
        crashes.rmdir()
    found = sorted(set(crashes.glob("*")) - known) if crashes.is_dir() else []
    for path in found:
        print(f"crash: {path.relative_to(ROOT)}", flush=True)
    outcome = "ok" if status == 0 else f"FAILED, {len(found)} new crashes"
    return f"{name:<10} {int(tried):>10} inputs  {covers:>6} edges  {outcome}"


def main() -> int:
    names = sorted(path.name for path in TARGETS.iterdir())
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--only", choices=names, help="this target")
    arguments = parser.parse_args()
    bin = tool()
    told = [search(name, arguments.minutes, bin) for name in ([arguments.only] if arguments.only else names)]
    print("\n".join(["", *told]))
    return 1 if any("FAILED" in line for line in told) else 0


if __name__ == "__main__":
    sys.exit(main())
