"""Entries in the memory of this process: live objects, leases beside them, one lock; hits by rows need none."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from .. import forks
from ..entries import Entry, Row, Table
from ..errors import ConfigurationError
from ..shelf import Shelf
from ..sizes import size_of
from . import urls
from .base import Answer, AsyncBackend, Busy, Capability, Guarded, Hit, Leased, Size

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class _Guard:
    """The marks of the writers at work on a key, each with its deadline."""

    __slots__ = ("marks", "untouched")

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}
        self.untouched = True

    def live(self, now: float) -> bool:
        """Whether any mark is left; those whose deadline is over are removed."""
        for token in [token for token, deadline in self.marks.items() if deadline <= now]:
            del self.marks[token]
        return bool(self.marks)


class MemoryBackend:
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

    Raises:
        ConfigurationError: `max_entries` or `max_bytes` is not a positive integer, both are given, `size` without
            `max_bytes`, or the policy is unknown.
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
        self._max_entries = capacity if max_bytes is None else None
        self.clock: Callable[[], float] = clock
        weigh = None if max_bytes is None else size or size_of
        self._make: Callable[[], Shelf] = partial(Shelf, capacity, policy, weigh, clock)
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self._entries = self._make()
        # Leases are not evicted by values: a crowd of loads must not push out what the cache is for. Their number is
        # that of the loads under way; those of dead loads expire.
        self._leases: dict[str, tuple[int, float]] = {}
        # A guarded key has neither value nor lease. Guards are not evicted.
        self._guards: dict[str, _Guard] = {}
        capabilities: set[Capability] = {"in_process", "objects", "clear", "stores"}
        if copy:
            capabilities.add("copies")
        elif not self._entries.touch and type(self).lookup is MemoryBackend.lookup:
            capabilities.add("rows")  # a subclass with a lookup of its own is asked at each hit
        self._capabilities = frozenset(capabilities)
        self._tables: weakref.WeakSet[Table] = weakref.WeakSet()
        forks.register(self)

    def after_fork(self) -> None:
        """Leases and guards are the parent's. Entries stay, unless another thread was just changing them."""
        if self._lock.locked():
            for table in self._tables:
                table.empty()
            self._entries = self._make()
        self._lock = threading.Lock()
        self._leases = {}
        self._guards = {}

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Callable[[], float]) -> MemoryBackend:
        """``memory://?max_entries=10000&policy=s3fifo&copy=true``, or `max_bytes`; `timeout` is for servers."""
        parts, options = urls.split(url)
        if parts.netloc or parts.path:
            raise ConfigurationError(f"a memory cache has no host and no path: 'memory://', not {urls.masked(url)!r}")
        urls.refuse_unknown(url, options, ("max_entries", "max_bytes", "policy", "copy"))
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
            entry = self._entries.hit(key)
            if entry is not None:
                return Hit(entry.stored, entry)
            if self._guards and self._guard(key) is not None:
                return Guarded()
            return self._lease(key, lease)

    def attach(self, entry: Entry, table: Table, raw: Hashable, types: tuple[type, ...], value: Any) -> None:
        """Let a function find `entry`, of a `Hit` that it got, by a row; if the entry is there still.

        Race: the entry is invalidated after the lookup. Then it is dead here, under the lock, and gets no row.
        """
        with self._lock:
            if entry.deadline > self.clock():
                self._tables.add(table)
                entry.attach(Row(entry, value, table, raw, types))

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        with self._lock:
            entry = self._entries.get(key)
            if (entry is not None and entry is not seen) or self._guard(key) is not None:
                return Busy()
            self._entries.pop(key)
            return self._lease(key, lease)

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        with self._lock:
            if not self._holds(key, token):
                return False
            self._entries.put(key, stored, ttl)  # first: a value that is too large leaves the lease to be released
            del self._leases[key]
            return True

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        with self._lock:
            if not self._holds(key, token):
                return False
            del self._leases[key]
            return True

    def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        with self._lock:
            self._drop(keys)

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `Backend.guard`. The token is proof enough: None stands for it."""
        with self._lock:
            for key in keys:
                guard = self._guard(key)
                if guard is None:
                    guard = self._guards[key] = _Guard()
                    self._drop_value(key)
                else:
                    guard.untouched = False
                guard.marks[token] = self.clock() + hold
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
            for table in (self._entries, self._leases, self._guards):
                self._drop([key for key in table if key.startswith(prefix or "")])

    def size(self) -> Size:
        """See `Backend.size`. Drops all entries that have expired."""
        with self._lock:
            self._entries.reclaim()
            return Size(len(self._entries), self._max_entries)

    def close(self) -> None:
        """Nothing to give back; entries stay."""

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._drop_value(key)
            guard = self._guard(key)
            if guard is not None:
                guard.untouched = False

    def _drop_value(self, key: str) -> None:
        self._entries.pop(key)
        self._leases.pop(key, None)

    def _guard(self, key: str) -> _Guard | None:
        """The guard that stands on `key`."""
        guard = self._guards.get(key)
        if guard is not None and not guard.live(self.clock()):
            del self._guards[key]
            return None
        return guard

    def _holds(self, key: str, token: Any) -> bool:
        held = self._leases.get(key)
        return held is not None and held[0] == token and self.clock() < held[1]

    def _lease(self, key: str, seconds: float) -> Leased | Busy:
        now = self.clock()
        held = self._leases.get(key)
        if held is not None and now < held[1]:
            return Busy()
        while self._leases:  # forget the leases of dead loads; they stand in the order in which they were given
            oldest = next(iter(self._leases))
            if now < self._leases[oldest][1]:
                break
            del self._leases[oldest]
        token = next(self._tokens)
        self._leases[key] = (token, now + seconds)
        return Leased(token)
