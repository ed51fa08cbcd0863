"""Invalidations that could not be delivered: remembered, bypassed, tried again.

A key whose invalidation failed may hold an old value on the server. Until the invalidation has been delivered, this
process reads the key from the store and fills nothing. (Other processes cannot know; there the ttl is the bound.)

The race that the ticks close: a delivery is sent for a failure, a second write to the same key fails while it is
under way, then the delivery succeeds. Clearing "the key" would forget the second failure. So each failure has a tick,
and a delivery takes off only what had failed, for the last time, before it was sent. (Counting failures and taking off
as many as were seen is not enough: two deliveries under way at once take the first failure off twice.)
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from . import forks


class Snapshot(NamedTuple):
    """What was pending at one moment: keys, and whether the list had overflowed."""

    tick: int
    keys: tuple[str, ...]
    overflowed: bool


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
        self._failed: dict[str, int] = {}  # the tick of each key's last failure
        self._overflow = 0  # the tick of the last failure since there were too many; 0: there are not
        self._tick = 0
        self._next_try = 0.0
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """What is pending stays pending: the child may read the same keys."""
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._failed or self._overflow)

    def __len__(self) -> int:
        return len(self._failed)

    @property
    def overflowed(self) -> bool:
        """More failed than can be remembered: every key is blocked."""
        return self._overflow > 0

    def blocks(self, key: str) -> bool:
        """Whether the cached value of `key` must not be used."""
        return self._overflow > 0 or key in self._failed

    def add(self, keys: Iterable[str]) -> None:
        """The invalidation of `keys` has failed."""
        with self._lock:
            self._tick += 1
            self._failed.update(dict.fromkeys(keys, self._tick))
            if self._overflow or len(self._failed) > self._limit:
                self._failed.clear()
                self._overflow = self._tick

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

    def settle(self, delivered: Snapshot, cleared: bool = False) -> None:
        """The keys of `delivered` have been invalidated, or with `cleared` the whole namespace; it was sent after the
        snapshot was taken. What failed later stays pending."""
        with self._lock:
            for key in list(self._failed) if cleared else delivered.keys:
                if self._failed.get(key, delivered.tick + 1) <= delivered.tick:
                    del self._failed[key]
            if cleared and self._overflow <= delivered.tick:
                self._overflow = 0
            self._next_try = 0.0

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._tick, tuple(self._failed), self._overflow > 0)
