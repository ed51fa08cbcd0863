"""The control of the races: a cache as most people write it, which leaves stale values behind."""

from __future__ import annotations

from typing import Any


class GetSetDelete:
    """Get, set and delete, with the client library that the URL asks for.

    Args:
        options: url and namespace.
        rows: the store: `load(key)`, and `write(key, ...)`, which returns the version.
    """

    def __init__(self, options: dict[str, Any], rows: Any) -> None:
        self._rows = rows
        self._prefix = options["namespace"]
        if options["url"].startswith("redis:"):
            import redis

            self._client: Any = redis.Redis.from_url(options["url"])
        else:
            import pymemcache  # type: ignore[import-untyped]  # it ships no types

            address = options["url"].removeprefix("memcached://")
            self._client = pymemcache.PooledClient(address, default_noreply=False, max_pool_size=64)

    def read(self, key: int) -> int:
        """Look in the cache; on a miss load and store."""
        stored = self._client.get(f"{self._prefix}:{key}")
        if stored is not None:
            return int(stored)
        version: int = self._rows.load(key)
        self._client.set(f"{self._prefix}:{key}", str(version).encode())
        return version

    def write(self, key: int, *more: Any) -> int:
        """Write the store, then delete."""
        version: int = self._rows.write(key, *more)
        self._client.delete(f"{self._prefix}:{key}")
        return version
