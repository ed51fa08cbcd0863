"""Least recently used, least frequently used, first in first out: by cachetools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cachetools

from ..entries import Entry
from . import Evicted, Store

if TYPE_CHECKING:
    _Cache = cachetools.Cache[str, Entry]


class _Classic:
    """See `eviction.Store`.

    Args:
        order: decides what goes: a cache of cachetools, empty.
        touch: whether it has to know of hits.
    """

    def __init__(self, order: _Cache, evicted: Evicted, touch: bool) -> None:
        self.touch = touch
        self._order = order
        self._evicted = evicted

    def get(self, key: str) -> Entry | None:
        """See `Store.get`."""
        # Past the subclass, for which this would be a hit.
        return cachetools.Cache.__getitem__(self._order, key) if key in self._order else None

    def hit(self, entry: Entry) -> None:
        """See `Store.hit`."""
        entry.hits += 1
        self._order[entry.key]  # reading is what tells it

    def add(self, entry: Entry) -> None:
        """See `Store.add`."""
        while self._order.currsize + entry.weight > self._order.maxsize:
            _, evicted = self._order.popitem()
            self._evicted(evicted)
        self._order[entry.key] = entry

    def remove(self, entry: Entry) -> None:
        """See `Store.remove`."""
        del self._order[entry.key]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Entry]:
        return (cachetools.Cache.__getitem__(self._order, key) for key in self._order)


def _weight(entry: Entry) -> int:
    return entry.weight


def lru(capacity: int, evicted: Evicted) -> Store:
    """Evicts what was not used for longest."""
    return _Classic(cachetools.LRUCache(capacity, _weight), evicted, touch=True)


def lfu(capacity: int, evicted: Evicted) -> Store:
    """Evicts what was used least often."""
    return _Classic(cachetools.LFUCache(capacity, _weight), evicted, touch=True)


def fifo(capacity: int, evicted: Evicted) -> Store:
    """Evicts what has been there for longest."""
    return _Classic(cachetools.FIFOCache(capacity, _weight), evicted, touch=False)
