"""What goes wrong, in words: nobody needs gRPC to catch it. And asking again while a server is away."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

# Seconds before each further attempt; some 20 together, in which a server restarts or another takes over.
PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0)


class PerennialError(Exception):
    """`code` is gRPC's, such as NOT_FOUND, and `message` the server's own. If it is `transient`, asking again may do."""

    def __init__(self, code: str, message: str, transient: bool = False) -> None:
        super().__init__(code, message, transient)
        self.code, self.message, self.transient = code, message, transient

    def __str__(self) -> str:
        return self.message


class Quarantined(PerennialError):
    """The rows were kept, and will not train."""


class Refused(PerennialError):
    """The gate did not let a run's candidate become a version."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """gRPC's errors as ours."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name
        # The latter: the parts of an upload are gone, as after another client pushed the same.
        again = code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
        transient = again or "UPLOAD_OFFSET" in str(error.trailing_metadata())
        raise PerennialError(code, error.details() or code, transient) from error


class Patience:
    """One deadline for everything, and pauses that begin anew when something got on."""

    def __init__(self, seconds: float, sleep: Callable[[float], None]) -> None:
        self._deadline, self._sleep = time.monotonic() + seconds, sleep
        self.renew()

    def renew(self) -> None:
        self._pauses = iter(PAUSES)

    def left(self) -> float:
        return self._deadline - time.monotonic()

    def until_answered(self, attempt: Callable[[], Any]) -> Any:
        while True:
            try:
                with translated():
                    return attempt()
            except PerennialError as error:
                pause = next(self._pauses, None)
                if not error.transient or pause is None or pause > self.left():
                    raise
            self._sleep(pause)
