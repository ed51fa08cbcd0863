"""Which server a command goes to. Pure: no I/O, so both colours share it.

A route turns each call of `base.Backend` into steps: commands for one server, which `sync.py` or `aio.py` sends, and
whose replies it is sent back. What is said to the servers, and what the replies mean, is known by `wire.py` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis.exceptions import MaxConnectionsError, RedisError, ResponseError

from ...breaker import Breaker
from ...errors import CacheUnavailable
from .wire import Command, Operation, Protocol, answered, twice

Address: TypeAlias = tuple[str, int]
"""Host and port."""


class Send(NamedTuple):
    """Commands for one server, to be sent together over one connection.

    Their replies are the answer to this step, one for each, with what came instead of a reply in its place: an error
    of the client library, an OSError, or CacheUnavailable for what was not sent. `probe`: they may be sent though the
    server's breaker is open.
    """

    address: Address
    commands: Sequence[Command]
    probe: bool


class Begun(NamedTuple):
    """A lookup or a fill whose first command was sent without ado: where to, with which token, and what came back."""

    address: Address
    token: bytes
    reply: Any


Steps: TypeAlias = Generator[Send, list[Any], Any]


def question(*command: Any) -> Operation:
    """Something that may be asked twice, since it changes nothing.

    Raises:
        CacheUnavailable: no answer, or a refusal.
    """
    return answered((yield from twice(command)))


def unanswered(reply: object) -> bool:
    """Whether a command may have been carried out or not: its connection failed, or its time was over."""
    return isinstance(reply, (RedisError, OSError)) and not isinstance(reply, (ResponseError, MaxConnectionsError))


class Route(ABC):
    """The calls of a backend as steps.

    Args:
        protocol: what is said to the servers.
        timeout: seconds that a server may take to answer.
        label: how errors call the servers; never with a password.
    """

    def __init__(self, protocol: Protocol, timeout: float, label: str) -> None:
        self.protocol = protocol
        self.label = label
        self._timeout = timeout
        self._breakers: dict[Address, Breaker] = {}

    def breaker(self, address: Address) -> Breaker:
        """That of one server, shared by threads, event loops and both colours."""
        return self._breakers.get(address) or self._breakers.setdefault(
            address, Breaker(self.name(address), self._timeout)
        )

    def name(self, address: Address) -> str:
        """How errors call one server."""
        return self.label

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

    def _admitted(self, address: Address) -> bool:
        """Whether a command to that server would be a probe; asked before its token is made.

        Raises:
            CacheUnavailable: the server is not to be asked now.
        """
        breaker = self.breaker(address)
        if not breaker.open:
            return False
        breaker.admit()
        return True

    def _advance(self, address: Address, operation: Operation, reply: Any) -> Command:
        """The next command of an operation, whose last one had this reply from that server.

        Raises:
            StopIteration: with the result.
            CacheUnavailable: the operation failed. If it had no answer to the end, the breaker is told: what was tried
                again and then answered is no outage.
        """
        if isinstance(reply, CacheUnavailable):  # it was not sent, so there is nothing to try again
            raise reply
        try:
            return operation.send(reply)
        except CacheUnavailable:
            if unanswered(reply):
                self.breaker(address).failed(reply)
            raise

    def _on(self, address: Address, operation: Operation, begun: Begun | None = None) -> Steps:
        """Carry out an operation on one server."""
        probe = begun is None and self._admitted(address)
        reply, sent = None, begun is not None
        try:
            if begun is not None:
                next(operation)
                reply = begun.reply
            while True:
                try:
                    command = self._advance(address, operation, reply)
                except StopIteration as end:
                    return end.value
                except CacheUnavailable as error:
                    error.sent |= sent  # not the last command, but one before it
                    raise
                (reply,) = yield Send(address, (command,), probe)
                sent |= not isinstance(reply, CacheUnavailable)
        finally:
            operation.close()  # cancelled in a step: it notes what it may have planted


class OneServer(Route):
    """All keys on one server."""

    HERE: Address = ("", 0)

    def run(self, operation: Operation, begun: Begun | None = None) -> Steps:
        """Carry out an operation; of one that has begun, the rest."""
        return self._on(self.HERE, operation, begun)

    def of_key(self, key: str, operation: Operation, begun: Begun | None = None) -> Steps:
        """An operation on one key; of one that has begun, the rest."""
        return self.run(operation, begun)

    def home(self, key: str) -> Address | None:
        """See `Route.home`."""
        return self.HERE

    def invalidate(self, keys: Sequence[str]) -> Steps:
        """See `Backend.invalidate`."""
        return self.run(self.protocol.invalidate(keys))

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Steps:
        """See `Backend.guard`."""
        return self.run(self.protocol.guard(keys, token, hold))

    def unguard(self, marks: Sequence[tuple[str, str]]) -> Steps:
        """See `Backend.unguard`."""
        return self.run(self.protocol.unguard(marks))

    def clear(self, prefix: str | None) -> Steps:
        """See `Backend.clear`."""
        return self.run(self.protocol.clear(prefix))
