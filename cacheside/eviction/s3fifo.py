"""S3-FIFO: three queues, and a hit is a count (Yang, Zhang, Qiu, Yue, Vigfusson, SOSP 2023).

New entries go through a small queue, a tenth of the capacity: most of them are never asked for again, and leave from
there soon. Those that were hit at least twice in it go on to the main queue, where each hit is another round. The keys
of those that left are remembered for a while (the ghosts): if one is filled again, it goes to the main queue at once.
"""

from __future__ import annotations

from collections import deque

from ..entries import Entry
from . import Evicted
from .counting import Counting
from .queues import Queue

SMALL = 0.1  # of the capacity, as in the paper
WORTH_KEEPING = 2  # hits in the small queue
ROUNDS = 4  # through the main queue that one eviction makes at most, however fast readers heat it up again


class S3Fifo(Counting):
    """See `eviction.Store`."""

    def __init__(self, capacity: int, evicted: Evicted) -> None:
        super().__init__()
        self._capacity = capacity
        self._main_capacity = capacity - max(1, int(capacity * SMALL))
        self._evicted = evicted
        self._small, self._main = Queue(), Queue()
        # The last that left the small queue, and by the hash of its key when each did so last, until it comes back. (If
        # two keys have one hash, an entry makes a round in the wrong queue, and that is all.) What has come back keeps
        # its place among the last: on some traces that is better by a point than room for one more ghost.
        self._left: deque[tuple[int, int, int]] = deque()
        self._left_weight = 0
        self._leaving = 0
        self._ghosts: dict[int, int] = {}

    def add(self, entry: Entry) -> None:
        """See `Store.add`."""
        while self._small.weight + self._main.weight + entry.weight > self._capacity:
            self._evict()
        self._entries[entry.key] = entry
        came_back = self._ghosts.pop(hash(entry.key), None) is not None
        (self._main if came_back else self._small).append(entry)

    def remove(self, entry: Entry) -> None:
        """See `Store.remove`."""
        self._entries.pop(entry.key, None)
        entry.queue.remove(entry)

    def _evict(self) -> None:
        small = self._small
        if self._main.weight <= self._main_capacity:
            while small.first is not None:
                entry = small.first
                if entry.heat() < WORTH_KEEPING:
                    self._remember(entry)
                    self._drop(entry)
                    return
                small.remove(entry)
                entry.cool(0)
                self._main.append(entry)
        self._evict_main()

    def _evict_main(self) -> None:
        for _ in range(ROUNDS * len(self._entries)):
            entry = self._main.first
            assert entry is not None  # else everything would be in the small queue, and have been evicted from there
            heat = entry.heat()
            if heat == 0:
                break
            self._main.remove(entry)
            entry.cool(heat - 1)
            self._main.append(entry)
        if self._main.first is not None:
            self._drop(self._main.first)

    def _drop(self, entry: Entry) -> None:
        self.remove(entry)
        self._evicted(entry)

    def _remember(self, entry: Entry) -> None:
        """The last that left: as many as the main queue could hold."""
        ghost = hash(entry.key)
        self._leaving += 1
        self._ghosts[ghost] = self._leaving
        self._left.append((ghost, self._leaving, entry.weight))
        self._left_weight += entry.weight
        while self._left_weight > self._main_capacity:
            ghost, leaving, weight = self._left.popleft()
            self._left_weight -= weight
            if self._ghosts.get(ghost) == leaving:
                del self._ghosts[ghost]
