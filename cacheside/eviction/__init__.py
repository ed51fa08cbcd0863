"""Which entries of a memory backend go when it is full. One policy a file, picked by name from a registry.

A policy is registered as a callable ``make(capacity, evicted) -> Store``: `capacity` is the sum of weights that may be
kept, `evicted(entry)` is to be called with each entry that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from ..entries import Entry
from ..registry import Registry


class Store(Protocol):
    """Entries by their keys. Not thread-safe: its owner has the lock. What has expired is its owner's care too."""

    touch: bool
    """Whether hits have to be told, by `hit`. If not, they are counted in the entries, and need no lock."""

    def get(self, key: str) -> Entry | None:
        """The entry under `key`. No hit."""

    def hit(self, entry: Entry) -> None:
        """A lookup has found it."""

    def add(self, entry: Entry) -> None:
        """Put in an entry, where none of its key is, of a weight up to the capacity; and evict what is too much."""

    def remove(self, entry: Entry) -> None:
        """Take out an entry that is there."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Entry]:
        """All entries; the store must not change meanwhile."""
        ...


Evicted: TypeAlias = Callable[[Entry], object]
Make: TypeAlias = Callable[[int, Evicted], Store]

_registry: Registry[Make] = Registry(
    "eviction policy",
    "cacheside.eviction",
    {
        "s3fifo": "cacheside.eviction.s3fifo:S3Fifo",
        "sieve": "cacheside.eviction.sieve:Sieve",
        "lru": "cacheside.eviction.classic:lru",
        "lfu": "cacheside.eviction.classic:lfu",
        "fifo": "cacheside.eviction.classic:fifo",
    },
    {},
)


def register(name: str, make: str | Make) -> None:
    """Let ``policy=name`` mean a policy of your own: a callable, or a path ``"module:Attr"`` imported on first use.

    Raises:
        ConfigurationError: the name has another meaning already, or the path has no colon.
    """
    _registry.register(name, make)


def make(policy: str, capacity: int, evicted: Evicted) -> Store:
    """A store that evicts by `policy`.

    Raises:
        ConfigurationError: unknown policy; the message lists the known ones.
    """
    return _registry.get(policy)(capacity, evicted)
