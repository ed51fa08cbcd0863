"""What a memory backend keeps: an entry for each key, and rows, by which decorated functions find it without a lock.

A *row* is one function's way to one entry: it stands in a table of that function under the raw arguments of a call, and
a hit reads it there (see `hitpath.py`). It is made only for an entry that is in the cache, and dies with it, both under
the lock of the backend. So whoever finds a row that is not past its deadline has found what the cache holds at that
very moment: an invalidation has not returned before all rows of the entry are dead.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Any

from .rawkeys import in_parts

DEAD = float("-inf")
HOTTEST = 3
"""Hits beyond these make an entry no hotter (Yang et al., "FIFO queues are all you need for cache eviction", 2023)."""


class Table:
    """The rows of one function on one memory backend. Changed under that backend's lock only.

    Args:
        records: whether keys are made from the fields of dataclasses, so that these may be taken apart.
    """

    __slots__ = ("__weakref__", "apart", "past", "records", "rows")

    def __init__(self, records: bool = False) -> None:
        self.rows: dict[Hashable, Row] = {}
        self.records: bool = records
        self.apart: bool = False
        """Whether there ever was a row for arguments that had been taken apart."""
        self.past: float = 0.0

    def find(self, values: tuple[Any, ...]) -> Row | None:
        """The row for arguments that have to be taken apart."""
        try:
            raw = in_parts(values, self.records)
        except Exception:  # they refer to themselves, or a field fails: the slow path says what is wrong
            return None
        return None if raw is None else self.rows.get(raw)

    def hits(self) -> int:
        """Hits by all rows that there ever were. Without the lock: the garbage collector may ask, who may have it."""
        while True:
            past = self.past
            hits = past + sum([row.hits for row in list(self.rows.values())])
            if past == self.past:  # else hits were on their way from a row that died to those of the past
                return int(hits)

    def empty(self) -> None:
        """Have no rows, and no entry reached by them, whatever state it is in: for a child after a fork."""
        for row in list(self.rows.values()):
            row.deadline = DEAD
            self.past += row.hits
            row.hits = 0.0
        self.rows.clear()


class Row:
    """One function's way to an entry.

    Args:
        entry: where it leads to.
        value: what a hit returns.
        table: of the function.
        raw: where in the table it stands.
        types: the exact types of the arguments in `raw`: others can be equal to them, as True is to 1.
        until: when it has to be looked at anew, though the entry may go on.
    """

    __slots__ = ("deadline", "entry", "hits", "raw", "table", "type0", "type1", "type2", "types", "value")

    def __init__(
        self, entry: Entry, value: Any, table: Table, raw: Hashable, types: tuple[type, ...], until: float = inf
    ) -> None:
        self.entry: Entry = entry
        self.value: Any = value
        self.table: Table = table
        self.raw: Hashable = raw
        self.types: tuple[type, ...] = types
        first: tuple[type | None, ...] = (*types, None, None, None)
        self.type0: type | None = first[0]
        self.type1: type | None = first[1]
        self.type2: type | None = first[2]
        self.hits: float = 0.0  # whole numbers, which Python adds to faster than to integers: it need not allocate them
        self.deadline: float = min(entry.deadline, until)

    def die(self) -> None:
        """Nobody finds the entry by this row any more."""
        entry, table = self.entry, self.table
        self.deadline = DEAD  # for those who have found it and not looked at the deadline yet
        # Nobody is between that look and counting the hit: there the interpreter does not switch threads, nor does it
        # within these lines, so that no hit is counted twice, or not at all.
        hits = self.hits
        table.past += hits
        entry.hits += hits
        self.hits = 0.0
        del table.rows[self.raw]
        entry.rows = tuple([row for row in entry.rows if row is not self])


class Entry:
    """What stands under a key.

    Args:
        key: its key.
        stored: what was filled.
        deadline: seconds of the backend's clock at which it expires; inf: never.
        weight: its part of the capacity.
        stale: marked by a writer (`Claiming.mark_stale`). Such an entry never has rows.

    Attributes:
        hits: lookups that found it, but for those by its rows.
        seen: of all hits those that eviction has taken into account.
        before, after: its neighbours in the `Queue` that it stands in.
    """

    __slots__ = ("after", "before", "deadline", "hits", "key", "queue", "rows", "seen", "stale", "stored", "weight")

    def __init__(self, key: str, stored: Any, deadline: float, weight: int, stale: bool = False) -> None:
        self.key: str = key
        self.stored: Any = stored
        self.deadline: float = deadline
        self.weight: int = weight
        self.stale: bool = stale
        self.hits: float = 0.0
        self.seen: float = 0.0
        self.rows: tuple[Row, ...] = ()
        self.queue: Any = None
        self.before: Entry | None = None
        self.after: Entry | None = None

    def heat(self) -> int:
        """Hits since it was last looked at, 3 at most."""
        return int(min(HOTTEST, self.total() - self.seen))

    def cool(self, to: int) -> None:
        """From now on it is as hot as after so many hits."""
        self.seen = self.total() - to

    def attach(self, row: Row) -> None:
        """Have a function find it by `row`, instead of what stands there, and instead of a row that it had before.

        One row for each function and entry: so a table never holds more than the cache does.
        """
        for old in (*self.rows, row.table.rows.get(row.raw)):
            if old is not None and old.table is row.table and old.deadline != DEAD:
                old.die()
        self.rows = (*self.rows, row)
        row.table.rows[row.raw] = row

    def die(self) -> None:
        """It is not in the cache any more."""
        self.deadline = DEAD
        self.stored = None  # for those who hold it still, to see that it is dead (`Deadlines`)
        for row in self.rows:
            row.die()

    def total(self) -> float:
        """All hits that there ever were."""
        return self.hits + sum([row.hits for row in self.rows])
