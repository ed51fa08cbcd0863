"""Invalidations that could not be delivered: remembered, bypassed, tried again.

A key whose invalidation failed may hold an old value on the server. Until the invalidation has been delivered, this
process reads the key from the store and fills nothing. (Other processes cannot know; there the ttl is the bound.)

The race that the counts close: a delivery is sent for a failure, a second write to the same key fails while it is
under way, then the delivery succeeds. Clearing "the key" would forget the second failure. So failures are counted, and
a delivery takes off only what was pending before it was sent (DESIGN section 4, finding 8).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple


class Snapshot(NamedTuple):
    """What was pending at one moment: failures per key, and how often the list had overflowed (0: not at all)."""

    counts: dict[str, int]
    overflows: int


class Pending:
    """The undelivered invalidations of one cache in this process. Threads may share it.

    Args:
        limit: so many keys are remembered one by one; with more, the whole namespace is bypassed until it has been
            cleared, so that memory stays bounded and nothing is forgotten.
        retry_every: seconds between two tries to deliver.
    """

    def __init__(self, limit: int = 10_000, retry_every: float = 1.0) -> None:
        self._limit = limit
        self._retry_every = retry_every
        self._counts: dict[str, int] = {}
        self._overflows = 0
        self._next_try = 0.0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._counts or self._overflows)

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def overflowed(self) -> bool:
        """More failed than can be remembered: every key is blocked."""
        return self._overflows > 0

    def blocks(self, key: str) -> bool:
        """Whether the cached value of `key` must not be used."""
        return self._overflows > 0 or key in self._counts

    def add(self, keys: Iterable[str]) -> None:
        """The invalidation of `keys` has failed, once more."""
        with self._lock:
            for key in keys:
                self._counts[key] = self._counts.get(key, 0) + 1
            if self._overflows or len(self._counts) > self._limit:
                self._counts.clear()
                self._overflows += 1

    def due(self, now: float) -> Snapshot | None:
        """What to try to deliver now, if it is time to try again; `now` is monotonic seconds.

        Only one caller in `retry_every` seconds gets it, so that an outage does not slow every call.
        """
        with self._lock:
            if now < self._next_try or not self:
                return None
            self._next_try = now + self._retry_every
            return self._snapshot()

    def snapshot(self) -> Snapshot:
        """What is pending now."""
        with self._lock:
            return self._snapshot()

    def settle(self, delivered: Snapshot) -> None:
        """All of `delivered`, and nothing that came later, has reached the server."""
        with self._lock:
            if delivered.overflows and delivered.overflows == self._overflows:
                self._overflows = 0
            for key, count in delivered.counts.items():
                left = self._counts.get(key, 0) - count
                if left > 0:
                    self._counts[key] = left
                else:
                    self._counts.pop(key, None)
            self._next_try = 0.0

    def _snapshot(self) -> Snapshot:
        return Snapshot(dict(self._counts), self._overflows)
