"""Who loads, and who waits for whom, in this process. Plain bookkeeping: no I/O and no waiting happens here.

A flight is one load that several callers may share. Sharing any load in flight would be a source of staleness by
itself: a caller that starts after a completed write would join a load that began before it. The rule that repairs it
(model-checked, with all interleavings of small crowds):

    A caller may take a load's value if the load began after the caller arrived; or if the caller joined before the
    flight was sealed, and the fill sent after sealing was accepted.

`Flight.serves` is that rule. "Began" and "arrived" are ticks of one counter, so there are no ties as between clocks.

There are two tables. `open` holds, for each key, the flight that may fill it: its leader has the lease, or polls for
it. `queue` holds the loads that fill nothing (outage, refused fill, pending invalidation): one runs, and one more runs
next for all who arrived while it ran. So a crowd costs the store two loads, never one after the other for each caller.

How a flight can end, each with a test in `tests/test_flights.py`:

    landed     value or exception; `proven` says whether the cache accepted the fill (or found the lease alive at its
               release, where there was nothing to fill). Followers whom `serves` denies it go to the queue.
    abandoned  the leader was cancelled, killed, found a value meanwhile, or gave up: there is no outcome. Followers
               look up again, and one of them takes over.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

from . import forks


class _Nothing(Enum):
    """The type of `NOTHING`, which is no outcome; None is a value like any other."""

    NOTHING = "nothing"


NOTHING: Final = _Nothing.NOTHING

loading: ContextVar[tuple[Flight, ...]] = ContextVar("cacheside_loading", default=())
"""The flights that this context is inside the load of. A context variable, so that child tasks and `asyncio.to_thread`
count: a call for the same key from in there would wait for itself."""


def running_loop() -> Any:
    """The event loop that runs in this thread, or None; without importing asyncio for programs that do not use it."""
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()


class Flight:
    """One load, its leader and its followers."""

    __slots__ = (
        "_wakers", "began", "done", "key", "loop", "next", "outcome", "private", "proven", "sealed", "thread", "took",
    )  # fmt: skip

    def __init__(self, key: str) -> None:
        self.key: str = key
        self.loop: Any = running_loop()
        self.thread: int = threading.get_ident()
        self.began: int | None = None
        self.took: float = 0.0
        """Seconds that the load took; 0: it is not over."""
        self.private: bool = False
        """Whether its load read what may be uncommitted, or older than its lease: it is for its caller only."""
        self.sealed: bool = False
        self.done: bool = False
        self.proven: bool = False
        self.outcome: Any = NOTHING
        self.next: Flight | None = None
        self._wakers: list[Callable[[], object]] | None = []

    def serves(self, arrived: int, joined_open: bool) -> bool:
        """Whether a caller that arrived at tick `arrived` may take the outcome: the rule above."""
        if self.outcome is NOTHING:
            return False
        return (self.proven and joined_open) or (self.began is not None and self.began > arrived)

    def led_here(self) -> bool:
        """Whether this very call stands inside the load of this flight, so that waiting for it would never end.

        The context variable says so; the thread says so too where a context was left behind (a sync load can be
        entered again on its own thread only from inside itself).
        """
        if self in loading.get():
            return True
        return self.loop is None and self.began is not None and self.thread == threading.get_ident()

    def when_done(self, wake: Callable[[], object]) -> bool:
        """Have `wake` called, from whatever thread, at the end. False: it has ended, nothing will be called."""
        wakers = self._wakers
        if wakers is None:
            return False
        wakers.append(wake)
        # Without the lock: `done` is set before the list is walked through, so if it is not set even now, our entry
        # is in time. If it is, we say "ended"; being woken as well does no harm.
        return not self.done

    def finish(self) -> list[Callable[[], object]]:
        """Mark the end, for `Flights.end`, which holds the lock; returns whom to wake."""
        wakers, self._wakers = self._wakers, None
        self.done = True
        return wakers or []


class Flights:
    """The flights of one cache in this process, shared by its threads, tasks and event loops.

    The lock is held for a few dictionary steps at a time, never while anything waits or runs user code.
    """

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """No flight is under way: those of the parent are led by threads that the child does not have."""
        self._lock = threading.Lock()
        self._open: dict[str, Flight] = {}
        self._queue: dict[str, Flight] = {}

    def tick(self) -> int:
        """The next moment."""
        return next(self._ticks)

    def meet(self, key: str) -> tuple[Flight, bool, bool]:
        """For a caller who found the lease taken: (flight, joined before it was sealed, this caller leads it).

        A leader of such a flight does not have the lease; it polls for it on behalf of all who join.
        """
        with self._lock:
            flight = self._open.get(key)
            if flight is None:
                flight = self._open[key] = Flight(key)
                return flight, True, True
            return flight, not flight.sealed, False

    def lead(self, key: str, mine: Flight | None) -> Flight:
        """The flight of a caller who has just won the lease: its own one that polled for it, or a new one.

        An older flight under the same key has lost its lease, else nobody could win one: it goes on by itself, will
        be refused, and nobody joins it any more.
        """
        with self._lock:
            flight = Flight(key) if mine is None or mine.done else mine
            self._open[key] = flight
            return flight

    def is_open(self, flight: Flight) -> bool:
        """Whether callers who find the lease taken still meet this flight."""
        return self._open.get(flight.key) is flight

    def begin(self, flight: Flight) -> None:
        """The load begins now, in this thread, which need not be that of whoever made the flight."""
        flight.thread, flight.loop = threading.get_ident(), running_loop()
        flight.began = self.tick()

    def seal(self, flight: Flight) -> None:
        """From now on whoever meets the flight only waits for its end, and then looks up for itself.

        To be called *before* the fill is sent: else a caller joins between the server's acceptance and its reply,
        after a write of another process, and takes the value from before that write.
        """
        with self._lock:
            flight.sealed = True

    def end(self, flight: Flight, outcome: Any = NOTHING, proven: bool = False) -> None:
        """The flight is over; without an outcome it was abandoned. Idempotent: the first end counts."""
        with self._lock:
            if flight.done:
                return
            flight.sealed = True
            flight.outcome = outcome
            flight.proven = proven
            for table in (self._open, self._queue):
                if table.get(flight.key) is flight:
                    del table[flight.key]
            wakers = flight.finish()
        for wake in wakers:
            wake()

    def enqueue(self, key: str) -> tuple[Flight, bool]:
        """Into the queue of loads that fill nothing: (the load running now, this caller leads it)."""
        with self._lock:
            running = self._queue.get(key)
            if running is not None:
                return running, False
            flight = self._queue[key] = Flight(key)
            return flight, True

    def after(self, flight: Flight) -> tuple[Flight, bool]:
        """The load that follows an ended one in the queue: (it, this caller leads it).

        All who waited for `flight` find the same next one, however late they wake: that is what makes it one load
        for all of them.
        """
        with self._lock:
            if flight.next is not None:
                return flight.next, False
            running = self._queue.get(flight.key)
            leads = running is None
            if running is None:
                running = self._queue[flight.key] = Flight(flight.key)
            flight.next = running
            return running, leads
