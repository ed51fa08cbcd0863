"""The cache in the memory of the only process that there is."""

from __future__ import annotations

from typing import Any

from cacheside.backends.memory import MemoryBackend
from cacheside.core import Core
from cacheside.entries import Table
from cacheside.envelope import Codec
from cacheside.livecodec import LiveCodec

from .place import EMPTY, ENTRY, LEASE, TAG, Found, Keys, Operation, clock, found

_KEY = frozenset(("lookup", "replace", "fill", "release", "update", "claim"))


class Memory:
    """A `Place`. A command is a call: it is under a lock."""

    name = "memory"
    lossy = False
    more = True

    def __init__(self) -> None:
        self.codec: Codec = LiveCodec("", copies=False, clock=clock)
        self.renew()

    def renew(self) -> None:
        self.keys = Keys("k", "%tag:k", "row")
        self.backend = MemoryBackend(clock=clock)
        self.table = Table()

    def core(self) -> Core:
        return Core("memory", self.backend, None, "", LEASE)

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        return (yield verb, args)

    def execute(self, command: Any) -> Any:
        verb, args = command
        return getattr(self.backend, verb)(*args)

    def state(self) -> Any:
        backend, (key, tag, _) = self.backend, self.keys
        guards = [guard and (guard.untouched, *guard.marks) for guard in map(backend._guards.get, (key, tag))]
        return backend._entries.get(key), backend._leases.get(key), backend._tags.get(tag), guards

    def about(self, command: Any) -> frozenset[str]:
        verb, args = command
        if verb in _KEY:
            return self.keys.named((args[0],))
        if verb in ("unguard", "release_many", "replace_many", "claim_many"):
            return self.keys.named([key for key, _ in args[0]])
        if verb == "fill_many":
            return self.keys.named([fill.key for fill in args[0]] + [tag for tags in args[1:] for tag in tags])
        return self.keys.named([*args[0], *(args[2] if verb == "lookup_many" else ())])

    def looks(self, command: Any) -> bool:
        return command[0] in ("lookup", "lookup_many", "plant")

    def still(self, command: Any) -> bool:
        if not self.looks(command):
            return False
        if command[0] == "plant":
            return bool(self.look_tag())
        return not command[1][0] or bool(self.look().kind)

    def failure(self, closed: bool) -> Exception:
        raise AssertionError("memory loses nothing")

    def look(self) -> Found:
        backend, key = self.backend, self.keys.entry
        for row in self.table.rows.values():
            if clock() < row.deadline:
                return Found("value", row.value)  # a hit by it would return this, whatever the backend says
        if (entry := backend._entries.get(key)) is not None:
            version = None if self.look_tag() == "guard" else backend._tags.get(self.keys.tag)
            what = found(self.codec, entry.stored, entry.stale, self.keys, version)
            _, meta = self.codec.examine(entry.stored)
            if not meta.stamps and not entry.stale:  # as the second read does
                backend.attach(entry, self.table, key, (str,), what.version, meta.fresh)
            return what
        if key in backend._guards:
            return Found("guard")
        return Found("lease") if key in backend._leases else EMPTY

    def look_tag(self) -> str:
        if self.keys.tag in self.backend._guards:
            return "guard"
        return "version" if self.keys.tag in self.backend._tags else ""

    def drop(self, name: str) -> None:
        key = {ENTRY: self.keys.entry, TAG: self.keys.tag}[name]
        self.backend._entries.pop(key)
        for table in (self.backend._leases, self.backend._guards, self.backend._tags):
            table.pop(key, None)
