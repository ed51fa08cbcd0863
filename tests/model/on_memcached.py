"""A memcached server, shared by several processes."""

from __future__ import annotations

import re
import socket
from typing import Any, NamedTuple

from cacheside import serializers
from cacheside.backends.memcached import changes
from cacheside.backends.memcached.marker import GUARD_FLAG
from cacheside.backends.memcached.protocol import Protocol
from cacheside.backends.memcached.replies import Inbox, Reply, parse
from cacheside.backends.memcached.ring import Ring
from cacheside.backends.memcached.wire import VALUE_FLAG, Held, Pause
from cacheside.core import Core
from cacheside.envelope import Codec
from cacheside.errors import CachesideError, CacheUnavailable
from cacheside.wirecodec import WireCodec

from .place import EMPTY, ENTRY, TAG, Found, Operation, clock, found, fresh_keys, stub_core

CLAIM = "claim"
"""The name of all side items, for `about`."""

_CHANGES = {"guard": changes.Guarding, "unguard": changes.Release}
_CHANGES |= {"invalidate": changes.Invalidation, "mark_stale": changes.Marking}
_SIDE = "¦".encode()  # in the name of each side item, and in no other
_NOTHING = Reply(b"EN", b"")
_HEAD = re.compile(rb"(m[gsd]) (\S+)(?: (\d+))?([^\r]*)\r\n|stats settings\r\n")


class Sent(NamedTuple):
    """One of the commands of an exchange: its bytes, its verb ("mg", ...), its key, the flags behind it."""

    data: bytes
    verb: bytes
    key: bytes
    flags: tuple[bytes, ...]


class Memcached:
    """A `Place`, over one socket of ours.

    Marks count whole seconds there, and nothing expires in the time of a test: grace and leases are long.
    """

    name = "memcached"
    lossy = True
    more = True

    def __init__(self, host: str, port: int) -> None:
        # The expiry in an entry is for ttls in whole seconds: here nothing has one.
        self.codec: Codec = WireCodec(serializers.create("msgpack", None), "", (), clock)
        self._ring = Ring([f"{host}:{port}"])
        self._socket = socket.create_connection((host, port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.renew()

    def renew(self) -> None:
        self.keys = fresh_keys()
        entry, tag = self.keys.entry.encode(), self.keys.tag.encode()
        self._look = b"mg %b v f\r\nmg %b v f\r\n" % (entry, tag)
        self._names = {entry: frozenset((ENTRY,)), tag: frozenset((TAG,))}
        self._found = self._tag = _NOTHING
        self._changes = 0

    def core(self) -> Core:
        return stub_core("memcached", Protocol(self._ring, 1.0), "whole_seconds", "stores", "claims", "batches")

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        protocol: Protocol = core.backend.protocol  # type: ignore[union-attr]  # the stub's
        if verb in _CHANGES:
            return (yield from self._change(protocol, verb, args))
        if verb in ("lookup_many", "fill_many", "release_many", "replace_many", "claim_many", "plant"):
            return (yield from self._batch(protocol, verb, args))
        if verb == "update":
            key, _, proof, stored, ttl = args
            args = key, proof, stored, ttl
        place, operation = getattr(protocol, verb)(*args)
        if verb == "lookup":
            operation = self._lookup(protocol, place, operation, args[1])
        return (yield from _carry_out(operation))

    @staticmethod
    def _change(protocol: Protocol, verb: str, args: tuple[Any, ...]) -> Operation:
        first, *others = args
        kind: Any = _CHANGES[verb]
        work: list[Any] = [kind(*each, *others) if verb == "unguard" else kind(each, *others) for each in first]
        failures = changes.Failures()
        for _, operation in protocol.change(work):
            try:
                yield from _carry_out(operation)
            except CacheUnavailable as error:
                failures.add(error)
        failures.check(work)
        if verb == "guard":
            return [change.proof for change in work]
        return sum(change.lost for change in work) if verb == "unguard" else None

    @staticmethod
    def _batch(protocol: Protocol, verb: str, args: tuple[Any, ...]) -> Operation:
        many = verb in ("lookup_many", "fill_many")
        if many and len(args) == (2 if verb == "lookup_many" else 1):
            args = *args, ()
        batch = getattr(protocol.batches, verb)(*args)
        for _, operation in batch.tasks:
            yield from _carry_out(operation)
        size = len(args[0])
        return (batch.answers[:size], batch.answers[size:]) if many else batch.answers

    @staticmethod
    def _lookup(protocol: Protocol, place: int, command: Any, lease: float) -> Operation:
        """As the backends do it."""
        answer = yield command
        return (yield from protocol.held(place, answer, lease)) if isinstance(answer, Held) else answer

    def execute(self, command: Sent) -> Reply:
        blank = self._blank(command)
        reply = self._talk(command.data)
        self._changes += blank if command.verb == b"mg" else reply.line.startswith(b"HD")
        return reply

    def _talk(self, data: bytes) -> Reply:
        # As with Redis, what the keys hold after it is asked in the same breath.
        self._socket.sendall(data + self._look)
        inbox = Inbox(3)
        while not inbox.feed(self._socket.recv(65536)):
            pass
        reply, self._found, self._tag = inbox.replies
        return reply

    def state(self) -> Any:
        return self._changes  # a lease that took the place of another looks the same

    def about(self, command: Sent) -> frozenset[str]:
        return frozenset((CLAIM,)) if _SIDE in command.key else self._names.get(command.key, frozenset())

    def looks(self, command: Sent) -> bool:
        return command.verb == b"mg"

    def still(self, command: Sent) -> bool:
        if command.verb == b"mg":
            return not self._blank(command)
        return b"ME" in command.flags and command.key == self.keys.tag.encode() and bool(self.look_tag())

    def _blank(self, command: Sent) -> bool:
        """Whether it looks where nothing is, and leaves a lease there."""
        leaves = command.verb == b"mg" and any(flag.startswith(b"N") for flag in command.flags)
        return leaves and self._found.line == b"EN"

    def failure(self, closed: bool) -> Exception:
        return ConnectionResetError("closed") if closed else TimeoutError("no answer")

    def look(self) -> Found:
        line, value = self._found
        if not line.startswith(b"VA"):
            return EMPTY
        _, flags = parse(line)
        if flags[b"f"] == VALUE_FLAG:
            version = self._tag.value if self.look_tag() == "version" else None
            return found(self.codec, value, b"X" in flags, self.keys, version)
        return Found("guard" if flags[b"f"] == GUARD_FLAG else "mark" if value else "lease")

    def look_tag(self) -> str:
        if not self._tag.line.startswith(b"VA"):
            return ""
        return "guard" if parse(self._tag.line)[1][b"f"] == GUARD_FLAG else "version"

    def drop(self, name: str) -> None:
        self._talk(b"md %b\r\n" % {ENTRY: self.keys.entry, TAG: self.keys.tag}[name].encode())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _carry_out(operation: Any) -> Operation:
    """As the transports do it, over connections that were open before it all began.

    So the rule of connections, which is about restarts, always lets a command pass; it has tests of its own.
    """
    go_on, what = operation.send, None
    while True:
        try:
            command = go_on(what)
        except StopIteration as end:
            return end.value
        if isinstance(command, Pause):
            go_on, what = operation.send, None
            continue
        replies = yield from _exchange(command.data)
        if isinstance(replies, ConnectionResetError) and command.again:
            replies = yield from _exchange(command.data)
        try:
            if isinstance(replies, Exception):
                raise CacheUnavailable(str(replies)) from replies
            assert len(replies) == command.replies, command
            go_on, what = operation.send, command.decide(replies, 1, "server")
        except CachesideError as error:
            go_on, what = operation.throw, error


def _exchange(data: bytes) -> Operation:
    """Commands that go out together, which the server carries out one after the other; their replies, or the failure.

    Once one has no answer, none after it is sent: that more of them arrived, unheard, is what it looks like if a later
    one is the first without an answer, for all answers are thrown away then.
    """
    replies = []
    for command in split(data):
        reply = yield command
        if isinstance(reply, Exception):
            return reply
        replies.append(reply)
    return replies


def split(data: bytes) -> list[Sent]:
    """The commands of an exchange."""
    found, start = [], 0
    while start < len(data):
        head = _HEAD.match(data, start)
        assert head is not None, data[start:]
        verb, key, size, flags = head.groups(b"")
        end = head.end() + (int(size) + 2 if verb == b"ms" else 0)
        found.append(Sent(data[start:end], verb, key, tuple(flags.split())))
        start = end
    return found
