"""Entries by their keys: bounded by number or by size, expiring, and found by functions through their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from . import eviction
from .deadlines import Deadlines
from .entries import Entry
from .errors import NotCacheableError

AT_ONCE = 8  # expired entries that one operation drops at most, so that none takes long
OVERHEAD = 400  # bytes that an entry takes besides its key and value, about: what holds it in tables and queues


class Shelf:
    """Not thread-safe: its owner has the lock. An entry that leaves is dead at once, for all who hold it.

    Args:
        capacity: entries at most; with `size`, bytes.
        policy: which go first; a name in the registry of `eviction`.
        size: gives the bytes of a value.
        clock: seconds that never go back.

    Raises:
        ConfigurationError: unknown policy.
    """

    def __init__(
        self, capacity: int, policy: str, size: Callable[[Any], int] | None, clock: Callable[[], float]
    ) -> None:
        self.capacity = capacity
        self.clock = clock
        self._size = size
        self._store = eviction.make(policy, capacity, self._evicted)
        self._deadlines = Deadlines()
        self.touch: bool = self._store.touch
        """Whether each hit has to come by here, since it changes the order in which entries go."""

    def get(self, key: str) -> Entry | None:
        """The entry under `key`, if it has not expired."""
        entry = self._store.get(key)
        if entry is not None and entry.deadline <= self.clock():
            self._remove(entry)
            return None
        return entry

    def hit(self, key: str) -> Entry | None:
        """`get`, for one who is going to use it."""
        entry = self.get(key)
        if entry is not None:
            self._store.hit(entry)
        return entry

    def put(self, key: str, stored: Any, ttl: float | None) -> None:
        """Have an entry, in the place of one that may be there.

        Raises:
            NotCacheableError: it is larger than all that may be kept; what was there is gone.
        """
        now = self.clock()
        self.reclaim(AT_ONCE)
        self.pop(key)
        weight = self._weigh(key, stored)
        if weight > self.capacity:
            raise NotCacheableError(f"it takes {weight} bytes, and max_bytes is {self.capacity}")
        self._add(Entry(key, stored, math.inf if ttl is None else now + ttl, weight))

    def mark(self, key: str, grace: float) -> None:
        """Have what is under `key` in a new entry, stale, for `grace` seconds at most, and no longer than before."""
        entry = self.get(key)
        if entry is not None:
            deadline = min(entry.deadline, self.clock() + grace)
            stale = Entry(key, entry.stored, deadline, entry.weight, stale=True)
            self._remove(entry)
            self._add(stale)  # which evicts nothing: it weighs what has just been taken out

    def pop(self, key: str) -> None:
        """Have no entry under `key`."""
        entry = self._store.get(key)
        if entry is not None:
            self._remove(entry)

    def reclaim(self, most: int | None = None) -> None:
        """Drop entries that have expired: all, or so many."""
        for entry in self._deadlines.expired(self.clock(), most):
            entry.die()
            self._store.remove(entry)

    def __iter__(self) -> Iterator[str]:
        return (entry.key for entry in self._store)

    def __len__(self) -> int:
        return len(self._store)

    def _weigh(self, key: str, stored: Any, size: Callable[[Any], int] | None = None) -> int:
        return 1 if self._size is None else OVERHEAD + len(key) + (size or self._size)(stored)

    def _add(self, entry: Entry) -> None:
        self._store.add(entry)
        self._deadlines.add(entry)

    def _remove(self, entry: Entry) -> None:
        self._evicted(entry)  # first: if Ctrl-C comes in between, it is dead, and `get` removes it
        self._store.remove(entry)

    def _evicted(self, entry: Entry) -> None:
        deadline = entry.deadline
        entry.die()
        self._deadlines.dropped(deadline)
