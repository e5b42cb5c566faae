"""Client of Perennial, a daemon for continual learning: push rows, start updates, pull versions."""

from .client import Chunk, Client, Run
from .errors import PerennialError, Quarantined, Refused

__all__ = ["Chunk", "Client", "PerennialError", "Quarantined", "Refused", "Run"]
