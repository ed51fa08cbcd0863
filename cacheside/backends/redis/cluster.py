"""Redis Cluster: each key on the server that has its slot, also while servers fail over and slots move. Pure.

The lease protocol works on one key at a time, so nothing has to be agreed on between servers. What a server answers
with MOVED or ASK it has not carried out: the very same command may go on to the server that was named, fresh token or
not. What got no answer may have been carried out, and is left to `wire.py`; here it means that the map may be old.

Whoever meets a sign of that (a redirection, no answer, an open breaker) asks for a new map, after its own work and
before its error; not more than one caller in `REFRESH_EVERY` seconds does, and nobody waits for it. The next call goes
by the new map. A server that does not answer is avoided by its breaker; the keys of the others do not notice.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, ReadOnlyError, TryAgainError

from ... import forks
from ...errors import CacheUnavailable, ConfigurationError
from .commands import Operation
from .rounds import Address, Begun, Errand, Steps, question, unanswered
from .routes import Route
from .slots import SlotMap, slot_of
from .wire import Protocol

REFRESH_EVERY = 0.5  # seconds
MOST_HOPS = 5  # redirections of one command: more is a cluster that does not know itself where the slot is


class ClusterRoute(Route):
    """Keys spread over the servers of one cluster.

    Args:
        protocol: what is said to the servers.
        timeout: seconds that a server may take to answer.
        label: how errors call the cluster; never with a password.
        seeds: some of its servers, to begin with.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        protocol: Protocol,
        timeout: float,
        label: str,
        seeds: Sequence[Address],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(protocol, timeout, label)
        self._seeds = tuple(seeds)
        self._clock = clock
        self._map: SlotMap | None = None
        self._next_refresh = float("-inf")
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """See `forks.Owner`."""
        self._lock = threading.Lock()

    def name(self, address: Address) -> str:
        """How errors call one server."""
        return f"redis cluster node {address[0]}:{address[1]}"

    def servers(self) -> Collection[Address]:
        """All that are known now."""
        return {*self._seeds, *(self._map.servers if self._map else ())}

    def home(self, key: str) -> Address | None:
        """See `Route.home`: where the map says that the key is."""
        return None if self._map is None else self._map.master(slot_of(key))

    def of_key(self, key: str, operation: Operation, begun: Begun | None = None) -> Steps:
        """An operation on one key; of one that has begun, the rest."""
        errand = self._errand(key, operation)
        yield from self._carry_out([errand], begun)
        if errand.error is not None:
            raise errand.error
        return errand.result

    def mark_stale(self, keys: Sequence[str], grace: float) -> Steps:
        """See `Claiming.mark_stale`; as `invalidate`."""
        yield from self._all(keys, str, lambda some: self.protocol.mark_stale(some, grace), urgent=True)

    def invalidate(self, keys: Sequence[str]) -> Steps:
        """See `Backend.invalidate`: one command for each slot, those for one server sent together."""
        yield from self._all(keys, str, self.protocol.invalidate, urgent=True)

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Steps:
        """See `Backend.guard`; as `invalidate`."""
        yield from self._all(keys, str, lambda some: self.protocol.guard(some, token, hold))
        return [None] * len(keys)

    def unguard(self, marks: Sequence[tuple[str, str]]) -> Steps:
        """See `Backend.unguard`; as `invalidate`."""
        done = yield from self._all(marks, lambda mark: mark[0], self.protocol.unguard, urgent=True)
        return sum(done)

    def clear(self, prefix: str | None) -> Steps:
        """See `Backend.clear`, on every master.

        Twice, since a key may be on the move: from a master that is not scanned yet to one that has been.
        """
        yield from self._refresh(at_once=True)
        errors: list[CacheUnavailable] = []
        for _ in range(2):
            for address in (self._map or SlotMap()).masters() or self._seeds[:1]:
                try:
                    if prefix is None:
                        yield from self._on(address, self.protocol.clear(None))
                    else:
                        yield from self._clear(address, prefix)
                except CacheUnavailable as error:
                    errors.append(error)
        if errors:
            raise CacheUnavailable(str(errors[0])) from errors[0]

    def _clear(self, address: Address, prefix: str) -> Steps:
        cursor = 0
        while True:
            cursor, keys = yield from self._on(address, self.protocol.scan(prefix, cursor))
            yield from self.invalidate([key.decode() for key in keys])
            if cursor == 0:
                return

    def _all(
        self,
        items: Iterable[Any],
        key: Callable[[Any], str],
        make: Callable[[Sequence[Any]], Operation],
        urgent: bool = False,
    ) -> Steps:
        """Carry out an operation on items of many keys; returns the results. Every server is tried.

        Args:
            urgent: see `Breaker.admit`.

        Raises:
            CacheUnavailable: with the keys that failed.
        """
        slots: dict[int, list[Any]] = {}
        for item in items:
            slots.setdefault(slot_of(key(item)), []).append(item)
        done = yield from self._carry_out(
            [Errand(some, make(some), slot, make, urgent) for slot, some in slots.items()]
        )
        failed = [errand for errand in done if errand.error is not None]
        if failed:
            raise CacheUnavailable(
                str(failed[0].error),
                keys=[key(item) for errand in failed for item in errand.items],
                sent=any(errand.error is None or errand.error.sent for errand in done),
            ) from failed[0].error
        return [errand.result for errand in done]

    def _carry_out(self, errands: list[Errand], begun_as: Begun | None = None) -> Steps:
        """See `Rounds`. What the replies say of the map is seen to after it."""
        if self._map is None:
            yield from self._refresh()
        done = yield from super()._carry_out(errands, begun_as)
        if any(errand.misled for errand in done):
            yield from self._refresh()
        return done

    def _errand(self, key: str, operation: Operation) -> Errand:
        return Errand((key,), operation, slot_of(key))

    def _digest(self, errand: Errand, address: Address, reply: Any) -> Steps:
        errand.misled |= _is_sign(reply)
        if isinstance(reply, AskError) and errand.hops < MOST_HOPS:  # MovedError is one too
            errand.hops += 1
            errand.asking = not isinstance(reply, MovedError)
            errand.target = (reply.host or address[0], reply.port)
            if not errand.asking and self._map is not None:
                self._map.moved(errand.slot, errand.target)
            return [errand]
        make = errand.make
        if make is not None and isinstance(reply, TryAgainError) and len(errand.items) > 1:
            # Its keys are on both sides of a slot that is moving. Each key alone is on one.
            errand.operation.close()
            return [Errand([item], make([item]), errand.slot, make, errand.urgent) for item in errand.items]
        return (yield from super()._digest(errand, address, reply))

    def _place(self, errand: Errand) -> Address:
        return self._home(errand.slot)

    def _home(self, slot: int) -> Address:
        """Where the map says that a slot is. Where it does not say, any server will send the command on."""
        found = None if self._map is None else self._map.master(slot)
        if found is not None:
            return found
        return next((address for address in self.servers() if not self.breaker(address).open), self._seeds[0])

    def _refresh(self, at_once: bool = False) -> Steps:
        """Ask for a new map, unless somebody has a moment ago. It takes less than two time-outs."""
        with self._lock:
            begun = self._clock()
            if begun < self._next_refresh and not at_once:
                return
            self._next_refresh = begun + REFRESH_EVERY
        servers = list(self.servers())
        random.shuffle(servers)  # one of them may be cut off and have an old map itself
        for address in sorted(servers, key=lambda each: self.breaker(each).open):
            try:
                reply = yield from self._on(address, question("CLUSTER", "SLOTS"))
            except CacheUnavailable as error:
                if "cluster support disabled" in str(error):
                    raise ConfigurationError(
                        f"{self.label}: {address[0]}:{address[1]} is a server by itself, for redis://"
                    ) from error
                if self._clock() - begun > self._timeout:
                    return
                continue
            if (new := SlotMap(reply, address)).servers:
                self._map = new
                return


def _is_sign(reply: object) -> bool:
    """Whether this reply says that the map may be old."""
    return unanswered(reply) or isinstance(reply, (MovedError, ReadOnlyError, ClusterDownError, CacheUnavailable))
