"""Rows as a file: one that lies there already, or a table written as Parquet."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def payload(rows: Any) -> Iterator[Path]:
    """A table's file lasts as long as the context does."""
    if isinstance(rows, (str, os.PathLike)):
        yield Path(rows)
        return
    from pyarrow import parquet

    with tempfile.TemporaryDirectory(prefix="perennial-") as folder:
        path = Path(folder, "table.parquet")
        # Without what pandas and datasets note there: equal rows are equal bytes, hence one chunk.
        parquet.write_table(table(rows).replace_schema_metadata(None), path)
        yield path


def table(rows: Any) -> Any:
    import pyarrow

    if hasattr(rows, "iloc"):
        return pyarrow.Table.from_pandas(rows, preserve_index=False)
    return _of_dataset(rows) if hasattr(rows, "with_format") else pyarrow.table(rows)


def _of_dataset(rows: Any) -> Any:
    """Images that lie in files of their own come along as bytes, and labels by name."""
    import pyarrow
    from datasets import ClassLabel
    from datasets.table import embed_table_storage

    whole = embed_table_storage(rows.with_format("arrow")[:])
    for index, (column, feature) in enumerate(rows.features.items()):
        if isinstance(feature, ClassLabel):
            # -1, which stands for no label, has no name.
            names = dict(enumerate(feature.names))
            labels = [names.get(number) for number in whole[column].to_pylist()]
            whole = whole.set_column(index, column, pyarrow.array(labels, pyarrow.string()))
    return whole
