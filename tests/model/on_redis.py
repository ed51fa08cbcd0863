"""A Redis server, shared by several processes."""

from __future__ import annotations

from typing import Any

from redis import UnixDomainSocketConnection, exceptions

from cacheside import serializers
from cacheside.backends.redis import scripts
from cacheside.backends.redis.routes import OneServer
from cacheside.backends.redis.wire import Protocol
from cacheside.breaker import Breaker
from cacheside.core import Core
from cacheside.envelope import Codec
from cacheside.wirecodec import WireCodec

from .place import EMPTY, ENTRY, TAG, Found, Operation, clock, found, fresh_keys, stub_core

_KINDS = {b"": "", b"L": "lease", b"W": "guard"}


class _Route(OneServer):
    """With a breaker that never opens: it goes by a clock of its own, and only spares the server commands."""

    def breaker(self, address: Any) -> Breaker:
        return Breaker(self.label, 1.0)


class Redis:
    """A `Place`, over one connection of ours: the server carries out one command after the other anyway."""

    name = "redis"
    lossy = True
    more = True

    def __init__(self, path: str) -> None:
        self.codec: Codec = WireCodec(serializers.create("msgpack", None), "", (), None, clock)
        self._connection = UnixDomainSocketConnection(path=path, protocol=2, socket_timeout=20)
        self.renew()

    def renew(self) -> None:
        self.keys = fresh_keys()
        self._look = ("MGET", self.keys.entry, self.keys.tag)
        self._stored = self._tag = b""

    def core(self) -> Core:
        return stub_core("redis", _Route(Protocol(), 1.0, "redis"), "clear", "stores", "claims", "batches")

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        route: Any = core.backend.protocol  # type: ignore[union-attr]  # the stub's
        if verb == "update":
            key, token, _, stored, ttl = args
            args = key, token, stored, ttl
        elif verb == "fill_many":
            args = args[0], args[1] if len(args) > 1 else ()
        if hasattr(route.protocol, verb) and verb != "plant":
            return (yield from getattr(route.protocol, verb)(*args))
        return (yield from _exchanges(getattr(route, verb)(*args)))

    def execute(self, command: Any) -> Any:
        # What the keys hold after it is asked in the same breath: it saves a third of the time.
        connection = self._connection
        connection.send_packed_command(connection.pack_commands((command, self._look)))
        reply, (stored, tag) = self._reply(), self._reply()
        self._stored, self._tag = stored or b"", tag or b""
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

    def state(self) -> Any:
        return self._stored, self._tag

    def about(self, command: Any) -> frozenset[str]:
        return self.keys.named(command[3 : 3 + command[2]] if command[0] == "EVALSHA" else command[1:2])

    def looks(self, command: Any) -> bool:
        return "NX" in command or command[0] == "GET"

    def still(self, command: Any) -> bool:
        held = self._stored if command[1] == self.keys.entry else self._tag
        return command[0] == "GET" or ("NX" in command and bool(held))

    def failure(self, closed: bool) -> Exception:
        return exceptions.ConnectionError("closed") if closed else exceptions.TimeoutError("no answer")

    def look(self) -> Found:
        stored = self._stored
        if stored[:1] in (b"V", b"S"):
            version = self._tag[1:] if self.look_tag() == "version" else None
            return found(self.codec, stored[43:], stored[:1] == b"S", self.keys, version)
        return Found(_KINDS.get(stored[:1], "mark")) if stored else EMPTY

    def look_tag(self) -> str:
        return {b"": "", b"W": "guard"}.get(self._tag[:1], "version")

    def drop(self, name: str) -> None:
        self.execute(("DEL", {ENTRY: self.keys.entry, TAG: self.keys.tag}[name]))

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()


def _exchanges(steps: Any) -> Operation:
    """As the transports do it: commands that go out together; the server carries out one after the other.

    Once one has no answer, all after it have none. They only look, so whether they arrive does not matter.
    """
    replies: Any = None
    try:
        while True:
            _, commands, _ = steps.send(replies)
            replies, failed = [], None
            for command in commands:
                reply = (yield command) if failed is None else failed
                if isinstance(reply, (exceptions.ConnectionError, exceptions.TimeoutError)):
                    failed = reply
                replies.append(reply)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def _texts() -> dict[str, str]:
    """The scripts by the names under which servers know them; as they are now, for a test may have changed one."""
    return {each.sha: each.text for each in vars(scripts).values() if isinstance(each, scripts.Script)}
