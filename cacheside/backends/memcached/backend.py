"""The memcached backend as applications see it: its options, and its calls for plain functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from ... import forks
from ...errors import CachesideError, CacheUnavailable, ConfigurationError, NotCacheableError
from .. import base, beyond
from . import wire
from .batches import Batch
from .changes import Change, Failures, Guarding, Invalidation, Marking, Release
from .protocol import Protocol, Task
from .ring import Ring, parse_url
from .sync import Node

T = TypeVar("T")

DEFAULT_LIMIT = 64


def _check_options(timeout: object, limit: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout must be a positive number of seconds, not {timeout!r}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"max_connections must be a whole number of at least 1, not {limit!r}")


class MemcachedBackend:
    """A cache on one memcached (1.6.10 or later), or on several that share the keys.

    Threads may share it. After a fork the child opens its own connections. A server that is down or frozen makes the
    calls for its own keys raise `CacheUnavailable`; those for other servers' keys go on.

    Args:
        servers: "host:port", "host", "[IPv6]:port" or "/path/to.sock"; spelled alike in all processes.
        timeout: seconds for opening a connection, and for each answer.
        max_connections: to each server, from the threads of this process; and as many from each event loop.

    Raises:
        ConfigurationError: a server or a number that cannot be; nothing is connected before the first call.
    """

    def __init__(self, servers: Sequence[str], *, timeout: float = 0.25, max_connections: int = DEFAULT_LIMIT) -> None:
        _check_options(timeout, max_connections)
        self._protocol = Protocol(Ring(servers), timeout)
        self._timeout = float(timeout)
        self._limit = max_connections
        self._clock = itertools.count(1).__next__
        self._nodes = self._new_nodes()
        forks.register(self)

    def after_fork(self) -> None:
        """Connections of its own: those we have are the parent's."""
        for node in self._nodes:
            node.abandon()
        self._nodes = self._new_nodes()

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 0.25, clock: Callable[[], float] | None = None) -> MemcachedBackend:
        """The backend that a URL describes.

        Args:
            url: ``memcached://host:port,host:port`` or ``memcached:///path/to.sock``; option ``?max_connections=64``.
            timeout: as above.
            clock: every backend is offered one; this one needs none, for the servers keep the time.

        Raises:
            ConfigurationError: it is malformed, or has an option, a user or a password that memcached does not know.
        """
        servers, limit = parse_url(url)
        return cls(servers, timeout=timeout, max_connections=DEFAULT_LIMIT if limit is None else limit)

    @property
    def capabilities(self) -> frozenset[base.Capability]:
        """See `Backend.capabilities`."""
        return wire.CAPABILITIES

    @property
    def aio(self) -> base.AsyncBackend:
        """The same cache for async functions."""
        made = self.__dict__.get("_aio")
        if made is None:
            # asyncio is slow to import, and plain functions do not need it
            from .aio_backend import AsyncMemcachedBackend

            made = AsyncMemcachedBackend(self._protocol, self._timeout, self._limit, self._clock)
            made = self.__dict__.setdefault("_aio", made)  # one step: threads that come together get the same one
        return cast(base.AsyncBackend, made)

    def lookup(self, key: str, lease: float) -> base.Answer:
        """See `Backend.lookup`. One round trip; sent again if the server closed the pooled connection.

        A lease that this process has seen in the same hands for longer than `lease` is taken over: its holder is dead.
        """
        place, command = self._protocol.lookup(key, lease)
        node = self._nodes[place]
        answer = node.run(command)
        if isinstance(answer, wire.Held):
            return node.carry_out(self._protocol.held(place, answer, lease))
        return answer

    def replace(self, key: str, seen: Any, lease: float) -> base.Leased | base.Busy:
        """See `Backend.replace`. `Busy` also where the key holds nothing any more: the next lookup gets the lease."""
        return self._run(self._protocol.replace(key, seen, lease))

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`. The item stays up to two seconds longer than `ttl`.

        One round trip; one more, once, to learn how large an item may be.
        """
        return self._run(self._protocol.fill(key, token, stored, ttl))

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return self._run(self._protocol.release(key, token))

    def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`. Two round trips to each server for every thousand of its keys.

        More if other processes change the same keys at that moment, or guards stand there.

        Raises:
            CacheUnavailable: with the `keys` that failed. Every server was tried.
        """
        self._change([Invalidation(key) for key in keys])

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `Backend.guard`. Two round trips to each server, three where a guard stands already.

        Args:
            hold: up to two seconds are added, for servers count whole ones; at most 30 days.

        Raises:
            CacheUnavailable: with the `keys` that failed. Every server was tried.
        """
        changes = [Guarding(key, token, hold) for key in keys]
        self._change(changes)
        return [change.proof for change in changes]

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `Backend.unguard`. Two round trips to each server for every hundred of its marks."""
        changes = [Release(key, token) for key, token in marks]
        self._change(changes)
        return sum(change.lost for change in changes)

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.update`. One round trip; none if the mark was not alone from the start."""
        return self._run(self._protocol.update(key, proof, stored, ttl))

    def claim(self, key: str, seen: Any, lease: float) -> base.Leased | base.Busy:
        """See `Claiming.claim`. One round trip, never sent twice. The claim stands up to two seconds longer."""
        return self._run(self._protocol.claim(key, seen, lease))

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """See `Claiming.mark_stale`. Round trips as `invalidate`.

        Args:
            grace: servers count whole seconds: a value is gone up to two of them early, at once if it is less than one.
        """
        self._change([Marking(key, grace) for key in keys])

    def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[base.Answer | CacheUnavailable | None], Sequence[beyond.Version]]:
        """See `Batching.lookup_many`. One round trip to each server; one more for each lease that is taken over."""
        answers = self._run_batch(self._protocol.batches.lookup_many(keys, lease, tags))
        return answers[: len(keys)], answers[len(keys) :]

    def fill_many(
        self, fills: Sequence[base.Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[beyond.Version]]:
        """See `Batching.fill_many`. One round trip to each server; one more, once, to learn how large an item may be.

        All fills of one server are refused if no connection is left that may carry the oldest of their leases.
        """
        answers = self._run_batch(self._protocol.batches.fill_many(fills, tags))
        return answers[: len(fills)], answers[len(fills) :]

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool | CacheUnavailable]:
        """See `Batching.release_many`. One round trip to each server."""
        return self._run_batch(self._protocol.batches.release_many(leases))

    def replace_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[base.Leased | base.Busy | CacheUnavailable]:
        """See `Batching.replace_many`. As in `fill_many`, all of one server are `Busy` if none may carry the oldest."""
        return self._run_batch(self._protocol.batches.replace_many(entries, lease))

    def claim_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[base.Leased | base.Busy | CacheUnavailable]:
        """See `Batching.claim_many`. As `replace_many`."""
        return self._run_batch(self._protocol.batches.claim_many(entries, lease))

    def plant(self, tags: Sequence[str]) -> Sequence[beyond.Version]:
        """See `Batching.plant`. One round trip to each server, more if something else stands there."""
        return self._run_batch(self._protocol.batches.plant(tags))

    def clear(self, prefix: str | None) -> None:
        """Drop everything on all servers, other programs' entries included.

        Raises:
            ConfigurationError: a prefix is given: memcached cannot list its keys.
        """
        self._run_all(self._protocol.clear(prefix))

    def size(self) -> base.Size:
        """See `Backend.size`: not known without asking the servers."""
        return base.Size(None, None)

    def close(self) -> None:
        """See `Backend.close`. Leases that were won before are lost: a later fill under them is refused."""
        for node in self._nodes:
            node.close()

    def __repr__(self) -> str:
        return f"MemcachedBackend({self._protocol.names!r}, timeout={self._timeout:g})"

    def _run(self, task: Task[T]) -> T:
        place, operation = task
        return self._nodes[place].carry_out(operation)

    def _run_batch(self, batch: Batch) -> list[Any]:
        for task in batch.tasks:
            self._run(task)
        return batch.answers

    def _change(self, changes: Sequence[Change]) -> None:
        self._run_all(self._protocol.change(changes), changes)

    def _run_all(self, tasks: Sequence[Task[None]], changes: Sequence[Change] = ()) -> None:
        """Carry out all of it, then raise the first error if there was one."""
        failures = Failures()
        for task in tasks:
            try:
                self._run(task)
            except CachesideError as error:
                failures.add(error)
        failures.check(changes)

    def _new_nodes(self) -> tuple[Node, ...]:
        return tuple(
            [
                Node(server, known, self._timeout, self._limit, self._clock)
                for server, known in zip(self._protocol.ring.servers, self._protocol.known, strict=True)
            ]
        )
