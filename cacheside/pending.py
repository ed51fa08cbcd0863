"""Invalidations that could not be delivered: remembered, bypassed, tried again.

A key whose invalidation failed may hold an old value on the server. Until the invalidation has been delivered, this
process reads the key from the store and fills nothing. (Other processes cannot know; there the ttl is the bound.)
What a strict write could not take back, its mark, is kept with the key: taking it back is an invalidation as well, and
until then the key is bypassed by all, `hold` seconds at most.

The race that the ticks close: a delivery is sent for a failure, a second write to the same key fails while it is
under way, then the delivery succeeds. Clearing "the key" would forget the second failure. So each failure has a tick,
and a delivery takes off only what had failed, for the last time, before it was sent. (Counting failures and taking off
as many as were seen is not enough: two deliveries under way at once take the first failure off twice.)
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import TypeAlias

from . import forks

Plan: TypeAlias = Mapping[str, str | None]
"""What a write has to tell the cache: for each key the mark to take back, or None for a plain invalidation."""

_MARKS = 8  # kept for one key: what is forgotten here ends by itself


class Snapshot:
    """What was pending at one moment: keys to invalidate, marks to take back, and whether there had been too many."""

    def __init__(self, tick: int, keys: tuple[str, ...], marks: tuple[tuple[str, str], ...], overflowed: bool) -> None:
        self.tick: int = tick
        self.keys: tuple[str, ...] = keys
        self.marks: tuple[tuple[str, str], ...] = marks
        self.overflowed: bool = overflowed


class _Failure:
    __slots__ = ("marks", "tick")

    def __init__(self) -> None:
        self.tick = 0
        self.marks: dict[str, None] = {}


class Pending:
    """The undelivered invalidations of one cache in this process. Threads may share it.

    Args:
        limit: so many keys are remembered one by one; with more, the whole namespace is bypassed until it has been
            cleared, so that memory stays bounded and nothing is forgotten.
        retry_every: seconds between two tries to deliver.
    """

    def __init__(self, limit: int = 10_000, retry_every: float = 0.5) -> None:
        self._limit = limit
        self._retry_every = retry_every
        self._failed: dict[str, _Failure] = {}
        self._overflow = 0  # the tick of the last failure since there were too many; 0: there are not
        self._tick = 0
        self._next_try = 0.0
        self.any: bool = False
        """Whether anything is pending: each call asks. It is so before `add` returns."""
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """What is pending stays pending: the child may read the same keys."""
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return self.any

    def __len__(self) -> int:
        return len(self._failed)

    @property
    def overflowed(self) -> bool:
        """More failed than can be remembered: every key is blocked."""
        return self._overflow > 0

    def blocks(self, *keys: str) -> bool:
        """Whether what the cache holds under any of `keys` must not be used."""
        return self._overflow > 0 or not self._failed.keys().isdisjoint(keys)

    def add(self, plan: Plan) -> None:
        """What `plan` says could not be delivered, as far as is known."""
        with self._lock:
            self._tick += 1
            for key, mark in plan.items():
                failure = self._failed.setdefault(key, _Failure())
                failure.tick = self._tick
                if mark is not None:
                    failure.marks[mark] = None
                    if len(failure.marks) > _MARKS:
                        del failure.marks[next(iter(failure.marks))]
            if self._overflow or len(self._failed) > self._limit:
                self._failed.clear()
                self._overflow = self._tick
            self.any = bool(self._failed or self._overflow)

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

    def settle(self, delivered: Snapshot, cleared: bool = False, but: Collection[str] = ()) -> None:
        """`delivered` has been, all `but` some keys; or with `cleared` the whole namespace has been invalidated.

        It was sent after the snapshot was taken. What failed later stays pending.
        """
        with self._lock:
            told = list(self._failed) if cleared else [*delivered.keys, *(key for key, _ in delivered.marks)]
            for key in told:
                failure = self._failed.get(key)
                if failure is not None and failure.tick <= delivered.tick and key not in but:
                    del self._failed[key]
            if cleared and self._overflow <= delivered.tick:
                self._overflow = 0
            self.any = bool(self._failed or self._overflow)
            if not but:
                self._next_try = 0.0

    def _snapshot(self) -> Snapshot:
        failed = self._failed.items()
        marks = tuple((key, mark) for key, failure in failed for mark in failure.marks)
        return Snapshot(
            self._tick, tuple(key for key, failure in failed if not failure.marks), marks, self._overflow > 0
        )
