"""Client of Perennial, a daemon for continual learning: push rows, start updates, pull versions."""

from .client import Chunk, Client, Run
from .errors import PerennialError, Quarantined, Refused
from .labels import Labelled

__all__ = ["Chunk", "Client", "Labelled", "PerennialError", "Quarantined", "Refused", "Run"]
