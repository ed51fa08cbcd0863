"""How operations are carried out: alone, or many together, in rounds, in each of which a server is asked all at once.

What is yielded are steps: commands for one server, which `sync.py` or `aio.py` sends, and whose replies it sends back.
Pure: no I/O, so both colours share it.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis.exceptions import MaxConnectionsError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...breaker import Breaker
from ...errors import CacheUnavailable
from .commands import Command, Operation, answered, twice

TOGETHER = 1200  # commands sent together, as for a thousand keys and their tags: all are answered within one time-out

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


def failed_at_once(reply: BaseException) -> bool:
    """Whether a command without an answer took no time: nobody listens there, or the connection was closed.

    A time-out took some, and so may a name that cannot be looked up.
    """
    return not isinstance(reply, (RedisTimeoutError, TimeoutError)) and not isinstance(
        reply.__context__, socket.gaierror
    )


class Errand:
    """An operation on keys of one place, under way.

    Args:
        items: the keys, or the marks, it is about.
        operation: not begun.
        slot: of all items, on a cluster.
        make: the operation on some of `items`, where there may be several.
        urgent: see `Breaker.admit`.
    """

    def __init__(
        self,
        items: Sequence[Any],
        operation: Operation,
        slot: int = 0,
        make: Callable[[Sequence[Any]], Operation] | None = None,
        urgent: bool = False,
    ) -> None:
        self.items = items
        self.operation = operation
        self.slot = slot
        self.make = make
        self.urgent = urgent
        self.command: Command | None = None
        self.target: Address | None = None
        """Where the command was redirected to; None: where it belongs."""
        self.asking = False
        self.hops = 0
        self.misled = False
        """Whether a reply said that the command belongs elsewhere, or perhaps does."""
        self.result: Any = None
        self.error: CacheUnavailable | None = None


class Rounds(ABC):
    """Carries out operations.

    Args:
        timeout: seconds that a server may take to answer.
        label: how errors call the servers; never with a password.
    """

    def __init__(self, timeout: float, label: str) -> None:
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

    def each(self, keys: Sequence[str], operations: Sequence[Operation]) -> Steps:
        """Carry out an operation on each of `keys`; returns their results, or CacheUnavailable in place of them."""
        errands = [self._errand(key, operation) for key, operation in zip(keys, operations, strict=True)]
        try:
            yield from self._carry_out(errands)
        except CacheUnavailable as error:  # none has begun
            return [error] * len(errands)
        return [errand.result if errand.error is None else errand.error for errand in errands]

    def _errand(self, key: str, operation: Operation) -> Errand:
        """An errand on one key."""
        return Errand((key,), operation)

    @abstractmethod
    def _place(self, errand: Errand) -> Address:
        """Where an errand belongs that was not redirected."""

    def _carry_out(self, errands: list[Errand], begun_as: Begun | None = None) -> Steps:
        """Carry out errands, in rounds; all that one server has to do in a round is sent together.

        Args:
            begun_as: how the only errand has begun.

        Returns:
            the errands that came to an end; those for several keys may have been divided.
        """
        begun, done = list(errands), []
        try:
            if begun_as is not None:
                errand = errands[0]
                errand.command = next(errand.operation)
                errands = yield from self._digest(errand, begun_as.address, begun_as.reply)
                if not errands:
                    done.append(errand)
            while errands:
                todo: dict[Address, list[Errand]] = {}
                for errand in errands:
                    todo.setdefault(errand.target or self._place(errand), []).append(errand)
                errands = []
                for address, all_here in todo.items():
                    for start in range(0, len(all_here), TOGETHER):
                        here = all_here[start : start + TOGETHER]
                        replies = yield from self._send(address, here)
                        for errand, reply in zip(here, replies, strict=True):
                            more = yield from self._digest(errand, address, reply)
                            if more:
                                errands += more
                            else:
                                done.append(errand)
                begun += errands
        finally:
            for errand in begun:
                errand.operation.close()  # cancelled in a step: it notes what it may have planted
        return done

    def _send(self, address: Address, errands: Sequence[Errand]) -> Steps:
        """Send the command of each errand to one server; returns the reply for each, or what came instead."""
        try:
            probe = self._admitted(address, any(errand.urgent for errand in errands))
        except CacheUnavailable as error:
            return [error] * len(errands)
        commands: list[Command] = []
        for errand in errands:
            if errand.command is None:
                try:
                    errand.command = next(errand.operation)  # only now: what makes a token for it has to send it
                except StopIteration as end:  # there is nothing to do, as for no keys
                    errand.result = end.value
                    continue
            if errand.asking:
                commands.append(("ASKING",))
            commands.append(errand.command)
        replies = iter((yield Send(address, commands, probe)) if commands else ())
        return [self._reply(errand, replies) for errand in errands]

    @staticmethod
    def _reply(errand: Errand, replies: Iterator[Any]) -> Any:
        if errand.command is None:
            return None
        return (next(replies), next(replies))[1] if errand.asking else next(replies)

    def _digest(self, errand: Errand, address: Address, reply: Any) -> Steps:
        """The errands that are left to do after a reply; none: this one has come to its end."""
        yield from ()  # it has to ask nobody; others may
        if errand.command is None and reply is None:  # there was nothing to do
            return []
        if isinstance(reply, CacheUnavailable):  # shared by all that was not sent together: raised here, it would grow
            errand.error = reply
            return []
        try:
            errand.command = self._advance(address, errand.operation, reply)
        except StopIteration as end:
            errand.result = end.value
            return []
        except CacheUnavailable as error:
            errand.error = error
            return []
        errand.target, errand.asking, errand.hops = None, False, 0
        return [errand]

    def _admitted(self, address: Address, urgent: bool) -> bool:
        """Whether a command to that server would be a probe; asked before its token is made.

        Raises:
            CacheUnavailable: the server is not to be asked now.
        """
        breaker = self.breaker(address)
        if not breaker.open:
            return False
        breaker.admit(urgent)
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
                self.breaker(address).failed(reply, at_once=failed_at_once(reply))
            raise

    def _on(self, address: Address, operation: Operation, begun: Begun | None = None, urgent: bool = False) -> Steps:
        """Carry out an operation on one server."""
        probe = begun is None and self._admitted(address, urgent)
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
