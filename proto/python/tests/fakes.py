"""What the daemon answers, as far as the client can tell."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import grpc
from perennial import v1

MANIFEST = "perennial_manifest.json"


class Daemon(v1.IngestServiceServicer, v1.ChunkServiceServicer, v1.RunServiceServicer, v1.RegistryServiceServicer):
    """Keeps the payloads that say how long they are. What it is to do wrong is put into `breaks` and the like."""

    def __init__(self):
        self.kept, self.frames, self.headers, self.opened = {}, [], [], []
        # Of each push, after how many bytes of the payload it breaks, and how; then none does.
        self.breaks, self.how = [], (grpc.StatusCode.UNAVAILABLE, "the server restarts")
        self.chunk = v1.Chunk(name="namespaces/default/pipelines/tickets/chunks/ab12", state="sealed", train_rows=2)
        # Of each stream, the states it tells.
        self.streams, self.reasons = [], []
        self.files, self.sent, self.pulls = {}, None, []
        self.server, self.port = None, 0
        self.start()

    def start(self):
        """Where it was before, if it was."""
        self.server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        v1.add_IngestServiceServicer_to_server(self, self.server)
        v1.add_ChunkServiceServicer_to_server(self, self.server)
        v1.add_RunServiceServicer_to_server(self, self.server)
        v1.add_RegistryServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        self.server.start()

    def stop(self):
        self.server.stop(None).wait(10)

    def payload(self, header):
        return bytes(self.kept[header.sha256])

    def QueryUpload(self, request, context):
        return v1.QueryUploadResponse(durable_bytes=len(self.kept.get(request.sha256, b"")))

    def PushChunk(self, requests, context):
        header = next(requests).header
        self.headers.append(header)
        kept = self.kept.setdefault(header.sha256, bytearray())
        assert header.offset == (len(kept) if header.total_bytes else 0)
        del kept[header.offset:]
        breaks = self.breaks.pop(0) if self.breaks else None
        for request in requests:
            self.frames.append(len(request.frame))
            kept += request.frame
            if breaks is not None and len(kept) >= breaks:
                self.fail(context)
        if hashlib.sha256(kept).hexdigest() != header.sha256:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the payload changed on its way")
        return v1.PushChunkResponse(chunk=self.chunk, already_exists=len(self.headers) > 1)

    def fail(self, context):
        context.abort(*self.how)

    def OpenProducer(self, request, context):
        self.opened.append(request.producer)
        return v1.OpenProducerResponse(producer=v1.Producer(name=request.producer, epoch=3, next_sequence=5))

    def run(self, state):
        ended = state in ("published", "rejected", "failed", "cancelled")
        name = "namespaces/default/pipelines/tickets/runs/7"
        return v1.Run(name=name, number=7, state=state, reasons=self.reasons, ended_at_ms=int(ended), version=int(ended))

    def StartRun(self, request, context):
        return v1.StartRunResponse(run=self.run("queued"))

    def GetRun(self, request, context):
        return v1.GetRunResponse(run=self.run("training"))

    def WatchRun(self, request, context):
        states = self.streams.pop(0) if self.streams else []
        for state in states:
            yield v1.WatchRunResponse(run=self.run(state))
        if not states:
            self.fail(context)

    def version(self):
        files = [v1.File(path=f"adapters/{path}", sha256=digest(text), bytes=len(text)) for path, text in self.files.items()]
        return v1.Version(name="namespaces/default/pipelines/tickets/versions/3", number=3, files=files)

    def GetVersion(self, request, context):
        self.pulls.append(request.name)
        return v1.GetVersionResponse(version=self.version())

    def PullVersion(self, request, context):
        self.pulls.append(request.name)
        for path, text in (self.files if self.sent is None else self.sent).items():
            yield v1.PullVersionResponse(file=v1.File(path=path))
            for byte in text:
                yield v1.PullVersionResponse(frame=bytes([byte]))
            if self.breaks:
                self.breaks.pop()
                self.fail(context)


def digest(text):
    return hashlib.sha256(text).hexdigest()
