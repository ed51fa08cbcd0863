"""Entries in the memory of this process: live objects, leases beside them, one lock."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .. import eviction, forks
from ..errors import ConfigurationError
from . import urls
from .base import AsyncBackend, Busy, Capability, Hit, Leased, Size

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class _Entry:
    __slots__ = ("deadline", "stored")

    def __init__(self, stored: Any, deadline: float) -> None:
        self.stored = stored
        self.deadline = deadline


class MemoryBackend:
    """A cache in this process, private to this object.

    Hits return the very object that was stored, as with `functools.lru_cache`: who changes it changes it for all. With
    `copy=True` everybody gets a deep copy. Thread-safe; it never waits, so async functions use it as it is.

    Args:
        max_entries: entries kept at most.
        policy: which go first when it is full.
        copy: values are deep-copied on the way in and out.
        clock: seconds that never go back.

    Raises:
        ConfigurationError: `max_entries` is not a positive integer, or the policy is unknown.
    """

    def __init__(
        self,
        max_entries: int = 10_000,
        policy: str = "lru",
        copy: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigurationError(f"max_entries must be a positive integer, not {max_entries!r}")
        self._max_entries = max_entries
        self._policy = policy
        self._clock = clock
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self._entries = eviction.make(policy, max_entries, clock)
        # Leases are not evicted by values: a crowd of loads must not push out what the cache is for. Their number is
        # that of the loads under way; those of dead loads expire.
        self._leases: dict[str, tuple[int, float]] = {}
        self._capabilities: frozenset[Capability] = frozenset(
            ("in_process", "objects", "copies", "clear", "stores")
            if copy
            else ("in_process", "objects", "clear", "stores")
        )

        forks.register(self)

    def after_fork(self) -> None:
        """Leases belong to loads of the parent. Entries stay, unless another thread was just changing them."""
        if self._lock.locked():
            self._entries = eviction.make(self._policy, self._max_entries, self._clock)
        self._lock = threading.Lock()
        self._leases = {}

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Callable[[], float]) -> MemoryBackend:
        """``memory://?max_entries=10000&policy=lru&copy=true``; `timeout` is for servers."""
        parts, options = urls.split(url)
        if parts.netloc or parts.path:
            raise ConfigurationError(f"a memory cache has no host and no path: 'memory://', not {urls.masked(url)!r}")
        urls.refuse_unknown(url, options, ("max_entries", "policy", "copy"))
        limit, copy = options.get("max_entries", "10000"), options.get("copy", "false").lower()
        if not limit.isascii() or not limit.isdigit():
            raise ConfigurationError(f"max_entries must be a positive integer, not {limit!r}")
        if copy not in _FLAGS:
            raise ConfigurationError(f"copy is true or false, not {copy!r}")
        return cls(int(limit), options.get("policy", "lru"), _FLAGS[copy], clock)

    def __repr__(self) -> str:
        return f"memory://?max_entries={self._max_entries}&policy={self._policy}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return self._capabilities

    @property
    def aio(self) -> AsyncBackend | None:
        """None: it never waits, so async functions use the plain form."""
        return None

    def lookup(self, key: str, lease: float) -> Hit | Leased | Busy:
        """See `Backend.lookup`."""
        with self._lock:
            try:
                entry = self._entries[key]
            except KeyError:
                return self._lease(key, lease)
            return Hit(entry.stored, entry)

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry is not seen:
                return Busy()
            self._entries.pop(key, None)
            return self._lease(key, lease)

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        with self._lock:
            if not self._holds(key, token):
                return False
            del self._leases[key]
            self._entries[key] = _Entry(stored, math.inf if ttl is None else self._clock() + ttl)
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
            for key in keys:
                self._entries.pop(key, None)
                self._leases.pop(key, None)

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        with self._lock:
            if prefix is None:
                self._entries.clear()
                self._leases.clear()
                return
            for table in (self._entries, self._leases):
                for key in [key for key in table if key.startswith(prefix)]:
                    table.pop(key, None)

    def size(self) -> Size:
        """See `Backend.size`."""
        with self._lock:
            return Size(len(self._entries), self._max_entries)

    def close(self) -> None:
        """Nothing to give back; entries stay."""

    def _holds(self, key: str, token: Any) -> bool:
        held = self._leases.get(key)
        return held is not None and held[0] == token and self._clock() < held[1]

    def _lease(self, key: str, seconds: float) -> Leased | Busy:
        now = self._clock()
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
