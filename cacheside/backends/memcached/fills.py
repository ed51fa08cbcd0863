"""Filling under a lease, a claim or a mark; what is too large is never sent. No I/O."""

from __future__ import annotations

from ...errors import NotCacheableError
from . import wire
from .claims import Claim
from .known import ALWAYS_FITS, OVERHEAD, Known
from .wire import Cas, Operation


def proof(token: Cas | Claim) -> Cas:
    """The CAS that a fill under `token` names."""
    return token.seen if isinstance(token, Claim) else token


def fill(known: Known, key: bytes, token: Cas | Claim | None, stored: bytes, ttl: float | None) -> Operation[bool]:
    """Fill, unless it is known beforehand that it does not fit."""
    if token is None:
        return False
    refused = yield from oversized(known, stored)
    if refused is not None:
        raise refused
    accepted: bool = yield wire.fill(key, proof(token), stored, ttl)
    return accepted


def oversized(known: Known, stored: bytes) -> Operation[NotCacheableError | None]:
    """Why `stored` must not be sent, if it is too large. The server is asked for its limit once.

    A server that is sent too large an item deletes what is there *whatever its CAS*: a late fill, its lease long lost,
    would erase a guard. So none is sent. What is left of this race: a server that cannot find memory for an item ("out
    of memory storing object", as with its option -M) does the same, and a server that was restarted with a smaller -I,
    until a connection turns out to be closed. The guard's writer then finds its mark lost, and invalidates.
    """
    if len(stored) <= ALWAYS_FITS:
        return None
    limit = known.limit
    if not limit:
        limit = yield wire.limit()
        known.limit = limit
    return wire.too_large(len(stored), known.name) if len(stored) + OVERHEAD > limit else None
