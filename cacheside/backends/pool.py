"""Which connection of one server may carry a command, and who waits for one: bookkeeping without I/O or locks.

Both colours use it: threads under a lock, tasks because one loop runs one at a time. The connections used last are
used first. Whoever finds none waits in a queue, and what comes back is handed to the first in it who may use it, so
a crowd of a thousand wakes one at a time and nobody starves.

A command to memcached with a CAS names a stamp: only a connection opened before it may carry the command (that package
says why). If all of those are in use it waits for one; when the last is gone it is told so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

PATIENCE: Final = 5.0  # seconds that a caller waits for a connection: a stampede has to queue, not to fail


class Opened(Protocol):
    """What the pool has to know of a connection, where commands name stamps: that taken when it had been opened."""

    opened: int


class Event(Protocol):
    """What wakes a waiter: threading.Event, asyncio.Event."""

    def set(self) -> None:
        """Wake it."""


C = TypeVar("C", bound=Opened)
E = TypeVar("E", bound=Event)


class Verdict(Enum):
    """What to do instead of using a pooled connection."""

    OPEN = "open"  # open a new one, then call `opened` or `failed`
    GONE = "gone"  # none is left that may be used


OPEN: Final = Verdict.OPEN
GONE: Final = Verdict.GONE


class Waiter(Generic[C, E]):
    """Somebody in the queue: `event` is set when `granted` has been."""

    __slots__ = ("before", "event", "granted")

    def __init__(self, before: int | None, event: E) -> None:
        self.before: int | None = before
        self.event: E = event
        self.granted: C | Verdict | None = None


class Pool(Generic[C, E]):
    """The connections to one server, at most `limit` at a time."""

    def __init__(self, limit: int, new_event: Callable[[], E]) -> None:
        self._limit = limit
        self._new_event = new_event
        self._idle: list[C] = []
        self._busy: set[C] = set()
        self._opening = 0
        self._queue: deque[Waiter[C, E]] = deque()
        self._retired = False

    def take(self, before: int | None) -> C | Verdict | Waiter[C, E]:
        """A connection for a command (with a CAS: one opened before the stamp `before`), or what to do instead.

        A waiter stands in the queue already: wait for its event, or `leave`.
        """
        if before is None and self._idle:
            connection = self._idle.pop()
            self._busy.add(connection)
            return connection
        for index in range(len(self._idle) - 1, -1, -1):
            if before is not None and self._idle[index].opened < before:
                connection = self._idle.pop(index)
                self._busy.add(connection)
                return connection
        if before is not None:
            return self._join(before) if self._any_busy(before) else GONE
        if len(self._idle) + len(self._busy) + self._opening < self._limit:
            self._opening += 1
            return OPEN
        return self._join(before)

    def leave(self, waiter: Waiter[C, E]) -> C | None:
        """Wait no longer; what was granted meanwhile goes to the next. A connection that is returned is to close."""
        granted = waiter.granted
        if granted is None:
            self._queue.remove(waiter)
        elif granted is OPEN:
            self.failed()
        elif granted is not GONE and not self.give(granted):
            return granted
        return None

    def opened(self, connection: C) -> None:
        """A connection has been opened, and is in use by the one who opened it."""
        self._opening -= 1
        self._busy.add(connection)

    def failed(self) -> None:
        """No connection could be opened."""
        self._opening -= 1
        self._let_open()

    def give(self, connection: C) -> bool:
        """It is in good order and no longer in use. False: it has to be closed, for the pool has been emptied."""
        for waiter in self._queue:
            if waiter.before is None or connection.opened < waiter.before:
                self._grant(waiter, connection)
                return True
        self._busy.discard(connection)
        if not self._retired:
            self._idle.append(connection)
        return not self._retired

    def drop(self, connection: C) -> None:
        """It is broken and was closed."""
        self._busy.discard(connection)
        for waiter in list(self._queue):
            if waiter.before is not None and not self._any_busy(waiter.before):
                self._grant(waiter, GONE)
        self._let_open()

    def purge(self) -> list[C]:
        """Forget the idle connections: the server has closed one, so it restarted perhaps. They are to be closed."""
        idle, self._idle = self._idle, []
        return idle

    def retire(self) -> list[C]:
        """Keep no connection from now on. The idle ones are returned, to be closed."""
        self._retired = True
        return self.purge()

    def forget(self) -> list[C]:
        """All connections, also those in use, to be closed: the process or the loop that used them is no longer."""
        return [*self.retire(), *self._busy]

    def _join(self, before: int | None) -> Waiter[C, E]:
        waiter: Waiter[C, E] = Waiter(before, self._new_event())
        self._queue.append(waiter)
        return waiter

    def _any_busy(self, before: int) -> bool:
        return any(connection.opened < before for connection in self._busy)

    def _let_open(self) -> None:
        for waiter in self._queue:
            if waiter.before is None:
                self._opening += 1
                self._grant(waiter, OPEN)
                return

    def _grant(self, waiter: Waiter[C, E], granted: C | Verdict) -> None:
        self._queue.remove(waiter)
        waiter.granted = granted
        waiter.event.set()
