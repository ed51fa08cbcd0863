"""The store of the check: one version for each row, in memory that all processes share."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time

LONGEST_LOAD = 0.005  # seconds from reading a row to returning it
LONGEST_WRITE = 0.002  # seconds from the commit to the return of a write, after which its invalidation is sent


class Store:
    """Rows that are read and written at once, and answer late: what happens in between makes the races.

    It also knows for each row the newest version whose write *has returned*, invalidation and all: the `floor`, which
    no read that begins now may go below. It is exact, since one lock for each row orders all that touches the row.

    Args:
        rows: how many.
        callers: how many read and write; each has a number.
    """

    def __init__(self, rows: int, callers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._locks = [context.Lock() for _ in range(rows)]
        self._committed = context.RawArray("Q", rows)
        self._returned = context.RawArray("Q", rows)
        self._done = context.RawArray("Q", callers)
        self._stopped = context.RawValue("b", 0)

    def load(self, row: int) -> int:
        """The version of a row, late."""
        version = self._read(row)
        time.sleep(_some(LONGEST_LOAD))
        return version

    async def aload(self, row: int) -> int:
        """See `load`."""
        version = self._read(row)
        await asyncio.sleep(_some(LONGEST_LOAD))
        return version

    def write(self, row: int) -> int:
        """Commit a new version, and return it late."""
        version = self._commit(row)
        time.sleep(_some(LONGEST_WRITE))
        return version

    async def awrite(self, row: int) -> int:
        """See `write`."""
        version = self._commit(row)
        await asyncio.sleep(_some(LONGEST_WRITE))
        return version

    def _read(self, row: int) -> int:
        with self._locks[row]:
            return int(self._committed[row])

    def _commit(self, row: int) -> int:
        with self._locks[row]:
            self._committed[row] += 1
            return int(self._committed[row])

    def returned(self, row: int, version: int) -> None:
        """The write that made `version` has returned to its caller."""
        with self._locks[row]:
            self._returned[row] = max(version, self._returned[row])

    def floor(self, row: int) -> int:
        """The version that a read beginning now must show at least."""
        with self._locks[row]:
            return int(self._returned[row])

    def begin(self) -> None:
        """A new race."""
        for caller in range(len(self._done)):
            self._done[caller] = 0
        self._stopped.value = 0

    def count(self, caller: int) -> None:
        """A caller has done an operation. Each caller has a slot of its own, so none is lost."""
        self._done[caller] += 1

    @property
    def done(self) -> int:
        """Operations done by all since `begin`."""
        return sum(self._done)

    def stop(self) -> None:
        """Tell all callers to end."""
        self._stopped.value = 1

    @property
    def stopped(self) -> bool:
        """Whether they have been told."""
        return bool(self._stopped.value)


def _some(longest: float) -> float:
    """A random time, as often a very short as a long one."""
    return longest * 10 ** random.uniform(-2.5, 0)
