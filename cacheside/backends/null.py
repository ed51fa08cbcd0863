"""No cache at all: for tests, and for switching off. Every call goes to the store; nothing is looked up or shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import tokens
from ..errors import ConfigurationError
from . import urls
from .base import AsyncBackend, Busy, Capability, Fill, Leased, Size
from .beyond import Version


class NullBackend:
    """A backend that keeps nothing. Lacking the capability "stores", it is not even asked by decorated functions."""

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Callable[[], float]) -> NullBackend:
        """``null://``."""
        parts, options = urls.split(url)
        if parts.netloc or parts.path:
            raise ConfigurationError(f"the null cache has no host and no path: 'null://', not {urls.masked(url)!r}")
        urls.refuse_unknown(url, options, ())
        return cls()

    def __repr__(self) -> str:
        return "null://"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return frozenset({"in_process", "objects", "clear", "claims", "batches"})

    @property
    def aio(self) -> AsyncBackend | None:
        """None: it never waits."""
        return None

    def lookup(self, key: str, lease: float) -> Leased:
        """Always a lease, and one that is worth nothing."""
        return Leased(None)

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """As `lookup`."""
        return Leased(None)

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """Refused."""
        return False

    def release(self, key: str, token: Any) -> bool:
        """There was none."""
        return False

    def invalidate(self, keys: Sequence[str]) -> None:
        """There is nothing to drop."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """Nobody can fill anything, so every key is guarded."""
        return [None] * len(keys)

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """None was lost."""
        return 0

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """Refused."""
        return False

    def clear(self, prefix: str | None) -> None:
        """There is nothing to drop."""

    def size(self) -> Size:
        """None, and none possible."""
        return Size(0, 0)

    def close(self) -> None:
        """Nothing to give back."""

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """As `lookup`."""
        return Leased(None)

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """There is nothing to mark."""

    def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[Leased | None], Sequence[Version]]:
        """As `lookup`, and no tag has a version."""
        return [None if lease is None else Leased(None)] * len(keys), [None] * len(tags)

    def fill_many(self, fills: Sequence[Fill], tags: Sequence[str] = ()) -> tuple[Sequence[bool], Sequence[Version]]:
        """All are refused."""
        return [False] * len(fills), [None] * len(tags)

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool]:
        """There were none."""
        return [False] * len(leases)

    def replace_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Sequence[Leased | Busy]:
        """As `lookup`."""
        return [Leased(None)] * len(entries)

    def claim_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Sequence[Leased | Busy]:
        """As `lookup`."""
        return [Leased(None)] * len(entries)

    def plant(self, tags: Sequence[str]) -> Sequence[Version]:
        """A new version for each, which is kept for nobody."""
        return [tokens.fresh() for _ in tags]
