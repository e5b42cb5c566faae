"""Published versions as folders: all of one, verified, or nothing."""

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from . import v1
from .errors import PerennialError
from .upload import digest


def parse(reference: str) -> tuple[str, str]:
    """The pipeline, and the version as resource names have it: `3` or `@champion`."""
    found = re.fullmatch(r"(?:models:/)?([^/@]+)(?:(@[a-z]+)|/v?([1-9][0-9]*))", reference)
    if not found:
        raise ValueError(f"`{reference}` names no version: write PIPELINE/3 or PIPELINE@champion")
    return found[1], found[2] or found[3]


def cached(version: v1.Version) -> Path:
    """Where the command line keeps it too: by the digest of its manifest, which names every other file by digest."""
    manifest = next((file.sha256 for file in version.files if file.path.endswith("perennial_manifest.json")), "")
    if not re.fullmatch("[0-9a-f]{64}", manifest):
        raise PerennialError("DATA_LOSS", f"`{version.name}` has no manifest")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "perennial", "versions", manifest)


def damaged(folder: Path, version: v1.Version) -> str | None:
    """The first of the version's files that is not in the folder, or not as it was published."""
    files = {folder / PurePosixPath(file.path).name: file.sha256 for file in version.files}
    return next((path.name for path, sha256 in files.items() if not path.is_file() or digest(path) != sha256), None)


def fetch(parts: Iterable[v1.PullVersionResponse], folder: Path, version: v1.Version) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, hence on the same file system: a rename has to do.
    with tempfile.TemporaryDirectory(prefix=".perennial-pull-", dir=folder.parent) as staged:
        whole = Path(staged, "version").resolve()
        whole.mkdir()
        _receive(parts, whole)
        if name := damaged(whole, version):
            raise PerennialError("DATA_LOSS", f"`{name}` of {version.name} arrived damaged, or not at all")
        try:
            if folder.is_dir() and damaged(folder, version):
                folder.replace(Path(staged, "damaged"))
            whole.replace(folder)
        except OSError:
            # Somebody else may have put it there meanwhile.
            if damaged(folder, version):
                raise


def _receive(parts: Iterable[v1.PullVersionResponse], folder: Path) -> None:
    path = folder
    for part in parts:
        if part.HasField("file"):
            path = (folder / part.file.path).resolve()
            if folder not in path.parents:
                raise PerennialError("DATA_LOSS", f"the server sent a file named `{part.file.path}`: refused")
        with path.open("ab") as file:
            file.write(part.frame)
