"""A memcached server, shared by several processes."""

from __future__ import annotations

import socket
from typing import Any

from cacheside import serializers
from cacheside.backends.memcached import changes
from cacheside.backends.memcached.marker import GUARD_FLAG
from cacheside.backends.memcached.protocol import Protocol
from cacheside.backends.memcached.replies import Inbox, Reply
from cacheside.backends.memcached.ring import Ring
from cacheside.backends.memcached.wire import VALUE_FLAG, Held, Pause
from cacheside.core import Core
from cacheside.envelope import Codec
from cacheside.errors import CacheUnavailable
from cacheside.wirecodec import WireCodec

from .place import EMPTY, ENTRY, Found, Operation, clock, found, fresh_keys, stub_core


class Memcached:
    """A `Place`, over one socket of ours. Its backend claims, marks and tags nothing yet (see `operation`)."""

    name = "memcached"
    lossy = True
    more = False

    def __init__(self, host: str, port: int) -> None:
        # The expiry in an entry is for ttls in whole seconds: here nothing has one.
        self.codec: Codec = WireCodec(serializers.create("msgpack", None), "", (), clock)
        self._ring = Ring([f"{host}:{port}"])
        self._socket = socket.create_connection((host, port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.renew()

    def renew(self) -> None:
        self.keys = fresh_keys()
        self._look = b"mg %b v f\r\n" % self.keys.entry.encode()
        self._found = Reply(b"EN", b"")
        self._changes = 0

    def core(self) -> Core:
        return stub_core("memcached", Protocol(self._ring, 1.0), "whole_seconds", "stores")

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        protocol: Protocol = core.backend.protocol  # type: ignore[union-attr]  # the stub's
        work: list[Any]
        if verb == "guard":
            keys, token, hold = args
            work = [changes.Guarding(key, token, hold) for key in keys]
        elif verb == "unguard":
            work = [changes.Release(key, token) for key, token in args[0]]
        elif verb == "invalidate":
            work = [changes.Invalidation(key) for key in args[0]]
        else:
            if verb == "update":
                key, _, proof, stored, ttl = args
                args = key, proof, stored, ttl
            place, operation = getattr(protocol, verb)(*args)
            if verb == "lookup":
                operation = self._lookup(protocol, place, operation, args[1])
            return (yield from self._carry_out(operation))
        failures = changes.Failures()
        for _, operation in protocol.change(work):
            try:
                yield from self._carry_out(operation)
            except CacheUnavailable as error:
                failures.add(error)
        failures.check(work)
        if verb == "guard":
            return [change.proof for change in work]
        return sum(change.lost for change in work) if verb == "unguard" else None

    @staticmethod
    def _lookup(protocol: Protocol, place: int, command: Any, lease: float) -> Operation:
        """As the backends do it."""
        answer = yield command
        return (yield from protocol.held(place, answer, lease)) if isinstance(answer, Held) else answer

    def _carry_out(self, operation: Any) -> Operation:
        """As the transports do it, over connections that were open before it all began.

        So the rule of connections, which is about restarts, always lets a command pass; it has tests of its own.
        """
        result: Any = None
        while True:
            try:
                command = operation.send(result)
            except StopIteration as end:
                return end.value
            if isinstance(command, Pause):
                result = None
                continue
            reply = yield command
            if isinstance(reply, ConnectionResetError) and command.again:
                reply = yield command
            if isinstance(reply, Exception):
                raise CacheUnavailable(str(reply)) from reply
            result = command.decide(reply, 1, "server")

    def execute(self, command: Any) -> Any:
        if not self.still(command):
            self._changes += 1
        return self._talk(command.data, command.replies)

    def _talk(self, data: bytes, count: int) -> list[Any]:
        # As with Redis, what the key holds after it is asked in the same breath.
        self._socket.sendall(data + self._look)
        inbox = Inbox(count + 1)
        while not inbox.feed(self._socket.recv(65536)):
            pass
        *replies, self._found = inbox.replies
        return replies

    def state(self) -> Any:
        return self._changes  # a lease that took the place of another looks the same

    def about(self, command: Any) -> frozenset[str]:
        return frozenset((ENTRY,))

    def looks(self, command: Any) -> bool:
        return bool(command.data.startswith(b"mg "))

    def still(self, command: Any) -> bool:
        return self.looks(command) and bool(self.look().kind)

    def failure(self, closed: bool) -> Exception:
        return ConnectionResetError("closed") if closed else TimeoutError("no answer")

    def look(self) -> Found:
        line, value = self._found
        if not line.startswith(b"VA"):
            return EMPTY
        if b" f" + VALUE_FLAG in line:
            return found(self.codec, value, False, self.keys, None)
        return Found("guard" if b" f" + GUARD_FLAG in line else "mark" if value else "lease")

    def look_tag(self) -> str:
        return ""

    def drop(self, name: str) -> None:
        assert name == ENTRY
        self._talk(b"md %b\r\n" % self.keys.entry.encode(), 1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
