import grpc
import perennial
import pytest


def test_a_run_is_followed_over_streams_that_end_and_break(client, daemon, pauses):
    run = client.run("tickets", chunks=["ab12"])
    assert (run.number, run.state, run.version) == (7, "queued", 0)
    daemon.streams = [["queued"], [], ["training", "evaluating"], ["publishing", "published"]]
    ended = run.watch()
    assert (ended.state, ended.version, ended.number) == ("published", 1, 7) and len(pauses) == 3
    assert client.get_run("tickets", 7).state == "training"


@pytest.mark.parametrize(
    ("state", "kind"),
    [("rejected", perennial.Refused), ("failed", perennial.PerennialError), ("cancelled", perennial.PerennialError)],
)
def test_any_other_end_is_an_error_that_says_why(client, daemon, state, kind):
    daemon.streams, daemon.reasons = [[state], [state]], ["task `a` fell by 0.3", "b"]
    with pytest.raises(kind, match=f"runs/7 is {state}: task `a` fell by 0.3; b") as raised:
        client.run("tickets").watch()
    assert raised.value.code == state.upper() and type(raised.value) is kind
    daemon.reasons = []
    with pytest.raises(kind, match=f"is {state}: no reason is given"):
        client.get_run("tickets", 7).watch()


def test_watching_has_a_deadline(client, daemon, pauses, monkeypatch):
    monkeypatch.setattr("perennial.errors.PAUSES", (7000.0,))
    daemon.streams = [["training"]]
    with pytest.raises(perennial.PerennialError, match="before .*runs/7 ended"):
        client.run("tickets").watch(timeout=3600)
    assert pauses == []


def test_of_an_unknown_run_nobody_asks_twice(client, daemon, pauses):
    daemon.how = (grpc.StatusCode.NOT_FOUND, "there is no run 7")
    with pytest.raises(perennial.PerennialError, match="there is no run 7"):
        client.run("tickets").watch()
    assert pauses == []
