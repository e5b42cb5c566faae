import grpc
import perennial
import pytest
from perennial import v1
from perennial.errors import PAUSES

MEBIBYTE = 1 << 20


@pytest.fixture
def file(tmp_path):
    """Three mebibytes that can be told apart."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(3 * MEBIBYTE // 4)) + b"end")
    return path


@pytest.fixture
def resumable(monkeypatch):
    monkeypatch.setattr("perennial.upload.RESUMABLE", MEBIBYTE)


def test_a_file_travels_as_it_lies(client, daemon, file):
    chunk = client.push("tickets", file, task="june", split="held_out", input_column="body", label_column="topic")
    (header,) = daemon.headers
    assert daemon.payload(header) == file.read_bytes() and max(daemon.frames) <= 256 << 10
    assert (header.pipeline, header.task) == ("namespaces/default/pipelines/tickets", "june")
    assert (header.split, header.format) == (v1.SPLIT_HELD_OUT, v1.FORMAT_JSONL)
    assert (header.input_column, header.label_column, header.total_bytes) == ("body", "topic", 0)
    assert not header.HasField("origin")
    assert (chunk.id, chunk.state, chunk.train_rows, chunk.already_exists) == ("ab12", "sealed", 2, False)


def test_the_server_looks_into_files_of_other_endings(client, daemon, tmp_path):
    (tmp_path / "rows.txt").write_text("{}")
    client.push("tickets", str(tmp_path / "rows.txt"))
    client.push("tickets", str(tmp_path / "rows.txt"), format="csv")
    assert [header.format for header in daemon.headers] == [v1.FORMAT_UNSPECIFIED, v1.FORMAT_CSV]
    for key, wrong in {"format": "xls", "split": "test"}.items():
        with pytest.raises(ValueError, match=wrong.upper()):
            client.push("tickets", str(tmp_path / "rows.txt"), **{key: wrong})


def test_a_push_goes_on_where_it_broke(client, daemon, file, pauses, resumable):
    daemon.breaks = [MEBIBYTE, 2 * MEBIBYTE]
    client.push("tickets", file)
    assert [header.offset for header in daemon.headers] == [0, MEBIBYTE, 2 * MEBIBYTE]
    assert {header.total_bytes for header in daemon.headers} == {file.stat().st_size}
    assert daemon.payload(daemon.headers[0]) == file.read_bytes() and sum(daemon.frames) == file.stat().st_size
    # Each time something got on.
    assert pauses == [PAUSES[0]] * 2


def test_a_push_goes_on_where_another_process_was_killed(client, daemon, file, pauses, resumable):
    daemon.breaks, daemon.how = [MEBIBYTE], (grpc.StatusCode.INTERNAL, "as good as a kill")
    with pytest.raises(perennial.PerennialError):
        client.push("tickets", file)
    with perennial.Client(f"127.0.0.1:{daemon.port}") as second:
        second.push("tickets", file)
    assert [header.offset for header in daemon.headers] == [0, MEBIBYTE] and pauses == []


def test_a_small_push_begins_anew(client, daemon, file, pauses):
    daemon.breaks = [MEBIBYTE]
    assert client.push("tickets", file).already_exists
    assert [header.offset for header in daemon.headers] == [0, 0] and pauses == [PAUSES[0]]


def test_a_push_outlasts_a_server_that_restarts(daemon, file, resumable):
    """It is stopped in the midst of the stream, and is there again after the second pause."""
    paused = []

    def sleep(seconds):
        paused.append(seconds)
        if len(paused) == 2:
            daemon.start()
            # gRPC connects again at a pace of its own.
            grpc.channel_ready_future(client._channel).result(20)

    daemon.breaks, daemon.fail = [MEBIBYTE], lambda context: daemon.server.stop(None)
    with perennial.Client(f"127.0.0.1:{daemon.port}", sleep=sleep) as client:
        client.push("tickets", file)
    assert len(paused) >= 2 and daemon.headers[-1].offset >= MEBIBYTE
    assert daemon.payload(daemon.headers[0]) == file.read_bytes()


def test_a_server_that_stays_away_is_given_up(client, daemon, file, pauses):
    daemon.stop()
    with pytest.raises(perennial.PerennialError) as raised:
        client.push("tickets", file)
    assert raised.value.code == "UNAVAILABLE" and tuple(pauses) == PAUSES


def test_a_push_has_a_deadline(client, daemon, file, pauses, monkeypatch):
    daemon.breaks = [MEBIBYTE] * 3
    monkeypatch.setattr("perennial.errors.PAUSES", (0.0, 7000.0))
    with pytest.raises(perennial.PerennialError, match="the server restarts"):
        client.push("tickets", file)
    assert pauses == [0.0]


def test_what_was_wrong_is_not_sent_again(client, daemon, file, pauses):
    daemon.breaks, daemon.how = [0], (grpc.StatusCode.INVALID_ARGUMENT, "row 3: no `label`")
    with pytest.raises(perennial.PerennialError) as raised:
        client.push("tickets", file)
    assert (raised.value.code, str(raised.value)) == ("INVALID_ARGUMENT", "row 3: no `label`")
    assert len(daemon.headers) == 1 and pauses == []


def test_an_upload_whose_parts_are_gone_begins_anew(client, daemon, file, resumable):
    def fail(context):
        daemon.kept.clear()
        context.set_trailing_metadata([("grpc-status-details-bin", b"\n\rUPLOAD_OFFSET\x12\x0cperennial.ai")])
        context.abort(grpc.StatusCode.ABORTED, "0 bytes of the payload are durable")

    daemon.breaks, daemon.fail = [MEBIBYTE, MEBIBYTE], fail
    client.push("tickets", file)
    assert [header.offset for header in daemon.headers] == [0, 0, 0]


def test_quarantine_is_an_error_that_says_why(client, daemon, file):
    daemon.chunk.state, daemon.chunk.reason = "quarantined", "row 3 has label `rign`"
    with pytest.raises(perennial.Quarantined, match="chunk ab12 is quarantined: row 3 has label `rign`"):
        client.push("tickets", file)


def test_a_producer_is_opened_once_and_counts_on(client, daemon, file):
    daemon.breaks = [MEBIBYTE]
    for sequence in (None, None, 5, None):
        client.push("tickets", file, producer="kiosk", sequence=sequence)
    assert daemon.opened == ["kiosk"]
    assert {(header.origin.producer, header.origin.epoch) for header in daemon.headers} == {("kiosk", 3)}
    # The first broke and was repeated; the fourth is the first once more.
    assert [header.origin.sequence for header in daemon.headers] == [5, 5, 6, 5, 7]


def test_a_number_whose_push_failed_is_not_used_up(client, daemon, file):
    daemon.breaks, daemon.how = [0], (grpc.StatusCode.INVALID_ARGUMENT, "no")
    with pytest.raises(perennial.PerennialError):
        client.push("tickets", file, producer="kiosk")
    client.push("tickets", file, producer="kiosk")
    assert [header.origin.sequence for header in daemon.headers] == [5, 5]


def test_a_number_without_a_producer_is_left_to_the_server_to_refuse(client, daemon, file):
    client.push("tickets", file, sequence=2)
    assert (daemon.headers[0].origin.producer, daemon.headers[0].origin.sequence) == ("", 2)
