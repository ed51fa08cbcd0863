"""The backend protocol: what a cache server, or the memory of this process, has to promise.

A backend holds, under one text key, a **value**, a **lease**, or a **guard**. The lease is the right to fill the key.
It is named by a token that no other lease has ever had, and it is lost as soon as the key is invalidated, evicted or
expires. A loaded value goes in by proving possession of a live lease, and in no other way: that is what keeps a slow
reader from storing what it read before a write.

The guard is what a strict write plants before it writes, and takes back after: as long as it stands, lookups answer
`Guarded`, there is no value and no lease, and none can come. It is made of marks, one for each writer at work on the
key: a mark is named by a token and has a deadline of its own, after which it is gone (its writer has died). A guard is
**untouched** while it has had one mark only since it was made, and no invalidation.

Every call is one atomic step for its key. Every call either does what it says or raises `CacheUnavailable`; then the
caller must assume neither that it happened nor that it did not. No call is ever sent again by a client library
underneath: a late duplicate of a command that plants a token would bring a dead lease back to life.

`Backend` is the plain form; `AsyncBackend` is the same, awaitable. One object may serve both colours: it is a
`Backend` whose attribute `aio` is the `AsyncBackend`. Should it lack the plain form just now (no client was given),
it has an attribute `plain` that is None. A backend that never waits (`"in_process"`) serves async functions as it is.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

Capability: TypeAlias = Literal[
    "in_process", "objects", "copies", "clear", "whole_seconds", "stores", "rows", "gives_back", "claims", "batches",
    "outlives",
]  # fmt: skip
"""What a backend can do beyond the protocol.

in_process     it never waits, holds nothing that another process sees, and async functions may call its plain form
objects        `stored` is any live Python object, kept and returned as it is; without it `stored` is bytes
copies         objects are to be copied on the way in and out, so that callers may change what they get
clear          `clear(prefix)` drops just the keys that begin with `prefix`; without it only all keys of the server
whole_seconds  its ttl is rounded up to seconds: the exact expiry has to travel inside `stored`
stores         it keeps what it is given; without it (null) every lookup is known to be useless and none is made
gives_back     its awaitable lookup, cancelled, releases by itself what it may have won
claims         it is a `Claiming` (see `beyond.py`) as well: values can be refreshed while they are served
batches        it is a `Batching` as well: many keys in one round trip, and tags
outlives       what it keeps in this process the next one may find: keys have to mean the same there
rows           functions may find its entries without asking it: it has `attach` and `clock` (see `MemoryBackend`)
"""


new: Final = tuple.__new__
"""Makes a NamedTuple where every hit does: its own constructor is written in Python. ``new(Hit, (stored, seen))``"""


class Hit(NamedTuple):
    """The key holds a value.

    `stored` is what `fill` was given. `seen` names this very entry, for `replace`.
    """

    stored: Any
    seen: Any


class Stale(NamedTuple):
    """The key holds a value that a writer has marked stale (`Claiming.mark_stale`): it has been invalidated, and is of
    use only to those who asked for values like that. The fields are those of `Hit`."""

    stored: Any
    seen: Any


class Fill(NamedTuple):
    """The arguments of a `fill`."""

    key: str
    token: Any
    stored: Any
    ttl: float | None


class Leased(NamedTuple):
    """There was nothing, and this caller now holds the lease `token`: it should load and then `fill` or `release`."""

    token: Any


class Busy(NamedTuple):
    """There is no value, and somebody else holds the lease."""


class Guarded(NamedTuple):
    """A writer's guard stands on the key: load from the store and fill nothing."""


class Size(NamedTuple):
    """How many entries there are, and may be; None where the backend cannot say without I/O."""

    entries: int | None
    limit: int | None


Answer: TypeAlias = Hit | Stale | Leased | Busy | Guarded


@runtime_checkable
class Backend(Protocol):
    """A cache for plain functions. All keys are non-empty text of visible ASCII; durations are seconds."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do beyond the protocol."""
        ...

    @property
    def aio(self) -> "AsyncBackend | None":
        """The same cache for async functions, or None if there is none."""
        ...

    def lookup(self, key: str, lease: float) -> Answer:
        """The value, or else the lease for `lease` seconds, or else word that another holds it, or a guard.

        One round trip.
        """
        ...

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """Turn the entry `seen`, which is of no use to the caller, into a lease of the caller's.

        Only if the key still holds that very entry: else `Busy`, and the caller looks up again. If it holds nothing
        any more, either will do.
        """
        ...

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """Store under the lease `token` for `ttl` seconds (None: no expiry). False: refused, the lease is lost.

        Raises:
            NotCacheableError: the server will not hold something of this size or kind. The lease may be lost by it.
        """
        ...

    def release(self, key: str, token: Any) -> bool:
        """Give the lease back unused. True: it was alive until now."""
        ...

    def invalidate(self, keys: Sequence[str]) -> None:
        """Drop values *and kill leases* of all keys; and versions of tags. When it returns, no older load can ever be
        filled.

        A guard stays, with all its marks, but is untouched no more. (Erasing it would let a reader lease the key and
        fill the old value while the guard's writer has yet to commit; leaving it as it was would let `update` put an
        older value over the write that this invalidation is for.)

        Where several servers are involved all are tried before `CacheUnavailable` is raised, with the failed `keys`.
        """
        ...

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """Put a writer's mark on each of `keys` for `hold` seconds; values and leases there are dropped.

        Marks whose deadline is over are removed. The key stays guarded until the last deadline of all.

        Args:
            token: 16 characters that no other call ever used, for one late arrival of the command must not count as
                another's mark.

        Returns:
            for each key a proof for `update`, of whatever kind.

        Raises:
            CacheUnavailable: any of the marks may stand, or may not; they have to be taken back with `unguard`.
        """
        ...

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """Take back marks, each given as key and token. The other writers' marks stay; the last one frees the key.

        A mark that is not there any more was lost (its deadline passed, or the server lost it), and readers may have
        filled an older value since: then its key is invalidated, as `invalidate` does it.

        Returns:
            how many were lost.

        Raises:
            CacheUnavailable: with the failed `keys`, after all servers were tried.
        """
        ...

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """Put a value in the place of the guard, if the mark `token` has been there alone, untouched to this moment.

        Any other writer or invalidation since `guard`, even one that is over, has touched it: its write may be the
        newer one. False: refused, and `unguard` is still to be called.

        Raises:
            NotCacheableError: as `fill`. The mark may be lost by it.
        """
        ...

    def clear(self, prefix: str | None) -> None:
        """Drop all keys that begin with `prefix`, leases included; None: everything on the server.

        With a prefix guards stay, as in `invalidate`; with None they may be lost, as by a restart of the server.

        A backend without the capability "clear" is only ever given None.
        """
        ...

    def size(self) -> Size:
        """Entries now and at most, without I/O."""
        ...

    def close(self) -> None:
        """Give connections back. The next call opens new ones: closing is not the end."""
        ...


@runtime_checkable
class AsyncBackend(Protocol):
    """A cache for async functions: `Backend`, awaitable. It may be used from several event loops."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do beyond the protocol."""
        ...

    async def lookup(self, key: str, lease: float) -> Answer:
        """See `Backend.lookup`."""
        ...

    async def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        ...

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        ...

    async def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        ...

    async def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        ...

    async def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `Backend.guard`."""
        ...

    async def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `Backend.unguard`."""
        ...

    async def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.update`."""
        ...

    async def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        ...

    async def close(self) -> None:
        """Close what belongs to the running event loop."""
        ...
