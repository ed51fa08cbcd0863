"""A cache that sees a trace: how many of its requests are hits.

cacheside is asked through its memory backend, as a miss of a decorated function does it: a look-up, and if that gives a
lease, a fill. Peers are asked as caches, with `get` and `set`. Policies see the same either way, since a decorator adds
nothing but the key. theine writes what is new in bulk, and holds a few dozen entries more than it should meanwhile: at
the smallest sizes that makes it look better than it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from . import optimum

Simulate: TypeAlias = Callable[[Sequence[int], int], int]
"""The hits among requests, in a cache of so many entries."""


def cacheside(policy: str) -> Simulate:
    """A memory backend, with this policy."""

    def simulate(requests: Sequence[int], capacity: int) -> int:
        from cacheside.backends.base import Hit, Leased
        from cacheside.backends.memory import MemoryBackend

        url = f"memory://?max_entries={capacity}&policy={policy}"
        backend = MemoryBackend.from_url(url, timeout=1, clock=time.monotonic)
        lookup, fill = backend.lookup, backend.fill
        names = [str(key) for key in range(max(requests) + 1)]
        hits = 0
        for key in requests:
            name = names[key]
            answer = lookup(name, 60)
            if type(answer) is Hit:
                hits += 1
            else:
                assert type(answer) is Leased
                fill(name, answer.token, key, None)
        return hits

    return simulate


def mapping(make: Callable[[int], Any]) -> Simulate:
    """A cache of a peer that is used as a dict."""

    def simulate(requests: Sequence[int], capacity: int) -> int:
        cache = make(capacity)
        hits = 0
        for key in requests:
            try:
                cache[key]
                hits += 1
            except KeyError:
                cache[key] = key
        return hits

    return simulate


def cachetools_lru(capacity: int) -> Any:
    """Its usual one."""
    import cachetools

    return cachetools.LRUCache[int, int](capacity)


def cachebox_lru(capacity: int) -> Any:
    """Without expiry."""
    import cachebox

    return cachebox.LRUCache[int, int](capacity)


def cachebox_ttl(capacity: int) -> Any:
    """With expiry: the one whose speed is measured in part "hit"."""
    import cachebox

    return cachebox.TTLCache[int, int](capacity, 3600)


def theine(requests: Sequence[int], capacity: int) -> int:
    """Its one cache, W-TinyLFU."""
    import theine

    cache = theine.Cache[int, int](capacity)
    hits = 0
    for key in requests:
        if cache.get(key)[1]:
            hits += 1
        else:
            cache.set(key, key)
    cache.close()
    return hits


POLICIES = ("s3fifo", "sieve", "lru", "lfu", "fifo")
OPTIMUM = "optimum"
KINDS: dict[str, Simulate] = {
    **{f"cacheside {policy}": cacheside(policy) for policy in POLICIES},
    "cachetools LRUCache": mapping(cachetools_lru),
    "cachebox LRUCache": mapping(cachebox_lru),
    "cachebox TTLCache": mapping(cachebox_ttl),
    "theine Cache": theine,
    OPTIMUM: optimum.hits,
}
