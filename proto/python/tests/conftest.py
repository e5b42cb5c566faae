import perennial
import pytest
from fakes import Daemon


@pytest.fixture
def daemon():
    daemon = Daemon()
    yield daemon
    daemon.stop()


@pytest.fixture
def pauses():
    """The seconds that the client paused, or would have."""
    return []


@pytest.fixture
def client(daemon, pauses):
    with perennial.Client(f"http://127.0.0.1:{daemon.port}", timeout=20, sleep=pauses.append) as client:
        yield client
