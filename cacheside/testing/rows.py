"""The store in front of which the batches of the conformance suite stand, and what the tests of batches share."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ..cache import Cache
from .bench import Bench
from .store import NotFound


class Rows:
    """A store of rows, which notes how it was read. What it does not hold it leaves out; one by one it is None."""

    def __init__(self, *items: Any) -> None:
        self.rows: dict[Any, Any] = {item: f"row {item}" for item in items}
        self.calls: list[list[Any]] = []
        """The items of each call for many."""
        self.singles: list[Any] = []
        """The items of the calls for one."""

    def read(self, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """All of `rows` that there are."""
        self.calls.append(list(rows))
        return {row: self.rows[row] for row in rows if row in self.rows}

    def read_of(self, org: int, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """The same, of one of several."""
        return self.read(rows)

    def one(self, row: Any) -> Any:
        """One row."""
        self.singles.append(row)
        return self.rows.get(row)

    def fail(self, rows: Sequence[Any]) -> Mapping[Any, Any]:
        """Raise, after it was noted."""
        self.calls.append(list(rows))
        raise NotFound(tuple(rows))

    def write(self, row: Any, value: Any) -> None:
        """Change one row."""
        self.rows[row] = value

    def has_calls(self, count: int) -> bool:
        """Whether there were so many calls for many."""
        return len(self.calls) == count

    def expected(self, rows: Sequence[Any]) -> dict[Any, Any]:
        """What a batch has to return."""
        return {row: self.rows[row] for row in rows if row in self.rows}


def drop(bench: Bench, cache: Cache, *keys: str, tags: Sequence[str] = ()) -> None:
    """`cache.invalidate`, in the colour of the bench."""
    verb = cache.invalidate if bench.colour == "sync" else cache.ainvalidate
    bench.call(functools.partial(verb, *keys, tags=tags))
