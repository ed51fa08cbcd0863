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
from .base import Answer, AsyncBackend, Busy, Capability, Guarded, Hit, Leased, Size

_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class _Entry:
    __slots__ = ("deadline", "stored")

    def __init__(self, stored: Any, deadline: float) -> None:
        self.stored = stored
        self.deadline = deadline


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
        # A guarded key has neither value nor lease. Guards are not evicted.
        self._guards: dict[str, _Guard] = {}
        self._capabilities: frozenset[Capability] = frozenset(
            ("in_process", "objects", "copies", "clear", "stores")
            if copy
            else ("in_process", "objects", "clear", "stores")
        )

        forks.register(self)

    def after_fork(self) -> None:
        """Leases and guards are the parent's. Entries stay, unless another thread was just changing them."""
        if self._lock.locked():
            self._entries = eviction.make(self._policy, self._max_entries, self._clock)
        self._lock = threading.Lock()
        self._leases = {}
        self._guards = {}

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

    def lookup(self, key: str, lease: float) -> Answer:
        """See `Backend.lookup`."""
        with self._lock:
            try:
                entry = self._entries[key]
            except KeyError:
                if self._guards and self._guard(key) is not None:
                    return Guarded()
                return self._lease(key, lease)
            return Hit(entry.stored, entry)

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        with self._lock:
            entry = self._entries.get(key)
            if (entry is not None and entry is not seen) or self._guard(key) is not None:
                return Busy()
            self._entries.pop(key, None)
            return self._lease(key, lease)

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        with self._lock:
            if not self._holds(key, token):
                return False
            del self._leases[key]
            self._store(key, stored, ttl)
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
                guard.marks[token] = self._clock() + hold
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
            del self._guards[key]
            self._store(key, stored, ttl)
            return True

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        with self._lock:
            for table in (self._entries, self._leases, self._guards):
                self._drop([key for key in table if key.startswith(prefix or "")])

    def size(self) -> Size:
        """See `Backend.size`."""
        with self._lock:
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
        self._entries.pop(key, None)
        self._leases.pop(key, None)

    def _store(self, key: str, stored: Any, ttl: float | None) -> None:
        self._entries[key] = _Entry(stored, math.inf if ttl is None else self._clock() + ttl)

    def _guard(self, key: str) -> _Guard | None:
        """The guard that stands on `key`."""
        guard = self._guards.get(key)
        if guard is not None and not guard.live(self._clock()):
            del self._guards[key]
            return None
        return guard

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
