"""The memcached backend for async functions: its calls, and which event loop has which connections."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ...errors import CachesideError, CacheUnavailable, NotCacheableError
from ...giveback import leases_or_give_back
from .. import base, beyond
from . import wire
from .aio import Node
from .batches import Batch
from .changes import Change, Failures, Guarding, Invalidation, Marking, Release
from .protocol import Protocol, Task

T = TypeVar("T")


class AsyncMemcachedBackend:
    """The same cache as a `MemcachedBackend`, which makes this object: its attribute `aio`.

    Tasks may share it, and so may event loops: each has its own connections. A cancelled call closes the connection
    that it used, for the answer is still on its way.
    """

    def __init__(self, protocol: Protocol, timeout: float, limit: int, clock: Callable[[], int]) -> None:
        self._protocol = protocol
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._forget_loops()

    @property
    def capabilities(self) -> frozenset[base.Capability]:
        """See `Backend.capabilities`."""
        return wire.CAPABILITIES

    async def lookup(self, key: str, lease: float) -> base.Answer:
        """See `MemcachedBackend.lookup`."""
        place, command = self._protocol.lookup(key, lease)
        node = self._nodes()[place]
        answer = await node.run(command)
        if isinstance(answer, wire.Held):
            return await node.carry_out(self._protocol.held(place, answer, lease))
        return answer

    async def replace(self, key: str, seen: Any, lease: float) -> base.Leased | base.Busy:
        """See `MemcachedBackend.replace`."""
        return await self._run(self._protocol.replace(key, seen, lease))

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `MemcachedBackend.fill`."""
        return await self._run(self._protocol.fill(key, token, stored, ttl))

    async def release(self, key: str, token: Any) -> bool:
        """See `MemcachedBackend.release`."""
        return await self._run(self._protocol.release(key, token))

    async def invalidate(self, keys: Sequence[str]) -> None:
        """See `MemcachedBackend.invalidate`."""
        await self._change([Invalidation(key) for key in keys])

    async def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `MemcachedBackend.guard`."""
        changes = [Guarding(key, token, hold) for key in keys]
        await self._change(changes)
        return [change.proof for change in changes]

    async def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `MemcachedBackend.unguard`."""
        changes = [Release(key, token) for key, token in marks]
        await self._change(changes)
        return sum(change.lost for change in changes)

    async def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `MemcachedBackend.update`."""
        return await self._run(self._protocol.update(key, proof, stored, ttl))

    async def claim(self, key: str, seen: Any, lease: float) -> base.Leased | base.Busy:
        """See `MemcachedBackend.claim`."""
        return await self._run(self._protocol.claim(key, seen, lease))

    async def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """See `MemcachedBackend.mark_stale`."""
        await self._change([Marking(key, grace) for key in keys])

    async def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[base.Answer | CacheUnavailable | None], Sequence[beyond.Version]]:
        """See `MemcachedBackend.lookup_many`. Cancelled, it releases in the background what it has won."""
        asked = self._look_up(keys, lease, tags)
        found: tuple[Sequence[base.Answer | CacheUnavailable | None], Sequence[beyond.Version]]
        found = await (asked if lease is None else leases_or_give_back(self, keys, asked))
        return found

    async def _look_up(self, keys: Sequence[str], lease: float | None, tags: Sequence[str]) -> Any:
        answers = await self._run_batch(self._protocol.batches.lookup_many(keys, lease, tags))
        return answers[: len(keys)], answers[len(keys) :]

    async def fill_many(
        self, fills: Sequence[base.Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[beyond.Version]]:
        """See `MemcachedBackend.fill_many`."""
        answers = await self._run_batch(self._protocol.batches.fill_many(fills, tags))
        return answers[: len(fills)], answers[len(fills) :]

    async def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool | CacheUnavailable]:
        """See `MemcachedBackend.release_many`."""
        return await self._run_batch(self._protocol.batches.release_many(leases))

    async def replace_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[base.Leased | base.Busy | CacheUnavailable]:
        """See `MemcachedBackend.replace_many`."""
        return await self._run_batch(self._protocol.batches.replace_many(entries, lease))

    async def claim_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[base.Leased | base.Busy | CacheUnavailable]:
        """See `MemcachedBackend.claim_many`."""
        return await self._run_batch(self._protocol.batches.claim_many(entries, lease))

    async def plant(self, tags: Sequence[str]) -> Sequence[beyond.Version]:
        """See `MemcachedBackend.plant`."""
        return await self._run_batch(self._protocol.batches.plant(tags))

    async def clear(self, prefix: str | None) -> None:
        """See `MemcachedBackend.clear`."""
        await self._run_all(self._protocol.clear(prefix))

    async def close(self) -> None:
        """Close the connections of the running loop. The next call opens new ones."""
        for node in self._nodes():
            node.close()

    def __repr__(self) -> str:
        return f"AsyncMemcachedBackend({self._protocol.names!r}, timeout={self._timeout:g})"

    async def _run(self, task: Task[T]) -> T:
        place, operation = task
        return await self._nodes()[place].carry_out(operation)

    async def _run_batch(self, batch: Batch) -> list[Any]:
        for task in batch.tasks:
            await self._run(task)
        return batch.answers

    async def _change(self, changes: Sequence[Change]) -> None:
        await self._run_all(self._protocol.change(changes), changes)

    async def _run_all(self, tasks: Sequence[Task[None]], changes: Sequence[Change] = ()) -> None:
        """Carry out all of it, then raise the first error if there was one."""
        failures = Failures()
        for task in tasks:
            try:
                await self._run(task)
            except CachesideError as error:
                failures.add(error)
        failures.check(changes)

    def _nodes(self) -> tuple[Node, ...]:
        """The running loop's nodes. Those of loops that were closed are given up."""
        if self._pid != os.getpid():
            self._forget_loops()  # what was the parent's is closed here as it is collected: see Connection.__del__
        loop = asyncio.get_running_loop()
        nodes = self._loops.get(loop)
        if nodes is None:
            with self._lock:
                for other in [other for other in self._loops if other.is_closed()]:
                    for node in self._loops.pop(other):
                        node.abandon()
                nodes = tuple(
                    Node(server, known, self._timeout, self._limit, self._clock)
                    for server, known in zip(self._protocol.ring.servers, self._protocol.known, strict=True)
                )
                self._loops[loop] = nodes
        return nodes

    def _forget_loops(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Node, ...]] = WeakKeyDictionary()
