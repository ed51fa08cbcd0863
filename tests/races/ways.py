"""The ways to read and write the rows through the cache: with cacheside, and by hand as the control."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from by_hand import GetSetDelete

from cacheside import Cache

from .rows import Rows

Write = Callable[[int, list[int]], int]
AsyncWrite = Callable[[int, list[int]], Awaitable[int]]


class Way(Protocol):
    """Reads and writes. `writes` and `awrites` go by the kind of the write."""

    writes: dict[str, Write]
    awrites: dict[str, AsyncWrite]

    @property
    def read(self) -> Callable[[int], int]:
        """Read a row."""

    @property
    def aread(self) -> Callable[[int], Awaitable[int]]:
        """`read`, awaitable."""

    def undelivered(self, key: int) -> bool:
        """Whether an invalidation of `key` may not have arrived so far."""

    def report(self) -> dict[str, int]:
        """What it has counted."""

    def close(self) -> None:
        """Close the connections of the threads."""

    async def aclose(self) -> None:
        """Close the connections of the tasks."""


class Decorated:
    """Through cacheside.

    Args:
        options: url, namespace, lease, timeout, hold, kinds.
        rows: the store.
    """

    def __init__(self, options: dict[str, Any], rows: Rows) -> None:
        self.cache = cache = Cache(
            options["url"], namespace=options["namespace"], lease=options["lease"], timeout=options["timeout"]
        )
        hold = options["hold"]
        self.read: Callable[[int], int] = cache.cached(key="row:{key}")(rows.load)
        self.aread: Callable[[int], Awaitable[int]] = cache.cached(key="row:{key}")(rows.aload)
        kinds: dict[str, Callable[[], Callable[[Any], Any]]] = {
            "plain": lambda: cache.invalidates("row:{key}"),
            "strict": lambda: cache.invalidates("row:{key}", strict=True, hold=hold),
            "updates": lambda: cache.updates(self.read, hold=hold),
            "strict updates": lambda: cache.updates(self.read, strict=True, hold=hold),
        }
        self.writes: dict[str, Write] = {kind: kinds[kind]()(rows.write) for kind in options["kinds"]}
        self.awrites: dict[str, AsyncWrite] = {kind: kinds[kind]()(rows.awrite) for kind in options["kinds"]}

    def undelivered(self, key: int) -> bool:
        """See `Way.undelivered`."""
        core = self.cache._core
        return core.pending.blocks(f"{core.prefix}row:{key}")

    def close(self) -> None:
        """See `Way.close`."""
        self.cache.close()

    async def aclose(self) -> None:
        """See `Way.aclose`."""
        await self.cache.aclose()

    def report(self) -> dict[str, int]:
        """See `Way.report`."""
        stats = self.cache.stats()
        names = ("undelivered", "pending", "guards_lost", "writes_refused", "updates", "updates_refused")
        return {**stats.totals._asdict(), **{name: getattr(stats, name) for name in names}}


class ByHand(GetSetDelete):
    """The control, in both colours."""

    def __init__(self, options: dict[str, Any], rows: Rows) -> None:
        super().__init__(options, rows)
        self.writes: dict[str, Write] = {"plain": self.write}
        self.awrites: dict[str, AsyncWrite] = {"plain": self.awrite}

    async def aread(self, key: int) -> int:
        """`read`, awaitable; the client of threads does for the control."""
        stored = await asyncio.to_thread(self._client.get, f"{self._prefix}:{key}")
        if stored is not None:
            return int(stored)
        version: int = await self._rows.aload(key)
        await asyncio.to_thread(self._client.set, f"{self._prefix}:{key}", str(version).encode())
        return version

    async def awrite(self, key: int, done: list[int]) -> int:
        """`write`, awaitable."""
        version: int = await self._rows.awrite(key, done)
        await asyncio.to_thread(self._client.delete, f"{self._prefix}:{key}")
        return version

    def undelivered(self, key: int) -> bool:
        """It would have raised."""
        return False

    def report(self) -> dict[str, int]:
        """It counts nothing."""
        return {}

    def close(self) -> None:
        """See `Way.close`."""
        self._client.close()

    async def aclose(self) -> None:
        """There is nothing to close."""
