"""The client: what `perennial` does on the command line, as methods."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from . import v1
from .errors import Patience, PerennialError, Quarantined, Refused, translated
from .labels import Labelled, batches
from .progress import bar
from .rows import payload
from .upload import upload
from .versions import cached, damaged, fetch, parse

OPTIONS = [
    # A server that is gone without a word is missed within half a minute.
    ("grpc.keepalive_time_ms", 10_000), ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000), ("grpc.max_receive_message_length", 16 << 20),
]
# One stream about a run lasts at most this long; the next begins where the run stands.
STREAM_SECONDS = 600.0


@dataclass(frozen=True)
class Chunk:
    """Rows that the server keeps; `labels` counts those that train."""

    id: str
    state: str
    reason: str
    task: str
    train_rows: int
    held_out_rows: int
    labels: dict[str, int]
    already_exists: bool


@dataclass(frozen=True)
class Run:
    """An update as it stood when it was asked for. `version` is 0 unless it was published."""

    client: Client = field(repr=False, compare=False)
    name: str
    number: int
    state: str
    reasons: list[str]
    version: int

    def watch(self, progress: bool | None = None, timeout: float = 86400.0) -> Run:
        """Waits until it is published. Raises Refused where the gate spoke against it, or that it failed."""
        ended = self.client._follow(self, progress, timeout)
        if ended.state == "published":
            return ended
        kind, why = Refused if ended.state == "rejected" else PerennialError, "; ".join(ended.reasons)
        raise kind(ended.state.upper(), f"{self.name} is {ended.state}: {why or 'no reason is given'}")


class Client:
    """A connection to `perenniald`, which threads may share. `timeout` is the longest wait for an answer, in seconds."""

    def __init__(
        self, server: str = "127.0.0.1:7420", namespace: str = "default", timeout: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.namespace, self.timeout, self._sleep = namespace, timeout, sleep
        self._channel = grpc.insecure_channel(server.removeprefix("http://").rstrip("/"), OPTIONS)
        self._ingest, self._chunks = v1.IngestServiceStub(self._channel), v1.ChunkServiceStub(self._channel)
        self._runs, self._registry = v1.RunServiceStub(self._channel), v1.RegistryServiceStub(self._channel)
        self._pipelines = v1.PipelineServiceStub(self._channel)
        self._producers: dict[tuple[str, str], v1.Producer] = {}
        self._numbering = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def apply(self, spec: Mapping[str, Any]) -> None:
        """Registers a pipeline, or changes it; `spec` is what a pipeline file holds."""
        spec_json = json.dumps({"namespace": self.namespace, **spec}).encode()
        self._ask(self._pipelines.ApplyPipeline, v1.ApplyPipelineRequest(spec_json=spec_json))

    def push(
        self, pipeline: str, rows: Any, *, task: str | None = None, split: str = "auto",
        input_column: str | None = None, label_column: str | None = None, format: str | None = None,
        producer: str | None = None, sequence: int | None = None, wait: bool = True, progress: bool | None = None,
    ) -> Chunk:
        """Sends a file, a DataFrame, a pyarrow Table or a Dataset. When it returns, the rows are durable and checked.

        Raises Quarantined where they will not train. Without `wait` it returns as soon as they are durable: their chunk is
        `received`, and no run takes it before they are checked. The pushes of a `producer` are numbered.
        """
        with payload(rows) as path, self._numbering if producer else contextlib.nullcontext():
            kind, size = f"FORMAT_{format or path.suffix.removeprefix('.')}".upper(), path.stat().st_size
            header = v1.ChunkHeader(
                pipeline=self._name(pipeline), task=task, split=f"SPLIT_{split}".upper(),
                # Of other endings the server looks into the file.
                format=kind if format or kind in v1.Format.keys() else None,
                input_column=input_column, label_column=label_column, wait=wait,
            )
            opened = self._open(header.pipeline, producer) if producer else v1.Producer()
            if producer or sequence:
                origin = v1.Origin(producer=producer, epoch=opened.epoch, sequence=sequence or opened.next_sequence)
                header.origin.CopyFrom(origin)
            with bar(path.name, size, progress, unit="B", unit_scale=True) as drawn:
                pushed = upload(self._ingest, header, path, self._patience(size), drawn)
            opened.next_sequence = max(opened.next_sequence, header.origin.sequence + 1)
        wire, name = pushed.chunk, pushed.chunk.name.rpartition("/")[2]
        if wire.state == "quarantined":
            raise Quarantined("QUARANTINED", f"chunk {name} is quarantined: {wire.reason}")
        of_rows = wire.train_rows, wire.held_out_rows, dict(wire.labels)
        return Chunk(name, wire.state, wire.reason, wire.task, *of_rows, pushed.already_exists)

    def labels(self, pipeline: str, labels: Any, *, chunk: str | None = None) -> Labelled:
        """Says what rows are that came without a label, or with another one: `{row_id: label}`, or a table of both.

        Durable when it returns, and safe to repeat. `chunk` is the one that holds the rows; else it is looked for.
        """
        done = Labelled()
        for part in batches(labels):
            request = v1.PushLabelsRequest(pipeline=self._name(pipeline), labels=part, chunk=chunk)
            done.add(self._patience(0).until_answered(partial(self._ask, self._chunks.PushLabels, request)))
        return done

    def run(self, pipeline: str, chunks: Iterable[str] = ()) -> Run:
        """Starts an update from every chunk that waits, or from those named."""
        request = v1.StartRunRequest(pipeline=self._name(pipeline), chunks=chunks)
        return self._run(self._ask(self._runs.StartRun, request).run)

    def get_run(self, pipeline: str, number: int) -> Run:
        """A run that was started before, as it stands now."""
        request = v1.GetRunRequest(name=f"{self._name(pipeline)}/runs/{number}")
        return self._run(self._ask(self._runs.GetRun, request).run)

    def pull(self, reference: str, folder: str | os.PathLike[str] | None = None) -> Path:
        """The folder of a version such as `tickets@champion` or `tickets/3`, whole and verified; by default, in a cache."""
        pipeline, which = parse(reference)
        request = v1.GetVersionRequest(name=f"{self._name(pipeline)}/versions/{which}")
        version = self._ask(self._registry.GetVersion, request).version
        target = Path(folder) if folder else cached(version)
        if name := damaged(target, version):
            if folder and target.is_dir() and any(target.iterdir()):
                raise PerennialError("FAILED_PRECONDITION", f"`{target}` is not empty, and has no whole `{name}`: name a new folder")
            patience = self._patience(sum(file.bytes for file in version.files))

            def attempt() -> None:
                # By number: an alias may have moved meanwhile.
                numbered = v1.PullVersionRequest(name=version.name)
                fetch(self._registry.PullVersion(numbered, timeout=patience.left()), target, version)

            patience.until_answered(attempt)
        return target

    def _follow(self, run: Run, progress: bool | None, timeout: float) -> Run:
        """The run once it has ended, whatever its end."""
        request, patience = v1.WatchRunRequest(name=run.name), Patience(timeout, self._sleep)

        def attempt() -> Run:
            # A run may look the same for hours: silence on an open stream is no absence.
            for update in self._runs.WatchRun(request, timeout=min(STREAM_SECONDS, patience.left())):
                patience.renew()
                drawn.update(update.run.progress.progress_percentage - drawn.n)
                if update.run.ended_at_ms:
                    return self._run(update.run)
            raise PerennialError("UNAVAILABLE", f"the server left before {run.name} ended", transient=True)

        with bar(f"run {run.number}", 100, progress) as drawn:
            ended: Run = patience.until_answered(attempt)
            return ended

    def _open(self, pipeline: str, producer: str) -> v1.Producer:
        """Once: whoever opens a producer shuts out who opened it before."""
        if (pipeline, producer) not in self._producers:
            request = v1.OpenProducerRequest(pipeline=pipeline, producer=producer)
            self._producers[pipeline, producer] = self._ask(self._chunks.OpenProducer, request).producer
        return self._producers[pipeline, producer]

    def _patience(self, size: int) -> Patience:
        """Ten minutes for what the server does besides, and 1 MiB/s."""
        return Patience(max(self.timeout, 600 + (size >> 20)), self._sleep)

    def _ask(self, method: Any, request: Any) -> Any:
        with translated():
            return method(request, timeout=self.timeout)

    def _name(self, pipeline: str) -> str:
        return f"namespaces/{self.namespace}/pipelines/{pipeline}"

    def _run(self, wire: v1.Run) -> Run:
        return Run(self, wire.name, wire.number, wire.state, list(wire.reasons), wire.version)
