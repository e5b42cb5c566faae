"""Labels on their own: which row is what, in batches that the server takes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from . import v1
from .rows import table

# Labels of one call at most.
BATCH = 10_000


@dataclass
class Labelled:
    """What became of labels. `unknown` counts rows that are in no chunk; `unknown_rows` are the first of them."""

    labelled: int = 0
    changed: int = 0
    unchanged: int = 0
    unknown: int = 0
    unknown_rows: list[str] = field(default_factory=list)

    def add(self, answer: v1.PushLabelsResponse) -> None:
        self.labelled += answer.labelled_rows
        self.changed += answer.changed_rows
        self.unchanged += answer.unchanged_rows
        self.unknown += answer.unknown_count
        self.unknown_rows += answer.unknown_rows


def batches(labels: Any) -> Iterator[list[v1.RowLabel]]:
    """Of a mapping from row id to label, or of a table with the columns `row_id` and `label`."""
    pairs = iter(_pairs(labels))
    while part := list(islice(pairs, BATCH)):
        yield [v1.RowLabel(row_id=str(row), label=str(label)) for row, label in part]


def _pairs(labels: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(labels, Mapping) and set(labels) != {"row_id", "label"}:
        return labels.items()
    columns = table(labels)
    return zip(columns["row_id"].to_pylist(), columns["label"].to_pylist(), strict=True)
