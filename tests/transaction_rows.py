"""A store of rows in memory, behind a cache, with reads and writes of both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cacheside import Cache


class Rows:
    """Rows that were never written are "old". `during` runs in each load, `writing` in each write, after their work."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.stored: dict[int, Any] = {}
        self.loads = 0
        self.during: Callable[[], object] = lambda: None
        self.writing: Callable[[], object] = lambda: None

        @cache.cached("row:{row}")
        def read(row: int) -> Any:
            found = self.load(row)
            self.during()
            return found

        @cache.cached("row:{row}")
        async def aread(row: int) -> Any:
            found = self.load(row)
            await asyncio.sleep(0)
            await _awaited(self.during())
            return found

        @cache.invalidates("row:{row}")
        def write(row: int, value: Any) -> None:
            self.stored[row] = value
            self.writing()

        @cache.invalidates("row:{row}")
        async def awrite(row: int, value: Any) -> None:
            self.stored[row] = value
            await _awaited(self.writing())

        self.read, self.aread, self.write, self.awrite = read, aread, write, awrite

    def load(self, row: int) -> Any:
        """Read the store."""
        self.loads += 1
        return self.stored.get(row, "old")

    def held(self) -> list[str]:
        """The keys that some open scope is changing."""
        return sorted(self.cache._core.held.counts)


async def _awaited(answer: Any) -> None:
    if answer is not None:
        await answer
