"""A bar on stderr, if tqdm is installed."""

import contextlib
from types import SimpleNamespace
from typing import Any


def bar(what: str, total: int, shown: bool | None, **style: Any) -> Any:
    """`shown` None: on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        return contextlib.nullcontext(SimpleNamespace(n=0, update=lambda by: None))
    return tqdm(desc=what, total=total, leave=False, disable=None if shown is None else not shown, **style)
