"""SIEVE: one queue and a hand that goes round it (Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024).

The hand moves from old to new: an entry that was hit since it last came by is spared, and any other goes. What is
spared stays where it is.
"""

from __future__ import annotations

from ..entries import Entry
from . import Evicted
from .counting import Counting
from .queues import Queue


class Sieve(Counting):
    """See `eviction.Store`."""

    def __init__(self, capacity: int, evicted: Evicted) -> None:
        super().__init__()
        self._capacity = capacity
        self._evicted = evicted
        self._queue = Queue()
        self._hand: Entry | None = None

    def add(self, entry: Entry) -> None:
        """See `Store.add`."""
        while self._queue.weight + entry.weight > self._capacity:
            self._evict()
        self._entries[entry.key] = entry
        self._queue.append(entry)

    def remove(self, entry: Entry) -> None:
        """See `Store.remove`."""
        if entry is self._hand:
            self._hand = entry.after
        self._entries.pop(entry.key, None)
        self._queue.remove(entry)

    def _evict(self) -> None:
        entry = self._hand or self._queue.first
        for _ in range(2 * len(self._entries)):  # once round is enough, but for readers who are at it just now
            assert entry is not None  # the queue is not empty
            if entry.heat() == 0:
                break
            entry.cool(0)
            entry = entry.after or self._queue.first
        if entry is not None:
            self._hand = entry.after
            self.remove(entry)
            self._evicted(entry)
