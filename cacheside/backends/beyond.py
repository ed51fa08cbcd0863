"""What a backend can do beyond the protocol of `base.py`, if its capabilities say so: claims and batches, and tags."""

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

from ..errors import CacheUnavailable, NotCacheableError
from .base import Answer, Busy, Fill, Guarded, Leased

TAG_TTL: Final = 29 * 24 * 3600.0
"""Seconds that a tag's version is kept after it was planted: memcached reads more than 30 days as a date."""

Version: TypeAlias = bytes | Guarded | CacheUnavailable | None
"""What a tag's key holds: its version; None: nothing; a strict writer's guard; or why it is not known."""


@runtime_checkable
class Claiming(Protocol):
    """What a backend with the capability "claims" can do besides.

    A *claim* is the right to replace a value that goes on being served meanwhile: a lease beside the value, named by a
    token like one, and ended by `fill` or `release` like one. It is lost as a lease is: with an invalidation of the
    key, a mark, a guard, or another fill. Two callers never have a claim on one entry at the same time, as long as
    neither claim is over.
    """

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """The claim on the entry `seen` (of a `Hit` or a `Stale`) for `lease` seconds. The entry stays as it is.

        `Busy`: another has it, or the key does not hold that very entry any more. One round trip. `fill` under the
        claim's token puts a fresh value in place of the entry; `release` makes the entry free to be claimed again.
        A claim may outlive its entry, if that expires or is evicted: `fill` then may be accepted or not.
        """
        ...

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """Invalidate `keys`, but keep values for those who may see an old one: as `Stale`, `grace` seconds at most.

        Leases and claims are lost, guards are touched, as in `invalidate`. The time that a value has left is shortened
        to `grace`, never lengthened: however often it is marked, it is gone `grace` seconds after the first time. A
        server that counts whole seconds may keep it for less, down to not at all, never for longer. The version of a
        tag is dropped.

        Raises:
            CacheUnavailable: as `invalidate`.
        """
        ...


@runtime_checkable
class Batching(Protocol):
    """What a backend with the capability "batches" can do besides: the same for many keys, together with tags.

    All that concerns one server goes in one exchange with it. A server that fails does not fail the rest: what it was
    asked is answered, in its place, by the CacheUnavailable that the call for one key would raise.

    A *tag* is a key that holds a version: 16 visible ASCII characters that no other version ever had, planted by the
    first reader who finds none (each attempt with a fresh one). To turn a tag is to `invalidate` its key; a strict
    writer guards it like any other. A version that is lost costs loads, never a stale value.
    """

    def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[Answer | CacheUnavailable | None], Sequence[Version]]:
        """`lookup` of each of `keys`, and the version of each of `tags`. One round trip to each server.

        Args:
            keys: all different.
            lease: None: no lease is wanted, and where there is nothing, or another's lease, the answer is None.
        """
        ...

    def fill_many(
        self, fills: Sequence[Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[Version]]:
        """`fill` of each of `fills`, and the version of each of `tags`, as they are now. One round trip.

        Now: read after this call began; not after the fills, if they are on other servers.
        """
        ...

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool | CacheUnavailable]:
        """`release` of each of `leases`, given as key and token."""
        ...

    def replace_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """`replace` of each of `entries`, given as key and `seen`. One round trip to each server."""
        ...

    def claim_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """`claim` of each of `entries`, as `replace_many`. Nobody asks it of a backend that is no `Claiming`."""
        ...

    def plant(self, tags: Sequence[str]) -> Sequence[Version]:
        """The version of each of `tags`; those that have none get one, kept for 29 days.

        None: others kept changing it. A mistake of configuration is told as a CacheUnavailable here as well.
        """
        ...


@runtime_checkable
class AsyncClaiming(Protocol):
    """`Claiming`, awaitable."""

    async def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Claiming.claim`. What becomes of a claim that is won for a cancelled caller is seen to by the caller."""
        ...

    async def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        """See `Claiming.mark_stale`."""
        ...


@runtime_checkable
class AsyncBatching(Protocol):
    """`Batching`, awaitable."""

    async def lookup_many(
        self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()
    ) -> tuple[Sequence[Answer | CacheUnavailable | None], Sequence[Version]]:
        """See `Batching.lookup_many`. Cancelled, it releases in the background what it has won, as far as it can."""
        ...

    async def fill_many(
        self, fills: Sequence[Fill], tags: Sequence[str] = ()
    ) -> tuple[Sequence[bool | NotCacheableError | CacheUnavailable], Sequence[Version]]:
        """See `Batching.fill_many`."""
        ...

    async def release_many(self, leases: Sequence[tuple[str, Any]]) -> Sequence[bool | CacheUnavailable]:
        """See `Batching.release_many`."""
        ...

    async def replace_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """See `Batching.replace_many`. What is won for a cancelled caller is given back by the caller."""
        ...

    async def claim_many(
        self, entries: Sequence[tuple[str, Any]], lease: float
    ) -> Sequence[Leased | Busy | CacheUnavailable]:
        """See `Batching.claim_many`, and `replace_many`."""
        ...

    async def plant(self, tags: Sequence[str]) -> Sequence[Version]:
        """See `Batching.plant`."""
        ...
