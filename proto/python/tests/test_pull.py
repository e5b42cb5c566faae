import perennial
import pytest
from fakes import MANIFEST, digest
from perennial.versions import parse


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/perennial/versions"


@pytest.fixture(autouse=True)
def published(daemon):
    daemon.files = {"adapter_model.safetensors": b"weights", "empty": b"", MANIFEST: b"{}"}


def test_a_version_is_kept_in_the_cache_and_pulled_once(client, daemon, cache):
    folder = client.pull("tickets@champion")
    assert folder == cache / digest(b"{}")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == daemon.files
    assert client.pull("tickets/3") == folder
    name = "namespaces/default/pipelines/tickets/versions"
    # Asked for by number: an alias may move meanwhile.
    assert daemon.pulls == [f"{name}/@champion", f"{name}/3", f"{name}/3"]
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_a_download_that_breaks_begins_anew(client, daemon, cache, pauses):
    daemon.breaks = [0]
    folder = client.pull("tickets@champion")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == daemon.files
    assert len(pauses) == 1 and list(cache.iterdir()) == [folder]


def test_a_folder_of_ones_own_has_to_be_new_or_the_version(client, tmp_path):
    assert client.pull("tickets/3", tmp_path / "new/champion") == tmp_path / "new/champion"
    assert client.pull("tickets/3", str(tmp_path / "new/champion")) == tmp_path / "new/champion"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").touch()
    with pytest.raises(perennial.PerennialError, match="taken` is not empty"):
        client.pull("tickets/3", tmp_path / "taken")


def test_a_cached_version_that_was_damaged_is_pulled_again(client):
    folder = client.pull("tickets/3")
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    assert client.pull("tickets/3") == folder
    assert (folder / "adapter_model.safetensors").read_bytes() != b"damaged"


@pytest.mark.parametrize(
    "sent",
    [
        {"adapter_model.safetensors": b"weighty", "empty": b"", MANIFEST: b"{}"},
        {"adapter_model.safetensors": b"weights", "empty": b""},
        {"empty": b"", MANIFEST: b"{}"},
        {},
        {"../escaped": b"x", MANIFEST: b"{}"},
        {"/escaped": b"x", MANIFEST: b"{}"},
        {"a/../../escaped": b"x", MANIFEST: b"{}"},
        {"": b"x", MANIFEST: b"{}"},
    ],
)
def test_what_is_damaged_cut_short_or_beside_its_folder_leaves_nothing(client, daemon, cache, tmp_path, sent):
    daemon.sent = sent
    with pytest.raises(perennial.PerennialError) as raised:
        client.pull("tickets@champion")
    assert raised.value.code == "DATA_LOSS" and list(cache.iterdir()) == []
    assert not list(tmp_path.rglob("escaped"))


def test_whoever_was_faster_is_believed_if_it_is_the_same(client, daemon, cache):
    """As when each rank of a job pulls."""
    pull = daemon.PullVersion

    def slow(request, context):
        folder = cache / digest(b"{}")
        folder.mkdir(parents=True)
        for path, text in daemon.files.items():
            (folder / path).write_bytes(text)
        yield from pull(request, context)

    daemon.server.stop(None).wait(10)
    daemon.PullVersion = slow
    daemon.start()
    assert client.pull("tickets@champion") == cache / digest(b"{}")
    assert len(list(cache.iterdir())) == 1


def test_a_digest_is_no_path(client, daemon, monkeypatch):
    version = daemon.version()
    version.files[-1].sha256 = "../../x"
    monkeypatch.setattr(daemon, "version", lambda: version)
    with pytest.raises(perennial.PerennialError, match="no manifest"):
        client.pull("tickets@champion")


def test_references_are_those_of_the_command_line():
    for given in ("tickets/3", "tickets/v3", "models:/tickets/3"):
        assert parse(given) == ("tickets", "3")
    assert parse("models:/tickets@champion") == parse("tickets@champion") == ("tickets", "@champion")
    for wrong in ("tickets", "tickets/0", "tickets/champion", "tickets/1/x", "@champion", "tickets@v3"):
        with pytest.raises(ValueError, match="PIPELINE@champion"):
            parse(wrong)
