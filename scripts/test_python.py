#!/usr/bin/env python3
"""Builds the Python client's wheel, checks its types, and tests it, with the daemon of the debug build too.

What that needs is installed once per user, in a folder of the cache that is named by the requirements. Arguments go to pytest.
"""
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "proto/python"
TESTS = [
    "grpcio==1.85.3", "protobuf==7.36.2", "pyarrow==26.0.1", "pandas==3.1.1", "datasets==5.2.0", "tqdm==4.70.1",
    "pytest==9.2.0", "mypy==2.4.1", "types-grpcio==1.85.0.20261028", "types-protobuf==7.35.1.20260906",
]


class TestError(Exception):
    """What the user must know; printed without a traceback."""


def say(text):
    print(f"test_python: {text}", file=sys.stderr, flush=True)


def run(*command, **options):
    code = subprocess.run([str(word) for word in command], **options).returncode
    if code != 0:
        raise TestError(f"`{' '.join(map(str, command[:6]))} …` failed with {code}; what it said is above")


def pip(python, *words, **options):
    run(python, "-m", "pip", "--disable-pip-version-check", "--quiet", *words, **options)


def build_requirements():
    import tomllib

    return tomllib.loads((CLIENT / "pyproject.toml").read_text())["build-system"]["requires"]


def stage(part, build):
    say("pip, mypy, pytest and what the client reads, once: a download of some 100 MB, 550 MB on disk, about a minute")
    run(sys.executable, "-m", "venv", part)
    pip(part / "bin/python", "install", "--no-cache-dir", "--only-binary=:all:", *TESTS)
    # Apart: the stubs are made by an older protobuf than the one they are tested with.
    pip(part / "bin/python", "install", "--no-cache-dir", "--only-binary=:all:", "--target", part / "build", *build)


def locate():
    build = build_requirements()
    pins = json.dumps([TESTS, build, sys.version])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perennial"
    home = cache / f"python-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "python.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A virtual environment cannot be moved: that it is whole, a file in it says.
        if not (home / "whole").exists():
            shutil.rmtree(home, ignore_errors=True)
            stage(home, build)
            (home / "whole").touch()
    return home


def binaries():
    folder = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug"
    for name in ("perenniald", "perennial-worker", "perennial"):
        if not (folder / name).is_file():
            raise TestError(f"{folder / name} is not there: `cargo build --workspace` first (CARGO_TARGET_DIR says where)")
    return folder


def test(home, folder, scratch):
    python, environment = home / "bin/python", {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    build = {**environment, "PYTHONPATH": str(home / "build")}
    pip(python, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", scratch, CLIENT, env=build)
    (wheel,) = scratch.glob("*.whl")
    pip(python, "install", "--no-deps", "--no-index", "--target", scratch / "installed", wheel)
    run(python, "-m", "mypy", "--cache-dir", scratch / "mypy", cwd=CLIENT, env=environment)
    environment |= {"PYTHONPATH": str(scratch / "installed"), "PERENNIAL_BIN": str(folder)}
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:], cwd=CLIENT, env=environment)


def main():
    try:
        if sys.version_info < (3, 11):
            raise TestError(f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}")
        folder = binaries()
        with tempfile.TemporaryDirectory(prefix="perennial-") as scratch:
            test(locate(), folder, Path(scratch))
    except (TestError, OSError) as error:
        sys.exit(f"test_python: {error}")
    except KeyboardInterrupt:
        sys.exit("\ntest_python: interrupted")


if __name__ == "__main__":
    main()
