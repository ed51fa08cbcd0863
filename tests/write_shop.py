"""A store behind a cache on a `Wire`, with reads and writes of one colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from colours import Colour
from redis_tools import MakeCache
from wire import Wire

from cacheside import Cache


class Shop:
    """A store of one column, a cache, and decorated functions of one colour."""

    def __init__(self, colour: Colour, wire: Wire, make_cache: MakeCache) -> None:
        self.colour = colour
        self.wire = wire
        self.rows: dict[int, Any] = {}
        self.loads = 0
        self.cache = self.new_cache(make_cache)
        self.read = self.reader(self.cache)

    def new_cache(self, make_cache: MakeCache, wire: Wire | None = None) -> Cache:
        """A cache whose pending invalidations are due at once; by itself on the same server: another process's."""
        cache = make_cache(wire or self.wire, namespace="n")
        cache._core.pending._retry_every = 0.0
        return cache

    def reader(self, cache: Cache, key: str = "row:{row}", **options: Any) -> Any:
        """A cached function."""

        def load(row: int) -> Any:
            self.loads += 1
            return self.rows.get(row, "old")

        return self.colour.decorate(cache.cached(key=key, **options), load)

    def writer(self, decorator: Any, during: Callable[[], object] = lambda: None) -> Any:
        """A write; `during` runs in it, after it has committed."""

        def put(row: int, value: Any) -> Any:
            self.wire.asked.append("write")
            self.rows[row] = value
            during()
            return value

        return self.colour.decorate(decorator, put)

    def run(self, fn: Any, *args: Any) -> Any:
        """The result of a call."""
        return self.colour.run(fn, *args)

    def asked(self) -> list[str]:
        """What the server was asked, and when the write came; since the last time."""
        asked, self.wire.asked = self.wire.asked, []
        return asked
