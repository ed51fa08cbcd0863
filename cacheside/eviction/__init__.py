"""Which entries of a memory backend go when it is full. One policy a file; `make` picks by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol, TypeAlias, cast

from ..errors import ConfigurationError

_POLICIES = {"lru": "cacheside.eviction.lru:make"}


class Timed(Protocol):
    """An entry that says when it expires, in seconds of the store's clock (inf: never)."""

    deadline: float


Store: TypeAlias = MutableMapping[str, Any]
"""Keys and `Timed` entries; bounded, forgets what is past its deadline. Not thread-safe: its owner has the lock."""


def make(policy: str, max_entries: int, clock: Callable[[], float]) -> Store:
    """A store of at most `max_entries` entries that evicts by `policy`.

    Raises:
        ConfigurationError: unknown policy.
    """
    path = _POLICIES.get(policy)
    if path is None:
        raise ConfigurationError(f"unknown eviction policy {policy!r}; known are: {', '.join(sorted(_POLICIES))}")
    module, _, attribute = path.partition(":")
    factory = cast("Callable[[int, Callable[[], float]], Store]", getattr(importlib.import_module(module), attribute))
    return factory(max_entries, clock)
