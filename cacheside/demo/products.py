"""The example: a repository with cached reads and an invalidating write, as an application would write it.

Everything else in this package only builds a store, calls these methods, and counts what happened.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from .. import cached, invalidates
from .stores import Store

SLOW_LOAD = 0.08  # seconds that a summary takes besides its query


@dataclass(frozen=True, slots=True)
class Product:
    """A row. Every write adds one to its version, by which the demo tells an old value from a new one."""

    id: int
    name: str
    price: int
    version: int


class Products:
    """The products of a shop. Plain and async methods share their entries, for they use the same key templates."""

    def __init__(self, store: Store) -> None:
        self._store = store
        table, mark = store.table, store.mark
        self._select = f"SELECT id, name, price, version FROM {table} WHERE id = {mark}"
        self._update = f"UPDATE {table} SET price = {mark}, version = version + 1 WHERE id = {mark} RETURNING version"
        self._sum = f"SELECT count(*), sum(price) FROM {table}"
        self.summary_loads: list[str] = []

    @cached(key="product:{product_id}", ttl=60)
    def get(self, product_id: int) -> Product:
        """One product."""
        return Product(*self._store.query(self._select, product_id))

    @cached(key="product:{product_id}", ttl=60)
    async def aget(self, product_id: int) -> Product:
        """One product."""
        return Product(*await self._store.aquery(self._select, product_id))

    @invalidates("product:{product_id}")
    def set_price(self, product_id: int, price: int) -> int:
        """Write and commit; the new version."""
        (version,) = self._store.query(self._update, price, product_id)
        return int(version)

    @invalidates("product:{product_id}")
    async def aset_price(self, product_id: int, price: int) -> int:
        """Write and commit; the new version."""
        (version,) = await self._store.aquery(self._update, price, product_id)
        return int(version)

    @cached(key="summary:{name}", ttl=60)
    def summary(self, name: str) -> dict[str, int]:
        """Something slow that everybody wants at once. Each load leaves its `name` in `summary_loads`."""
        self.summary_loads.append(name)
        time.sleep(SLOW_LOAD)
        count, total = self._store.query(self._sum)
        return {"products": int(count), "price of all": int(total)}

    @cached(key="summary:{name}", ttl=60)
    async def asummary(self, name: str) -> dict[str, int]:
        """See `summary`."""
        self.summary_loads.append(name)
        await asyncio.sleep(SLOW_LOAD)
        count, total = await self._store.aquery(self._sum)
        return {"products": int(count), "price of all": int(total)}
