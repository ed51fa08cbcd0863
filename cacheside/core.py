"""What all functions on one cache share in this process, and the deliveries of its invalidations.

As in `engine.py`, what takes I/O is a generator of steps for the drivers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from .backends.base import AsyncBackend, Backend, Capability, Size
from .errors import ConfigurationError
from .flight import Flights
from .health import Health
from .pending import Pending
from .stats import StatsBook
from .steps import Ask, Failed, Steps


class Core:
    """What all functions on one cache share in this process.

    Args:
        label: how the log calls the cache; never with a password.
        backend: the plain form; None if it has only the awaitable one.
        aio: the awaitable form; None if it has only the plain one.
        prefix: what every key begins with on the backend: the namespace, escaped, and a colon; empty in memory.
        lease: seconds after which a load may no longer be filled, and every wait ends.
    """

    def __init__(
        self, label: str, backend: Backend | None, aio: AsyncBackend | None, prefix: str, lease: float
    ) -> None:
        self.label = label
        self.backend = backend
        self.aio = aio
        self.prefix = prefix
        self.lease = lease
        either = backend or aio
        assert either is not None  # Cache has made sure of it
        self.capabilities: frozenset[Capability] = either.capabilities
        self.flights: Flights = Flights()
        self.pending: Pending = Pending()
        self.health: Health = Health(label)
        self.book: StatsBook = StatsBook()

    def invalidate(self, keys: Collection[str]) -> Steps:
        """Drop `keys` (as the backend knows them). If that fails they are pending: bypassed until it succeeds.

        What is pending already is not sent along: a part of the cache that is down must not fail this delivery too.
        """
        try:
            answer = yield Ask("invalidate", (tuple(keys),))
        except BaseException:  # cancelled in it: whether it arrived is not known, so it counts as failed
            self.undelivered(keys)
            raise
        if type(answer) is Failed:
            self.undelivered(keys)
            self.failed(answer.error)
            return None
        self.recovered()
        self.book.invalidations += len(keys)
        if self.pending:
            yield from self.deliver()
        return None

    def deliver(self) -> Steps:
        """Try to deliver what is pending, if it is time to."""
        due = self.pending.due(time.monotonic())
        if due is None:
            return None
        if due.overflowed and "clear" not in self.capabilities:
            return None  # only `cache.clear(everything=True)` can help; the log has said so
        answer = yield Ask("clear", (self.prefix or None,)) if due.overflowed else Ask("invalidate", (due.keys,))
        if type(answer) is Failed:
            self.failed(answer.error)
        else:
            self.recovered()
            self.book.invalidations += len(due.keys)
            self.pending.settle(due, cleared=due.overflowed)
        return None

    def clear(self, prefix: str | None) -> Steps:
        """Drop all keys that begin with `prefix`; None: everything.

        Raises:
            CacheUnavailable: the server did not answer.
        """
        before = self.pending.snapshot()
        answer = yield Ask("clear", (prefix,))
        if type(answer) is Failed:
            self.failed(answer.error)
            raise answer.error
        self.recovered()
        self.pending.settle(before, cleared=True)
        return None

    def require(self, sync: bool) -> None:
        """That there is a client of the caller's colour.

        Raises:
            ConfigurationError: there is none.
        """
        if self.backend is None and sync:
            raise ConfigurationError(f"{self.label} has only an async client: plain functions need a plain one as well")
        if not sync and self.aio is None and "in_process" not in self.capabilities:
            raise ConfigurationError(f"{self.label} has only a plain client: async functions need an async one as well")

    def size(self) -> Size:
        """Entries now and at most, as far as is known without I/O."""
        return Size(None, None) if self.backend is None else self.backend.size()

    def failed(self, error: Exception) -> None:
        """A command failed. Mistakes of configuration are raised: no waiting will mend them."""
        if isinstance(error, ConfigurationError):
            raise error
        self.health.failed(error)

    def recovered(self) -> None:
        """A command succeeded."""
        if self.health.failing:
            self.health.recovered()

    def undelivered(self, keys: Iterable[str]) -> None:
        """Note that the invalidation of `keys` did not arrive, as far as is known."""
        overflowed = self.pending.overflowed
        self.pending.add(keys)
        self.book.undelivered += 1
        if self.pending.overflowed and not overflowed:
            self.health.overflowed("clear" in self.capabilities)
