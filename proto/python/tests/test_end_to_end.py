"""The client with the daemon itself, its worker and the command line."""

import base64
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import datasets
import grpc
import pandas
import perennial
import pytest

BIN = os.environ.get("PERENNIAL_BIN")
# Nothing here takes longer.
DEADLINE = 240
PIPELINE = {
    "name": "glyphs",
    "model": "mlp:32",
    "labels": ["ring", "triangle", "square", "cross", "star", "arrow", "spiral", "zigzag", "ladder", "fork"],
    "method": "er",
    "rehearsal": {"memory_size": 200},
    "training": {"epochs": 2, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.2},
    "evaluation": {"held_out_fraction": 0.2},
    "seed": 7,
}

pytestmark = pytest.mark.skipif(not BIN, reason="PERENNIAL_BIN does not name the folder of perenniald")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_serving(address, daemon, log):
    end = time.monotonic() + DEADLINE
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        while daemon.poll() is None and time.monotonic() < end:
            try:
                return check(b"", timeout=1, wait_for_ready=True)
            except grpc.RpcError:
                pass
    pytest.fail(f"perenniald does not serve: {log.read_text()}")


@pytest.fixture
def address(tmp_path):
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "log.jsonl"
    command = [Path(BIN, "perenniald"), "--role", "all", "--die-with-parent", "--listen", address]
    command += ["--store", tmp_path / "store"]
    for setting in ("recovery_budget=3s", "worker.slots=2", f"worker.cache={tmp_path / 'cache'}"):
        command += ["--set", setting]
    with log.open("w") as errors:
        daemon = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
    with daemon:
        try:
            wait_until_serving(address, daemon, log)
            yield address
        finally:
            daemon.kill()


@pytest.fixture
def plain(tmp_path):
    sample = [Path(BIN, "perennial"), "sample", tmp_path / "plain.jsonl", "--rows", "300"]
    subprocess.run(sample, check=True, timeout=DEADLINE)
    return tmp_path / "plain.jsonl"


def frame(path):
    rows = pandas.read_json(path, lines=True)
    return rows.assign(image=rows["image"].map(base64.b64decode))


def dataset(path):
    rows = datasets.Dataset.from_pandas(frame(path)).cast_column("image", datasets.Image())
    return rows.cast_column("label", datasets.ClassLabel(names=sorted(PIPELINE["labels"])))


def test_rows_become_a_version_on_disk(address, plain, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "client"))
    # As larger files are.
    monkeypatch.setattr("perennial.upload.RESUMABLE", 0)
    with perennial.Client(address) as client:
        client.apply(PIPELINE)
        lines = client.push("glyphs", plain, task="plain", producer="kiosk")
        assert (lines.state, lines.train_rows + lines.held_out_rows, lines.already_exists) == ("sealed", 300, False)
        assert client.push("glyphs", plain, task="plain", producer="kiosk", sequence=1).already_exists
        for rows in (frame(plain), dataset(plain)):
            table = client.push("glyphs", rows, task="plain", producer="kiosk")
            assert (table.state, table.labels, table.already_exists) == ("sealed", lines.labels, False)

        with pytest.raises(perennial.Quarantined, match="`rign`.*did you mean `ring`"):
            client.push("glyphs", frame(plain).replace({"label": {"ring": "rign"}}))
        with pytest.raises(perennial.PerennialError, match="unknown") as raised:
            client.push("unknown", plain)
        assert raised.value.code == "NOT_FOUND"

        run = client.run("glyphs")
        ended = run.watch(timeout=DEADLINE)
        assert (ended.state, ended.version) == ("published", 1) == (client.get_run("glyphs", run.number).state, 1)
        with pytest.raises(perennial.PerennialError) as raised:
            client.run("glyphs")
        assert raised.value.code == "FAILED_PRECONDITION"

        folder = client.pull("glyphs@champion")
        assert folder == client.pull("glyphs/1")
        manifest = json.loads((folder / "perennial_manifest.json").read_text())
        assert manifest and {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
        predict = [Path(BIN, "perennial"), "--server", f"http://{address}", "predict", "glyphs@champion", "--input", plain]
        subprocess.run(predict, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE)
        # The command line found it in the cache.
        assert list(folder.parent.iterdir()) == [folder]


def test_labels_come_after_their_rows(address):
    spec = {**PIPELINE, "name": "late", "labels": ["bug", "praise"], "data": {"late_labels": {"coverage": 0.75}}}
    rows = pandas.DataFrame({"row_id": [f"t{i}" for i in range(8)], "text": [f"ticket {i}" for i in range(8)]})
    with perennial.Client(address) as client:
        client.apply(spec)
        chunk = client.push("late", rows.assign(subject="anna"), split="train")
        assert (chunk.state, chunk.train_rows) == ("labelling", 0)
        done = client.labels("late", {"t0": "bug", "t1": "praise", "nobody": "bug"})
        assert (done.labelled, done.unknown, done.unknown_rows) == (2, 1, ["nobody"])
        frame = pandas.DataFrame({"row_id": rows["row_id"][:6], "label": ["bug", "bug", *["praise"] * 4]})
        done = client.labels("late", frame, chunk=chunk.id)
        assert (done.labelled, done.changed, done.unchanged, done.unknown) == (4, 1, 1, 0)
        assert client.labels("late", frame).unchanged == 6
        assert client.push("late", rows.assign(subject="anna"), split="train").state == "sealed"
        with pytest.raises(perennial.PerennialError, match="did you mean `praise`"):
            client.labels("late", {"t7": "prase"})
