"""How many loads of one function run at once in this process, and who is next. Plain bookkeeping, as `flight.py`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from . import forks
from .flight import Flight, loading


class Ticket:
    """One load's turn: it may begin once `done`."""

    __slots__ = ("_wakers", "done", "flight")

    def __init__(self, flight: Flight) -> None:
        self.flight: Flight = flight
        self.done: bool = False
        self._wakers: list[Callable[[], object]] = []

    def when_done(self, wake: Callable[[], object]) -> bool:
        """See `steps.Awaited`."""
        self._wakers.append(wake)
        return not self.done  # looked at after: who calls the turn sets it before going through the list

    def wake(self) -> None:
        """Tell who waits for it."""
        for wake in self._wakers:
            wake()


class Limiter:
    """At most `limit` loads at once; the others wait in a line. Shared by threads, tasks and event loops.

    Args:
        limit: how many.
        patience: seconds after which one that waits is refused; None: as long as a lease.
    """

    def __init__(self, limit: int, patience: float | None) -> None:
        self.limit = limit
        self.patience = patience
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """The loads under way are the parent's."""
        self._lock = threading.Lock()
        self._running: set[Flight] = set()
        self._line: deque[Ticket] = deque()

    def enter(self, flight: Flight) -> Ticket | None:
        """A turn for the load of `flight`. None: it needs none, since it is called inside one that has.

        (Waiting for that one to end, it would wait for itself. Meanwhile that one does not ask the store.)
        """
        with self._lock:
            if not self._running.isdisjoint(loading.get()):
                return None
            ticket = Ticket(flight)
            if len(self._running) < self.limit:
                self._running.add(flight)
                ticket.done = True
            else:
                self._line.append(ticket)
            return ticket

    def leave(self, ticket: Ticket) -> None:
        """Its load is over, or it does not want to wait any longer."""
        with self._lock:
            if not ticket.done:
                self._line.remove(ticket)
                return
            self._running.discard(ticket.flight)
            following = self._line.popleft() if self._line else None
            if following is not None:
                self._running.add(following.flight)
                following.done = True  # under the lock: nobody is neither in the line nor running
        if following is not None:
            following.wake()
