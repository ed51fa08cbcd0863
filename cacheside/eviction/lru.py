"""Least recently used, by cachetools; expiry per entry, given back as the store changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cachetools import TLRUCache

from . import Store, Timed


def _deadline(key: str, entry: Timed, now: float) -> float:
    return entry.deadline


def make(max_entries: int, clock: Callable[[], float]) -> Store:
    """A store that evicts what was not used for longest, and expired entries before that."""
    store: TLRUCache[str, Any] = TLRUCache(max_entries, ttu=_deadline, timer=clock)
    return store
