"""Where entries live. A *place* carries out the commands of a backend one at a time, on the real thing.

What is asked of a backend is an *operation*: a generator of commands that is sent replies, as `wire.py` of each backend
makes them. Between two of its commands anything may happen.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Generator
from typing import Any, Protocol

from redis import UnixDomainSocketConnection, exceptions
from servers import HOST

from cacheside import serializers
from cacheside.backends.base import Backend, Capability, Size
from cacheside.backends.memcached import changes
from cacheside.backends.memcached.marker import GUARD_FLAG
from cacheside.backends.memcached.protocol import Protocol as MemcachedProtocol
from cacheside.backends.memcached.replies import Inbox, Reply
from cacheside.backends.memcached.ring import Ring
from cacheside.backends.memcached.wire import VALUE_FLAG, Held, Pause
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.redis import scripts
from cacheside.backends.redis.wire import Protocol as RedisProtocol
from cacheside.core import Core
from cacheside.entries import Table
from cacheside.envelope import Codec, LiveCodec, WireCodec
from cacheside.errors import CacheUnavailable
from cacheside.testing import FakeClock

LEASE = 1_000.0  # seconds of a clock that only the test turns; on a server nothing expires by itself

Operation = Generator[Any, Any, Any]

clock = FakeClock()
"""The time of everything in this package."""

_keys = itertools.count(1)


class Place(Protocol):
    """One backend, and one key of it at a time."""

    name: str
    key: str
    codec: Codec
    lossy: bool
    """Whether commands can get lost on the way."""

    def renew(self) -> None:
        """A key that nothing was ever done to."""

    def core(self) -> Core:
        """What a new process has."""

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        """The commands of one call of the backend by the process with this core."""

    def execute(self, command: Any) -> Any:
        """Carry out one command; the reply."""

    def looks(self, command: Any) -> bool:
        """Whether it is one that changes nothing, where the key holds anything."""

    def failure(self, closed: bool) -> Exception:
        """What is told instead of a reply: the connection was closed, or a time-out."""

    def look(self) -> tuple[str, int | None]:
        """What the key holds after the last command: "", "lease", "guard", "value" and its version, or "mark"."""

    def drop(self) -> None:
        """Expiry, eviction: the key holds nothing any more."""


class Memory:
    """In this process."""

    name = "memory"
    lossy = False

    def __init__(self) -> None:
        self.codec: Codec = LiveCodec("", copies=False)
        self.renew()

    def renew(self) -> None:
        self.key = "k"
        self.backend = MemoryBackend(clock=clock)
        self.table = Table()

    def core(self) -> Core:
        return Core("memory", self.backend, None, "", LEASE)

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        return (yield verb, args)

    def execute(self, command: Any) -> Any:
        verb, args = command
        return getattr(self.backend, verb)(*args)

    def looks(self, command: Any) -> bool:
        return command[0] == "lookup"

    def failure(self, closed: bool) -> Exception:
        raise AssertionError("memory loses nothing")

    def look(self) -> tuple[str, int | None]:
        backend = self.backend
        for row in self.table.rows.values():
            if clock() < row.deadline:
                return "value", row.value  # a hit by it would return this, whatever the backend says
        if (entry := backend._entries.get(self.key)) is not None:
            backend.attach(entry, self.table, self.key, (str,), entry.stored)  # as the second read does
            return "value", entry.stored
        if self.key in backend._guards:
            return "guard", None
        return ("lease" if self.key in backend._leases else ""), None

    def drop(self) -> None:
        self.backend._entries.pop(self.key)
        for table in (self.backend._leases, self.backend._guards):
            table.pop(self.key, None)


class Stub:
    """What a core wants to know of its backend. Commands do not go through it."""

    aio = None

    def __init__(self, protocol: Any, *capabilities: Capability) -> None:
        self.protocol = protocol
        self.capabilities = frozenset(capabilities)

    def size(self) -> Size:
        return Size(None, None)


def stub_core(label: str, protocol: Any, *capabilities: Capability) -> Core:
    """A core over a `Stub`."""
    stub: Any = Stub(protocol, *capabilities)
    backend: Backend = stub
    return Core(label, backend, stub, "", LEASE)


class Redis:
    """A Redis server, over one connection of ours: it carries out one command after the other anyway."""

    name = "redis"
    lossy = True

    def __init__(self, path: str) -> None:
        self.codec: Codec = WireCodec(serializers.create("msgpack", None), "", (), None)
        self._connection = UnixDomainSocketConnection(path=path, protocol=2, socket_timeout=20)
        self.renew()

    def renew(self) -> None:
        self.key = f"model:{next(_keys)}"
        self._stored = b""

    def core(self) -> Core:
        return stub_core("redis", RedisProtocol(), "clear", "stores")

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        protocol: Any = core.backend.protocol  # type: ignore[union-attr]  # the stub's
        if verb == "update":
            key, token, _, stored, ttl = args
            args = key, token, stored, ttl
        return getattr(protocol, verb)(*args)

    def execute(self, command: Any) -> Any:
        # What the key holds after it is asked in the same breath: it saves a third of the time.
        connection = self._connection
        connection.send_packed_command(connection.pack_commands((command, ("GET", self.key))))
        reply, self._stored = self._reply(), self._reply() or b""
        if isinstance(reply, exceptions.NoScriptError):  # the first run must not differ from the next
            connection.send_command("SCRIPT", "LOAD", _texts()[command[1]])
            self._reply()
            return self.execute(command)
        return reply

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except exceptions.ResponseError as error:
            return error

    def looks(self, command: Any) -> bool:
        return "NX" in command

    def failure(self, closed: bool) -> Exception:
        return exceptions.ConnectionError("closed") if closed else exceptions.TimeoutError("no answer")

    def look(self) -> tuple[str, int | None]:
        stored = self._stored
        if stored[:1] == b"V":
            return "value", self.codec.decode(stored[43:])
        return {b"": "", b"L": "lease", b"W": "guard"}.get(stored[:1], "mark"), None

    def drop(self) -> None:
        self.execute(("DEL", self.key))

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()


def _texts() -> dict[str, str]:
    """The scripts by the names under which servers know them; as they are now, for a test may have changed one."""
    return {each.sha: each.text for each in vars(scripts).values() if isinstance(each, scripts.Script)}


class Memcached:
    """A memcached server, over one socket of ours."""

    name = "memcached"
    lossy = True

    def __init__(self, host: str, port: int) -> None:
        # The expiry in an entry is for ttls in whole seconds: here nothing has one.
        self.codec: Codec = WireCodec(serializers.create("msgpack", None), "", (), clock)
        self._ring = Ring([f"{host}:{port}"])
        self._socket = socket.create_connection((host, port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.renew()

    def renew(self) -> None:
        self.key = f"model:{next(_keys)}"
        self._look = b"mg %b v f\r\n" % self.key.encode()
        self._found = Reply(b"EN", b"")

    def core(self) -> Core:
        return stub_core("memcached", MemcachedProtocol(self._ring, 1.0), "whole_seconds", "stores")

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        protocol: MemcachedProtocol = core.backend.protocol  # type: ignore[union-attr]  # the stub's
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
    def _lookup(protocol: MemcachedProtocol, place: int, command: Any, lease: float) -> Operation:
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
        return self._talk(command.data, command.replies)

    def _talk(self, data: bytes, count: int) -> list[Any]:
        # As with Redis, what the key holds after it is asked in the same breath.
        self._socket.sendall(data + self._look)
        inbox = Inbox(count + 1)
        while not inbox.feed(self._socket.recv(65536)):
            pass
        *replies, self._found = inbox.replies
        return replies

    def looks(self, command: Any) -> bool:
        return command.data.startswith(b"mg ")

    def failure(self, closed: bool) -> Exception:
        return ConnectionResetError("closed") if closed else TimeoutError("no answer")

    def look(self) -> tuple[str, int | None]:
        line, value = self._found
        if not line.startswith(b"VA"):
            return "", None
        if b" f" + VALUE_FLAG in line:
            return "value", self.codec.decode(value)
        return ("guard" if b" f" + GUARD_FLAG in line else "mark" if value else "lease"), None

    def drop(self) -> None:
        self._talk(b"md %b\r\n" % self.key.encode(), 1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def opened(request: Any, name: str) -> Place:
    """The place "memory", "redis" or "memcached", on the session's server; closed with the test of `request`."""
    if name == "memory":
        return Memory()
    server = request.getfixturevalue(f"{name}_server")
    place = Redis(server.socket_path) if name == "redis" else Memcached(HOST, server.port)
    request.addfinalizer(place.close)
    return place
