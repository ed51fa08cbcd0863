"""Redis from plain code: carries out the steps of a route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ... import tokens
from ...errors import CacheUnavailable, NotCacheableError
from ..base import Answer, Busy, Fill, Leased
from ..beyond import Version
from .commands import REFUSAL
from .rounds import Address, Begun, Steps
from .routes import Route
from .server import SyncServer


class SyncRedis:
    """The plain calls of a Redis backend.

    Args:
        route: shared with the awaitable calls.
        connect: makes one server, given its address; no I/O.
    """

    def __init__(self, route: Route, connect: Callable[[Address], SyncServer]) -> None:
        self._route = route
        self._connect = connect
        self._servers: dict[Address, SyncServer] = {}

    def lookup(self, key: str, lease: float) -> Answer:
        """See `Backend.lookup`. A hit takes the shortest way; what came instead of one is given to the route."""
        route, begun = self._route, None
        protocol = route.protocol
        address = route.home(key) if protocol.native else None
        if address is not None and not (server := self._servers.get(address) or self._open(address)).breaker.open:
            token = tokens.fresh()
            try:
                reply = server.ask(protocol.packed_lookup(key, token, lease))
            except BaseException:  # Ctrl-C
                protocol.remember(token)
                raise
            first = protocol.first(reply, token)
            if first is not None:
                return first
            if reply is not REFUSAL:  # that goes through the route from the beginning
                begun = Begun(address, token, reply)
        answer: Answer = self._run(route.lookup(key, lease, begun))
        return answer

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        answer: Leased | Busy = self._run(self._route.replace(key, seen, lease))
        return answer

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`. The usual answers come the shortest way."""
        route, begun = self._route, None
        protocol, address = route.protocol, route.home(key)
        if address is not None and not (server := self._servers.get(address) or self._open(address)).breaker.open:
            try:
                reply = server.ask(protocol.packed_fill(key, token, stored, ttl))
            except BaseException:  # Ctrl-C
                protocol.remember(token)
                raise
            if type(reply) is int:
                return reply == 1
            if reply is not REFUSAL:
                begun = Begun(address, token, reply)
        return bool(self._run(route.fill(key, token, stored, ttl, begun)))

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return bool(self._run(self._route.release(key, token)))

    def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        self._run(self._route.invalidate(keys))

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `Backend.guard`."""
        proofs: Sequence[Any] = self._run(self._route.guard(keys, token, hold))
        return proofs

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `Backend.unguard`."""
        return int(self._run(self._route.unguard(marks)))

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.update`."""
        return bool(self._run(self._route.update(key, token, stored, ttl)))

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Claiming.claim`."""
        answer: Leased | Busy = self._run(self._route.claim(key, seen, lease))
        return answer

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """See `Claiming.mark_stale`."""
        self._run(self._route.mark_stale(keys, grace))

    def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[Answer | CacheUnavailable | None], Sequence[Version]]:
        """See `Batching.lookup_many`."""
        found: tuple[Sequence[Answer | CacheUnavailable | None], Sequence[Version]] = self._run(
            self._route.lookup_many(keys, lease, tags)
        )
        return found

    def fill_many(
        self, fills: Sequence[Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[Version]]:
        """See `Batching.fill_many`."""
        done: tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[Version]] = self._run(
            self._route.fill_many(fills, tags)
        )
        return done

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool | CacheUnavailable]:
        """See `Batching.release_many`."""
        done: Sequence[bool | CacheUnavailable] = self._run(self._route.release_many(leases))
        return done

    def replace_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """See `Batching.replace_many`."""
        done: Sequence[Leased | Busy | CacheUnavailable] = self._run(self._route.replace_many(entries, lease))
        return done

    def claim_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """See `Batching.claim_many`."""
        done: Sequence[Leased | Busy | CacheUnavailable] = self._run(self._route.claim_many(entries, lease))
        return done

    def plant(self, tags: Sequence[str]) -> Sequence[Version]:
        """See `Batching.plant`."""
        versions: Sequence[Version] = self._run(self._route.plant(tags))
        return versions

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        self._run(self._route.clear(prefix))

    def close(self) -> None:
        """See `Backend.close`; a client of the user's stays open."""
        for server in list(self._servers.values()):
            server.close()

    def _run(self, steps: Steps) -> Any:
        replies: Any = None
        try:
            while True:
                address, commands, probe = steps.send(replies)
                server = self._servers.get(address) or self._open(address)
                replies = server.exchange(commands, probe)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _open(self, address: Address) -> SyncServer:
        server = self._servers.setdefault(address, self._connect(address))
        used = {address, *self._route.servers()}
        for gone in [each for each in list(self._servers) if each not in used]:
            if (old := self._servers.pop(gone, None)) is not None:
                old.close()
        return server
