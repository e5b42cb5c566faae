"""A file on its way to the server: in frames, and gone on with where it broke."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import v1
from .errors import Patience

FRAME_BYTES = 128 << 10
# The server keeps what arrives of larger files; smaller ones are sent again from their beginning.
RESUMABLE = 16 << 20


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def upload(ingest: Any, header: v1.ChunkHeader, path: Path, patience: Patience, drawn: Any) -> Any:
    """Repeats itself even after an answer that was lost: equal content is one chunk."""
    header.sha256, size = digest(path), path.stat().st_size
    header.total_bytes = size if size > RESUMABLE else 0
    query = v1.QueryUploadRequest(pipeline=header.pipeline, sha256=header.sha256)

    def attempt() -> Any:
        if header.total_bytes:
            durable = ingest.QueryUpload(query, timeout=patience.left()).durable_bytes
            if durable > header.offset:
                patience.renew()
            header.offset = durable
        return ingest.PushChunk(_parts(header, path, drawn), timeout=patience.left())

    return patience.until_answered(attempt)


def _parts(header: v1.ChunkHeader, path: Path, drawn: Any) -> Iterator[v1.PushChunkRequest]:
    # Opened here: gRPC reads in a thread of its own, which may outlive the call.
    with path.open("rb") as file:
        file.seek(header.offset)
        yield v1.PushChunkRequest(header=header)
        while frame := file.read(FRAME_BYTES):
            yield v1.PushChunkRequest(frame=frame)
            drawn.update(file.tell() - drawn.n)
