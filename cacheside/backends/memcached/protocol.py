"""Each call of the backend as commands, and the server that they are for. No I/O: both colours carry them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from ..base import Answer, Busy, Leased
from . import batches, changes, claims, fills, wire
from .batches import Batches
from .changes import Change
from .claims import Claim
from .known import Known
from .ring import Ring
from .wire import Cas, Operation

T = TypeVar("T")

Task: TypeAlias = tuple[int, Operation[T]]
"""The place of a server in the ring, and what to do there."""


class Protocol:
    """The calls of the backend on its servers.

    Args:
        ring: the servers.
        timeout: seconds that a command may take.
    """

    def __init__(self, ring: Ring, timeout: float) -> None:
        self.ring = ring
        self.names: list[str] = [server.name for server in ring.servers]
        self._several = len(self.names) > 1
        self._lease = 0.0, 0  # the last one, and as the servers take it
        self.known: tuple[Known, ...] = tuple(Known(name, timeout) for name in self.names)
        self.batches: Batches = Batches(ring, self.known, self.held)

    def lookup(self, key: str, lease: float) -> tuple[int, wire.Command[Answer | wire.Held]]:
        """See `Backend.lookup`: the place of the server, and its first command. All there is to it, but for `Held`."""
        name = wire.wire_key(key)
        place = self.ring.index(name) if self._several else 0
        last = self._lease  # read once: another cache on this backend may have another lease, in another thread
        if lease != last[0] or last[1] > wire.RELATIVE_LIMIT:  # that is a date
            last = self._lease = lease, wire.whole_seconds(lease)
        return place, wire.lookup(name, last[1])

    def held(self, place: int, held: wire.Held, lease: float) -> Operation[Answer]:
        """The rest of a lookup that has found somebody else's lease: take it over, if it has stood for too long.

        W is given once: if its winner dies all others see Z until the item expires, up to two seconds after the lease.
        Who has seen the same CAS for longer than a lease takes over. DESIGN does it by `md I C<cas>`; a `ms` on the
        same condition is one command as well, gives the taker a lease of full length, and never a second one to
        somebody else. A guard is none of those: a lookup of it answers `Guarded`, and one that came in since has
        another CAS.
        """
        if not self.known[place].overdue(held.cas, lease):
            return Busy()
        taken: Leased | Busy = yield wire.replace(held.cas.key, held.cas, lease)
        return taken

    def replace(self, key: str, seen: Cas, lease: float) -> Task[Leased | Busy]:
        """See `Backend.replace`."""
        place, name = self._find(key)
        return place, _single(wire.replace(name, seen, lease))

    def claim(self, key: str, seen: Cas, lease: float) -> Task[Leased | Busy]:
        """See `Claiming.claim`: on the server that has `key`, whatever the ring says of the side item's own name."""
        place, name = self._find(key)
        return place, _single(claims.claim(name, seen, lease))

    def fill(self, key: str, token: Cas | Claim, stored: bytes, ttl: float | None) -> Task[bool]:
        """See `Backend.fill`."""
        place, name = self._find(key)
        return place, fills.fill(self.known[place], name, token, stored, ttl)

    def update(self, key: str, proof: Cas | None, stored: bytes, ttl: float | None) -> Task[bool]:
        """See `Backend.update`. The proof is the CAS of an untouched marker: whoever touches it changes that."""
        place, name = self._find(key)
        return place, fills.fill(self.known[place], name, proof, stored, ttl)

    def release(self, key: str, token: Cas | Claim) -> Task[bool]:
        """See `Backend.release`."""
        place, name = self._find(key)
        return place, _single(batches.release(name, token))

    def change(self, work: Sequence[Change]) -> list[Task[None]]:
        """Changes of one kind, for all servers that they are for."""
        groups: dict[int, list[Change]] = {}
        for change in work:
            groups.setdefault(self.ring.index(change.wire_key), []).append(change)
        return [(place, changes.carry_out(group)) for place, group in groups.items()]

    def clear(self, prefix: str | None) -> list[Task[None]]:
        """See `Backend.clear`: for all servers."""
        command = wire.clear(prefix)
        return [(place, _single(command)) for place in range(len(self.known))]

    def _find(self, key: str) -> tuple[int, bytes]:
        name = wire.wire_key(key)
        return self.ring.index(name), name


def _single(command: wire.Command[T]) -> Operation[T]:
    answer: T = yield command
    return answer
