"""Which server a command goes to. Pure: no I/O, so both colours share it.

A route turns each call of `base.Backend`, and of `beyond.py`, into steps. What is said to the servers, and what the
replies mean, is known by `wire.py` alone; how it is carried out, by `rounds.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from ..base import Fill
from .commands import Operation
from .rounds import Address, Begun, Errand, Rounds, Steps
from .wire import Protocol


class Route(Rounds):
    """The calls of a backend as steps.

    Args:
        protocol: what is said to the servers.
        timeout: seconds that a server may take to answer.
        label: how errors call the servers; never with a password.
    """

    def __init__(self, protocol: Protocol, timeout: float, label: str) -> None:
        super().__init__(timeout, label)
        self.protocol = protocol

    def servers(self) -> Collection[Address]:
        """Those that are in use now: connections to others may go."""
        return ()

    @abstractmethod
    def of_key(self, key: str, operation: Operation, begun: Begun | None = None) -> Steps:
        """An operation on one key; of one that has begun, the rest."""

    @abstractmethod
    def home(self, key: str) -> Address | None:
        """The server that a command can be sent to without ado; None if something has to be found out before."""

    def lookup(self, key: str, lease: float, begun: Begun | None = None) -> Steps:
        """See `Backend.lookup`; of one that has begun, the rest."""
        return self.of_key(key, self.protocol.lookup(key, lease, begun and begun.token), begun)

    def replace(self, key: str, seen: Any, lease: float) -> Steps:
        """See `Backend.replace`."""
        return self.of_key(key, self.protocol.replace(key, seen, lease))

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None, begun: Begun | None = None) -> Steps:
        """See `Backend.fill`; of one that has begun, the rest."""
        return self.of_key(key, self.protocol.fill(key, token, stored, ttl), begun)

    def release(self, key: str, token: Any) -> Steps:
        """See `Backend.release`."""
        return self.of_key(key, self.protocol.release(key, token))

    def update(self, key: str, token: str, stored: Any, ttl: float | None) -> Steps:
        """See `Backend.update`; the proof is the token itself."""
        return self.of_key(key, self.protocol.update(key, token, stored, ttl))

    def claim(self, key: str, seen: Any, lease: float) -> Steps:
        """See `Claiming.claim`."""
        return self.of_key(key, self.protocol.claim(key, seen, lease))

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str]) -> Steps:
        """See `Batching.lookup_many`."""
        protocol = self.protocol
        looks = [protocol.find(key) if lease is None else protocol.lookup(key, lease) for key in keys]
        return self._with_tags(keys, looks, tags)

    def fill_many(self, fills: Sequence[Fill], tags: Sequence[str]) -> Steps:
        """See `Batching.fill_many`."""
        return self._with_tags([fill[0] for fill in fills], [self.protocol.fill(*fill) for fill in fills], tags)

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Steps:
        """See `Batching.release_many`."""
        return self.each([key for key, _ in leases], [self.protocol.release(key, token) for key, token in leases])

    def replace_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Steps:
        """See `Batching.replace_many`."""
        return self.each([key for key, _ in entries], [self.protocol.replace(*entry, lease) for entry in entries])

    def claim_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Steps:
        """See `Batching.claim_many`."""
        return self.each([key for key, _ in entries], [self.protocol.claim(*entry, lease) for entry in entries])

    def plant(self, tags: Sequence[str]) -> Steps:
        """See `Batching.plant`."""
        return self.each(tags, [self.protocol.plant(tag) for tag in tags])

    def _with_tags(self, keys: Sequence[str], operations: Sequence[Operation], tags: Sequence[str]) -> Steps:
        versions = [self.protocol.version(tag) for tag in tags]
        found = yield from self.each([*keys, *tags], [*operations, *versions])
        return found[: len(keys)], found[len(keys) :]

    @abstractmethod
    def mark_stale(self, keys: Sequence[str], grace: float) -> Steps:
        """See `Claiming.mark_stale`."""

    @abstractmethod
    def invalidate(self, keys: Sequence[str]) -> Steps:
        """See `Backend.invalidate`."""

    @abstractmethod
    def guard(self, keys: Sequence[str], token: str, hold: float) -> Steps:
        """See `Backend.guard`."""

    @abstractmethod
    def unguard(self, marks: Sequence[tuple[str, str]]) -> Steps:
        """See `Backend.unguard`."""

    @abstractmethod
    def clear(self, prefix: str | None) -> Steps:
        """See `Backend.clear`."""


class OneServer(Route):
    """All keys on one server."""

    HERE: Address = ("", 0)

    def run(self, operation: Operation, begun: Begun | None = None, urgent: bool = False) -> Steps:
        """Carry out an operation; of one that has begun, the rest. `urgent`: see `Breaker.admit`."""
        return self._on(self.HERE, operation, begun, urgent)

    def of_key(self, key: str, operation: Operation, begun: Begun | None = None) -> Steps:
        """An operation on one key; of one that has begun, the rest."""
        return self.run(operation, begun)

    def home(self, key: str) -> Address | None:
        """See `Route.home`."""
        return self.HERE

    def _place(self, errand: Errand) -> Address:
        return self.HERE

    def mark_stale(self, keys: Sequence[str], grace: float) -> Steps:
        """See `Claiming.mark_stale`."""
        return self.run(self.protocol.mark_stale(keys, grace), urgent=True)

    def invalidate(self, keys: Sequence[str]) -> Steps:
        """See `Backend.invalidate`."""
        return self.run(self.protocol.invalidate(keys), urgent=True)

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Steps:
        """See `Backend.guard`."""
        return self.run(self.protocol.guard(keys, token, hold))

    def unguard(self, marks: Sequence[tuple[str, str]]) -> Steps:
        """See `Backend.unguard`."""
        return self.run(self.protocol.unguard(marks), urgent=True)

    def clear(self, prefix: str | None) -> Steps:
        """See `Backend.clear`."""
        return self.run(self.protocol.clear(prefix))
