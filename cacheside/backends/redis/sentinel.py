"""Redis behind Sentinel: all keys on one server, the master, which may become another one at any time. Pure.

The sentinels say who is the master. They are asked again when the one that is known gives no answer, and when it says
READONLY: then it has been demoted. That command has not been carried out, so it may go to the new master as it is.
Replicas are never read: they may be behind what was invalidated.

After a failover an old master that is alive goes on as one for about ten seconds, until a sentinel demotes it. What is
invalidated there is lost, and what is read there may have been invalidated at the new one. So the sentinels are asked
every `CONFIRM_EVERY` seconds in any case. The race that is left open: for so long, one process may still use the old
master, another the new one already; then the ttl is the bound.

Source: redis.io, "Guidelines for Redis clients with support for Redis Sentinel".
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from redis.exceptions import ReadOnlyError, ResponseError

from ... import forks
from ...errors import CacheUnavailable
from .commands import Operation
from .rounds import Address, Begun, Errand, Steps, question
from .routes import OneServer
from .wire import Protocol

REFRESH_EVERY = 0.5  # seconds, while something says that there is another master
CONFIRM_EVERY = 1.0  # seconds, while nothing does


class SentinelRoute(OneServer):
    """All keys on the master of one service.

    Args:
        protocol: what is said to the servers.
        timeout: seconds that a server or sentinel may take to answer.
        label: how errors call the service; never with a password.
        service: its name.
        sentinels: some of those that watch it.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        protocol: Protocol,
        timeout: float,
        label: str,
        service: str,
        sentinels: Sequence[Address],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(protocol, timeout, label)
        self.sentinels: frozenset[Address] = frozenset(sentinels)
        self._service = service
        self._clock = clock
        self._master: Address | None = None
        self._asked = float("-inf")  # when the sentinels were, for the last time
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """See `forks.Owner`."""
        self._lock = threading.Lock()

    def name(self, address: Address) -> str:
        """How errors call one server."""
        kind = "sentinel" if address in self.sentinels else "redis master"
        return f"{kind} {address[0]}:{address[1]}"

    def servers(self) -> Collection[Address]:
        """The sentinels and the master."""
        return self.sentinels if self._master is None else {*self.sentinels, self._master}

    def home(self, key: str) -> Address | None:
        """See `Route.home`: the master, unless it is time to ask for it."""
        return self._master if self._clock() - self._asked < CONFIRM_EVERY else None

    def run(self, operation: Operation, begun: Begun | None = None, urgent: bool = False) -> Steps:
        """Carry out an operation on the master; of one that has begun, the rest. `urgent`: see `Breaker.admit`."""
        errand = Errand((), operation, urgent=urgent)
        yield from self._carry_out([errand], begun)
        if errand.error is not None:
            raise errand.error
        return errand.result

    def _carry_out(self, errands: list[Errand], begun_as: Begun | None = None) -> Steps:
        master = self._master if begun_as is None else begun_as.address
        if begun_as is None and (
            master is None or (self._clock() - self._asked >= CONFIRM_EVERY and self._due(CONFIRM_EVERY))
        ):
            master = yield from self._find()
        if master is None:
            raise CacheUnavailable(f"{self.label}: no sentinel answers with a master for {self._service!r}")
        done = yield from super()._carry_out(errands, begun_as)
        if any(errand.error is not None for errand in done):
            yield from self._another(master)  # for the next call
        return done

    def _digest(self, errand: Errand, address: Address, reply: Any) -> Steps:
        if isinstance(reply, ReadOnlyError):
            master = (yield from self._another(address)) or address
            if master != address and not errand.hops:
                errand.target, errand.hops = master, 1
                return [errand]
            reply = ResponseError(f"READONLY {reply}")  # an error like any other: a replica is not read from
        return (yield from super()._digest(errand, address, reply))

    def _place(self, errand: Errand) -> Address:
        assert self._master is not None, "nothing is carried out before it is known"
        return self._master

    def _another(self, master: Address) -> Steps:
        """The master, after a sign that it is not `master` any more."""
        if self._master == master and self._due(REFRESH_EVERY):
            yield from self._find()
        return self._master

    def _due(self, every: float) -> bool:
        """Whether this caller has to ask the sentinels: one does in so many seconds, and nobody waits for it."""
        with self._lock:
            now = self._clock()
            due = now - self._asked >= every
            if due:
                self._asked = now
            return due

    def _find(self) -> Steps:
        """Ask the sentinels for the master, until one knows. It takes less than two time-outs."""
        begun = self._asked = self._clock()
        sentinels = list(self.sentinels)
        random.shuffle(sentinels)  # one of them may be cut off and know no better
        for address in sorted(sentinels, key=lambda each: self.breaker(each).open):
            try:
                found = yield from self._on(address, question("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
            except CacheUnavailable:
                if self._clock() - begun > self._timeout:
                    break
                continue
            if found is not None:
                self._master = (found[0].decode(), int(found[1]))
                break
        return self._master
