"""Redis from async code: carries out the steps of a route."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from ... import tokens
from ...errors import CacheUnavailable, NotCacheableError
from ...giveback import given_back, lease_or_give_back, leases_or_give_back, release
from ..base import Answer, AsyncBackend, Busy, Capability, Fill, Leased
from ..beyond import Version
from .aserver import AsyncServer
from .commands import REFUSAL
from .rounds import Address, Begun, Steps
from .routes import Route


class AsyncRedis(AsyncBackend):
    """The awaitable calls of a Redis backend, usable from several event loops.

    Args:
        route: shared with the plain calls.
        capabilities: as those of the plain form.
        connect: makes one server, given its address; no I/O.
    """

    def __init__(
        self, route: Route, capabilities: frozenset[Capability], connect: Callable[[Address], AsyncServer]
    ) -> None:
        self._route = route
        self._capabilities = capabilities
        self._connect = connect
        self._servers: dict[Address, AsyncServer] = {}

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return self._capabilities

    async def lookup(self, key: str, lease: float) -> Answer:
        """See `Backend.lookup`. A hit takes the shortest way; what came instead of one is given to the route."""
        route, begun = self._route, None
        protocol = route.protocol
        address = route.home(key)
        if address is not None and not (server := self._servers.get(address) or self._open(address)).breaker.open:
            token = tokens.fresh()
            try:
                line = server.line() or await server.open_line(protocol.packed_lookup)
            except (RedisError, OSError) as error:
                line, begun = None, Begun(address, token, error)
            if line is not None and protocol.native:
                asked = line.ask(key, token, lease)
                try:
                    reply = await asked
                except BaseException as error:  # cancelled; but the lookup is under way
                    closing = isinstance(error, GeneratorExit)
                    await given_back(self._give_back(key, token, line.again(asked)), closing)
                    raise
                if server.breaker.open and not isinstance(reply, Exception):
                    server.breaker.succeeded()
                answer = protocol.first(reply, token)
                if answer is not None:
                    return answer
                if reply is not REFUSAL:  # that goes through the route from the beginning
                    begun = Begun(address, token, reply)
        slow: Answer = await lease_or_give_back(self, key, self._run(route.lookup(key, lease, begun)))
        return slow

    async def _give_back(self, key: str, token: bytes, reply: asyncio.Future[Any]) -> None:
        """A lookup whose caller has gone: release what it wins."""
        protocol = self._route.protocol
        try:
            answer = protocol.first(await reply, token)
        except BaseException:  # cancelled as well
            protocol.remember(token)
            raise
        if isinstance(answer, Leased):
            await release(self, key, token)
        elif isinstance(reply.result(), Exception):
            protocol.remember(token)

    async def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        answer: Leased | Busy = await self._run(self._route.replace(key, seen, lease))
        return answer

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        return bool(await self._run(self._route.fill(key, token, stored, ttl)))

    async def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return bool(await self._run(self._route.release(key, token)))

    async def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        await self._run(self._route.invalidate(keys))

    async def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `Backend.guard`."""
        proofs: Sequence[Any] = await self._run(self._route.guard(keys, token, hold))
        return proofs

    async def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `Backend.unguard`."""
        return int(await self._run(self._route.unguard(marks)))

    async def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.update`."""
        return bool(await self._run(self._route.update(key, token, stored, ttl)))

    async def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Claiming.claim`."""
        answer: Leased | Busy = await self._run(self._route.claim(key, seen, lease))
        return answer

    async def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """See `Claiming.mark_stale`."""
        await self._run(self._route.mark_stale(keys, grace))

    async def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[Answer | CacheUnavailable | None], Sequence[Version]]:
        """See `Batching.lookup_many`."""
        found: tuple[Sequence[Answer | CacheUnavailable | None], Sequence[Version]] = await leases_or_give_back(
            self, keys, self._run(self._route.lookup_many(keys, lease, tags))
        )
        return found

    async def fill_many(
        self, fills: Sequence[Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[Version]]:
        """See `Batching.fill_many`."""
        done: tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[Version]] = await self._run(
            self._route.fill_many(fills, tags)
        )
        return done

    async def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool | CacheUnavailable]:
        """See `Batching.release_many`."""
        done: Sequence[bool | CacheUnavailable] = await self._run(self._route.release_many(leases))
        return done

    async def replace_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """See `Batching.replace_many`."""
        done: Sequence[Leased | Busy | CacheUnavailable] = await self._run(self._route.replace_many(entries, lease))
        return done

    async def claim_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """See `Batching.claim_many`."""
        done: Sequence[Leased | Busy | CacheUnavailable] = await self._run(self._route.claim_many(entries, lease))
        return done

    async def plant(self, tags: Sequence[str]) -> Sequence[Version]:
        """See `Batching.plant`."""
        versions: Sequence[Version] = await self._run(self._route.plant(tags))
        return versions

    async def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        await self._run(self._route.clear(prefix))

    async def close(self) -> None:
        """Close the connections of the running loop; a client of the user's stays open."""
        for server in list(self._servers.values()):
            await server.close()

    async def _run(self, steps: Steps) -> Any:
        replies: Any = None
        try:
            while True:
                address, commands, probe = steps.send(replies)
                server = self._servers.get(address) or self._open(address)
                replies = await server.exchange(commands, probe)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _open(self, address: Address) -> AsyncServer:
        server = self._servers.setdefault(address, self._connect(address))
        used = {address, *self._route.servers()}
        for gone in [each for each in list(self._servers) if each not in used]:
            self._servers.pop(gone, None)  # asyncio closes its connections, each in its loop
        return server
