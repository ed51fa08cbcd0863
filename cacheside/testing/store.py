"""The store in front of which the decorated functions of the conformance suite stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .bench import Bench


class NotFound(Exception):
    """What a store raises; some functions have it cached."""


class Store:
    """A store of numbers, which counts its reads; every number that was never written is 0."""

    def __init__(self) -> None:
        self.rows: dict[Any, Any] = {}
        self.reads: int = 0

    def read(self, row: Any) -> Any:
        """The row."""
        self.reads += 1
        return self.rows.get(row, 0)

    def write(self, row: Any, value: Any) -> Any:
        """Change the row; returns something that has its number in it."""
        self.rows[row] = value
        return {"row": row}

    def write_and_return(self, row: Any, value: Any) -> Any:
        """Change the row; returns it as it is now, as `read` would."""
        self.rows[row] = value
        return value

    def write_and_fail(self, row: Any, value: Any) -> None:
        """Change the row, and raise."""
        self.rows[row] = value
        raise NotFound(row)

    def fail(self, row: Any) -> None:
        """Find nothing, which is a read as well."""
        self.reads += 1
        raise NotFound(row)


def raises(bench: Bench, fn: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """The args of the `NotFound` that a call has to raise."""
    try:
        result = bench.call(fn, *args)
    except NotFound as error:
        return error.args
    raise AssertionError(f"it should have raised, and returned {result!r}")
