"""Entries in the memory of this process: live objects, leases beside them, one lock; hits by rows need none."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from .. import forks
from ..entries import Entry, Row, Table
from ..errors import ConfigurationError, NotCacheableError
from ..shelf import Shelf
from ..sizes import size_of
from . import urls
from .base import Answer, AsyncBackend, Busy, Capability, Fill, Leased, Size
from .beyond import Version
from .keeping import Guard, Keeping

if TYPE_CHECKING:
    from .snapshot import Opening, Snapshot

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class MemoryBackend(Keeping):
    """A cache in this process, private to this object.

    Hits return the very object that was stored, as with `functools.lru_cache`: who changes it changes it for all. With
    `copy=True` everybody gets a deep copy. Thread-safe; it never waits, so async functions use it as it is.

    Args:
        max_entries: entries kept at most; 10,000 if neither this nor `max_bytes` is given.
        policy: which go first when it is full: "s3fifo", "sieve", "lru", "lfu", "fifo", or one that was registered
            with `eviction.register`. "lru" and "lfu" have to be told of every hit, which makes hits slower.
        copy: values are deep-copied on the way in and out.
        clock: seconds that never go back.
        max_bytes: instead of `max_entries`: the bytes that entries may take altogether, by `size`.
        size: gives the bytes of a value. The default goes through all that a value refers to (`sizes.size_of`). Must
            not call cached functions.
        snapshot: the path of a file, in which `close` saves what is here, for the next process. It is taken up, and is
            gone, as soon as the cache is used; making a cache does not touch it. Keys made from the arguments then are
            as on a server: not for a lambda, a closure or what is in `__main__`, nor from classes without a name.

    Raises:
        ConfigurationError: `max_entries` or `max_bytes` is not a positive integer, both are given, `size` without
            `max_bytes`, the policy is unknown, or `snapshot` is no path.
    """

    def __init__(
        self,
        max_entries: int | None = None,
        policy: str = "s3fifo",
        copy: bool = False,
        clock: Callable[[], float] = time.monotonic,
        *,
        max_bytes: int | None = None,
        size: Callable[[Any], int] | None = None,
        snapshot: str | os.PathLike[str] | None = None,
    ) -> None:
        if max_entries is not None and max_bytes is not None:
            raise ConfigurationError("max_entries and max_bytes are two ways to bound a cache: give one of them")
        if size is not None and max_bytes is None:
            raise ConfigurationError("size= is for max_bytes=, which is not given")
        limit = "max_entries" if max_bytes is None else "max_bytes"
        given = max_entries if max_bytes is None else max_bytes
        capacity: object = 10_000 if given is None else given
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ConfigurationError(f"{limit} must be a positive integer, not {capacity!r}")
        self._label = f"memory://?{limit}={capacity}&policy={policy}"
        weigh = None if max_bytes is None else size or size_of
        shelf: type[Shelf] = Shelf
        self._snapshot: Snapshot | None = None
        if snapshot is not None:
            from .snapshot import Snapshot, ThawingShelf  # costly to import, and few need it

            self._snapshot = Snapshot(snapshot)
            shelf = ThawingShelf
        super().__init__(partial(shelf, capacity, policy, weigh, clock), capacity if max_bytes is None else None, clock)
        self._lock = self._new_lock()
        capabilities: set[Capability] = {"in_process", "objects", "clear", "stores", "claims", "batches"}
        if snapshot is not None:
            capabilities.add("outlives")
        if copy:
            capabilities.add("copies")
        elif not self._entries.touch and type(self).lookup is MemoryBackend.lookup:
            capabilities.add("rows")  # a subclass with a lookup of its own is asked at each hit
        self._capabilities = frozenset(capabilities)
        self._tables: weakref.WeakSet[Table] = weakref.WeakSet()
        forks.register(self)

    def after_fork(self) -> None:
        """Leases and guards are the parent's. All else stays, unless another thread was just changing it."""
        if self._lock.locked():
            for table in self._tables:
                table.empty()
            self._empty()
        self._lock = self._new_lock()
        self._disown()

    def _new_lock(self) -> threading.Lock | Opening:
        return threading.Lock() if self._snapshot is None else self._snapshot.lock(self)

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Callable[[], float]) -> MemoryBackend:
        """``memory://?max_entries=10000&policy=s3fifo&copy=true&snapshot=/path``; `timeout` is for servers."""
        parts, options = urls.split(url)
        if parts.netloc or parts.path:
            raise ConfigurationError(f"a memory cache has no host and no path: 'memory://', not {urls.masked(url)!r}")
        urls.refuse_unknown(url, options, ("max_entries", "max_bytes", "policy", "copy", "snapshot"))
        limits: dict[str, int | None] = {"max_entries": None, "max_bytes": None}
        for name in limits.keys() & options.keys():
            if not options[name].isascii() or not options[name].isdigit():
                raise ConfigurationError(f"{name} must be a positive integer, not {options[name]!r}")
            limits[name] = int(options[name])
        copy = options.get("copy", "false").lower()
        if copy not in _FLAGS:
            raise ConfigurationError(f"copy is true or false, not {copy!r}")
        return cls(
            limits["max_entries"],
            options.get("policy", "s3fifo"),
            _FLAGS[copy],
            clock,
            max_bytes=limits["max_bytes"],
            snapshot=options.get("snapshot"),
        )

    def __repr__(self) -> str:
        return self._label

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return self._capabilities

    @property
    def aio(self) -> AsyncBackend | None:
        """None: it never waits, so async functions use the plain form."""
        return None

    def lookup(self, key: str, lease: float) -> Answer:
        """See `Backend.lookup`."""
        with self._lock:
            answer = self._lookup(key, lease)
            assert answer is not None  # a lease was asked for
            return answer

    def attach(
        self,
        entry: Entry,
        table: Table,
        raw: Hashable,
        types: tuple[type, ...],
        value: Any,
        until: float = inf,
        may: Callable[[], bool] = lambda: True,
    ) -> None:
        """Let a function find `entry`, of a `Hit` that it got, by a row until then; if the entry is there still.

        Races: the entry is invalidated after the lookup. Then it is dead here, under the lock, and gets no row. Its
        rows are taken away by `detach`: what is the reason, `may` sees here, under the lock.
        """
        with self._lock:
            if entry.deadline > self.clock() and not entry.stale and may():
                self._tables.add(table)
                entry.attach(Row(entry, value, table, raw, types, until))

    def detach(self, keys: Collection[str]) -> None:
        """Let no function find the entries of `keys` by a row any more; calls look up again."""
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is not None:
                    for row in entry.rows:
                        row.die()

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        with self._lock:
            return self._replace(key, seen, lease)

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        with self._lock:
            return self._fill(key, token, stored, ttl)

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        with self._lock:
            return self._release(key, token)

    def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        with self._lock:
            self._drop(keys)
            self._changed()

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `Backend.guard`. The token is proof enough: None stands for it."""
        with self._lock:
            for key in keys:
                guard = self._guard(key)
                if guard is None:
                    guard = self._guards[key] = Guard()
                    self._drop_value(key)
                else:
                    guard.untouched = False
                guard.marks[token] = self.clock() + hold
            self._changed()
            return [None] * len(keys)

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `Backend.unguard`."""
        lost = 0
        with self._lock:
            for key, token in marks:
                guard = self._guard(key)
                if guard is None or guard.marks.pop(token, None) is None:
                    lost += 1
                    self._drop([key])
                elif guard.marks:
                    guard.untouched = False
                else:
                    del self._guards[key]
            if lost:
                self._changed()
        return lost

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.update`."""
        with self._lock:
            guard = self._guard(key)
            if guard is None or not guard.untouched or list(guard.marks) != [token]:
                return False
            self._entries.put(key, stored, ttl)  # first, as in `fill`
            del self._guards[key]
            return True

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        with self._lock:
            for table in (self._entries, self._leases, self._guards, self._tags):
                self._drop([key for key in table if key.startswith(prefix or "")])
            self._changed()

    def size(self) -> Size:
        """See `Backend.size`. Drops all entries that have expired."""
        with self._lock:
            self._entries.reclaim()
            return Size(len(self._entries), self._max_entries)

    def close(self) -> None:
        """Entries stay; with a snapshot they are saved, by the process that made this object."""
        if self._snapshot is not None:
            self._snapshot.save(self)

    def _changed(self) -> None:
        if self._snapshot is not None:
            self._snapshot.changed()

    # Claims.

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Claiming.claim`."""
        with self._lock:
            return self._claim(key, seen, lease)

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """See `Claiming.mark_stale`."""
        with self._lock:
            for key in keys:
                self._entries.mark(key, grace)
                self._drop_rights(key)
                self._touch(key)
            self._changed()

    # Batches: each under one hold of the lock.

    def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[Answer | None], Sequence[Version]]:
        """See `Batching.lookup_many`."""
        with self._lock:
            return [self._lookup(key, lease) for key in keys], self._versions(tags)

    def fill_many(
        self, fills: Sequence[Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError], Sequence[Version]]:
        """See `Batching.fill_many`."""
        done: list[bool | NotCacheableError] = []
        with self._lock:
            for fill in fills:
                try:
                    done.append(self._fill(*fill))
                except NotCacheableError as error:
                    done.append(error)
            return done, self._versions(tags)

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool]:
        """See `Batching.release_many`."""
        with self._lock:
            return [self._release(key, token) for key, token in leases]

    def replace_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Sequence[Leased | Busy]:
        """See `Batching.replace_many`."""
        with self._lock:
            return [self._replace(key, seen, lease) for key, seen in entries]

    def claim_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Sequence[Leased | Busy]:
        """See `Batching.claim_many`."""
        with self._lock:
            return [self._claim(key, seen, lease) for key, seen in entries]

    def plant(self, tags: Sequence[str]) -> Sequence[Version]:
        """See `Batching.plant`."""
        with self._lock:
            return [self._plant(tag) for tag in tags]
