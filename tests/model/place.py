"""Where entries live. A *place* carries out the commands of a backend one at a time, on the real thing.

What is asked of a backend is an *operation*: a generator of commands that is sent replies, as `wire.py` of each backend
makes them. Between two of its commands anything may happen.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any, Final, NamedTuple, Protocol

from cacheside.backends.base import Backend, Capability, Size
from cacheside.core import Core
from cacheside.envelope import Codec, Meta
from cacheside.testing import FakeClock

LEASE = 1_000.0  # seconds of a clock that only the test turns; on a server nothing expires by itself

ENTRY, TAG = "entry", "tag"
"""The two keys that there are: that of the entry, and that of its tag."""

Operation = Generator[Any, Any, Any]

clock = FakeClock()
"""The time of everything in this package."""

_numbers = itertools.count(1)


class Found(NamedTuple):
    """What the key of the entry holds.

    kind: "", "lease", "guard", "mark"; "value", "stale" (marked so), or "dead": of another version of its tag. version:
    the value. tagged: whether it has a tag.
    """

    kind: str = ""
    version: int | None = None
    tagged: bool = False


EMPTY: Final = Found()


class Keys(NamedTuple):
    """The keys of a run. `row`: of an entry that nobody reads."""

    entry: str
    tag: str
    row: str

    def named(self, keys: Any) -> frozenset[str]:
        """ENTRY and TAG, where their keys are among these."""
        return frozenset(name for name, key in ((ENTRY, self.entry), (TAG, self.tag)) if key in keys)


def fresh_keys() -> Keys:
    """Keys that nothing was ever done to."""
    number = next(_numbers)
    return Keys(f"model:{number}", f"%tag:model:{number}", f"row:{number}")


class Place(Protocol):
    """One backend, and one entry of it at a time, with its tag."""

    name: str
    keys: Keys
    codec: Codec
    lossy: bool
    """Whether commands can get lost on the way."""
    more: bool
    """Whether it can claim, mark and tag."""

    def renew(self) -> None:
        """Keys that nothing was ever done to."""

    def core(self) -> Core:
        """What a new process has."""

    def operation(self, core: Core, verb: str, args: tuple[Any, ...]) -> Operation:
        """The commands of one call of the backend by the process with this core."""

    def execute(self, command: Any) -> Any:
        """Carry out one command; the reply."""

    def state(self) -> Any:
        """Something that is another after each command that changed what the keys hold."""

    def about(self, command: Any) -> frozenset[str]:
        """Of which of ENTRY and TAG it is."""

    def looks(self, command: Any) -> bool:
        """Whether it is one that changes nothing, where its key holds anything."""

    def still(self, command: Any) -> bool:
        """Whether it changes nothing, as things are."""

    def failure(self, closed: bool) -> Exception:
        """What is told instead of a reply: the connection was closed, or a time-out."""

    def look(self) -> Found:
        """What the entry's key holds after the last command."""

    def look_tag(self) -> str:
        """What the tag's key holds: "", "version" or "guard"."""

    def drop(self, name: str) -> None:
        """Expiry, eviction: ENTRY's or TAG's key holds nothing any more."""


def found(codec: Codec, stored: Any, marked: bool, keys: Keys, version: bytes | None) -> Found:
    """What an entry is, where its tag has this version."""
    outcome, meta = codec.examine(stored)
    assert isinstance(outcome, int), outcome
    kind = "stale" if marked else "value"
    return Found(kind if current(meta, keys, version) else "dead", outcome, bool(meta.stamps))


def current(meta: Meta, keys: Keys, version: bytes | None) -> bool:
    """Whether an entry with this Meta is one of now, where the tag has this version."""
    return meta.stamps in ((), ((keys.tag, version),))


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
