"""The protocol with one of its rules taken out, and the cast in which that is to be seen.

Each mutation is a patch of our own code, as small as it can be: for each place where it makes sense one. The cast is
the smallest in which it is seen; `switches` bounds the search for it (see `explore.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from cacheside import telling
from cacheside.backends.base import Hit, Leased
from cacheside.backends.memcached import changes, fills
from cacheside.backends.memcached import wire as memcached_wire
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.redis import wire as redis_wire
from cacheside.core import Core
from cacheside.entries import Row
from cacheside.flight import NOTHING, Flights
from cacheside.writes import Write

from .calls import Fate
from .explore import Cast
from .mutating import (
    CHECK,
    MEMCACHED,
    MEMORY,
    REDIS,
    Mutation,
    Patch,
    replace_script,
    sent_again,
    unchecked_memcached,
    unchecked_memory,
    unchecked_redis,
)


# ---- flights
def _shared_when_refused(patch: Patch) -> None:
    def end(self: Flights, flight: Any, outcome: Any = NOTHING, proven: bool = False) -> None:
        real(self, flight, outcome, outcome is not NOTHING)

    real = Flights.end
    patch.setattr(Flights, "end", end)


def _sealed_after(patch: Patch) -> None:
    patch.setattr(Flights, "seal", lambda self, flight: None)  # `end` seals as well, after the fill


# ---- a tombstone, which ends by itself, instead of a lease
def _tombstone_memory(patch: Patch) -> None:
    def lookup(self: MemoryBackend, key: str, lease: float) -> Any:
        entry = self._entries.get(key)
        return Leased(0) if entry is None else Hit(entry.stored, entry)

    def fill(self: MemoryBackend, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        if key in self._leases:  # what stands there is the tombstone
            return False
        self._entries.put(key, stored, ttl)
        return True

    def invalidate(self: MemoryBackend, keys: Sequence[str]) -> None:
        for key in keys:
            self._drop_value(key)
            self._lease(key, 10.0)

    for broken in (lookup, fill, invalidate):
        patch.setattr(MemoryBackend, broken.__name__, broken)


def _tombstone_redis(patch: Patch) -> None:
    def lookup(self: Any, key: str, lease: float) -> Generator[Any, Any, Any]:
        reply = yield "GET", key
        return self._seen(reply) if (reply or b"")[:1] == b"V" else Leased(b"0" * 16)

    patch.setattr(redis_wire.Protocol, "lookup", lookup)
    replace_script(patch, "FILL", CHECK, "s~='T'")
    replace_script(patch, "INVALIDATE", "do drop(k)", "do redis.call('SET',k,'T','PX',10000)")


def _tombstone_memcached(patch: Patch) -> None:
    def lookup(key: bytes, lease: float) -> Any:
        command = real_lookup(key, lease)
        data = b"mg %b v c f t\r\n" % key

        def decide(replies: Any, sent: int, name: str) -> Any:
            if replies[0].line.startswith(b"VA") and replies[0].value:
                return command.decide(replies, sent, name)
            return Leased(memcached_wire.Cas(1, sent, key))

        return command._replace(data=data, decide=decide)

    def fill(key: bytes, token: Any, stored: bytes, ttl: float | None) -> Any:
        command = real_fill(key, token, stored, ttl)  # "add", as the tombstones of old do it
        return command._replace(data=command.data.replace(b" C%d " % token.number, b" ME ", 1), before=None)

    def plan(self: changes.Invalidation, item: Any) -> bytes:
        return b"ms %b 0 T10 F0\r\n\r\n" % self.wire_key

    real_lookup, real_fill = memcached_wire.lookup, memcached_wire.fill
    patch.setattr(memcached_wire, "lookup", lookup)
    patch.setattr(memcached_wire, "fill", fill)
    patch.setattr(changes.Invalidation, "plan", plan)


# ---- a guard with room for one token
def _one_token_memory(patch: Patch) -> None:
    def guard(self: MemoryBackend, keys: Sequence[str], token: str, hold: float) -> Any:
        for key in keys:
            self._guards.pop(key, None)
        return real(self, keys, token, hold)

    real = MemoryBackend.guard
    patch.setattr(MemoryBackend, "guard", guard)


def _one_token_redis(patch: Patch) -> None:
    replace_script(patch, "GUARD", "marks..ARGV[1]", "ARGV[1]")


def _one_token_memcached(patch: Patch) -> None:
    def plan(self: changes.Guarding, item: Any) -> bytes:
        if item is not None and item.marker is not None:
            item = item._replace(marker=item.marker._replace(marks={}))
        return real(self, item)

    real = changes.Guarding.plan
    patch.setattr(changes.Guarding, "plan", plan)


# ---- a plain delete over a guard
def _delete_memory(patch: Patch) -> None:
    def invalidate(self: MemoryBackend, keys: Sequence[str]) -> None:
        for key in keys:
            self._drop_value(key)
            self._guards.pop(key, None)

    patch.setattr(MemoryBackend, "invalidate", invalidate)


def _delete_redis(patch: Patch) -> None:
    replace_script(patch, "INVALIDATE", "do drop(k)", "do redis.call('UNLINK',k)")


def _delete_memcached(patch: Patch) -> None:
    patch.setattr(changes.Invalidation, "plan", lambda self, item: b"md %b\r\n" % self.wire_key)


# ---- @updates that fills if only its own mark is left
def _only_me_memory(patch: Patch) -> None:
    def update(self: MemoryBackend, key: str, *args: Any) -> bool:
        guard = self._guards.get(key)
        if guard is not None:
            guard.untouched = True
        return real(self, key, *args)

    real = MemoryBackend.update
    patch.setattr(MemoryBackend, "update", update)


def _only_me_redis(patch: Patch) -> None:
    replace_script(patch, "UPDATE", "tonumber(string.sub(v,18,30))==1 and ", "")


def _only_me_memcached(patch: Patch) -> None:
    # The proof is a CAS there: the mutant asks for the marker again, as one who goes by the marks would.
    def settle(self: changes.Guarding, code: bytes, cas: Any) -> bool:
        self.proof = self
        return code == b"HD"

    def update(known: Any, key: bytes, proof: Any, stored: bytes, ttl: float | None) -> Generator[Any, Any, Any]:
        if not isinstance(proof, changes.Guarding):
            return (yield from real(known, key, proof, stored, ttl))
        proof.asks_value = True
        (item,), sent = yield changes._look([proof])
        if item is None or item.marker is None or list(item.marker.marks) != [proof._token]:
            return False
        return (yield from real(known, key, memcached_wire.Cas(item.cas, sent, key), stored, ttl))

    real = fills.fill
    patch.setattr(changes.Guarding, "settle", settle)
    patch.setattr(fills, "fill", update)


# ---- delete before commit
def _delete_first(patch: Patch) -> None:
    async def enter(self: Write) -> Write:
        await real(self)
        for core, plan in self._plan.items():
            await telling.afinish(core, plan)
        return self

    async def leave(self: Write, *error: object) -> None:
        return None

    real = Write.__aenter__
    patch.setattr(Write, "__aenter__", enter)
    patch.setattr(Write, "__aexit__", leave)


# ---- beyond the nine
def _unconcerned_memory(patch: Patch) -> None:
    def unguard(self: MemoryBackend, marks: Sequence[tuple[str, str]]) -> int:
        found = [(key, token) for key, token in marks if key in self._guards and token in self._guards[key].marks]
        return len(marks) - len(found) + real(self, found)

    real = MemoryBackend.unguard
    patch.setattr(MemoryBackend, "unguard", unguard)


def _unconcerned_redis(patch: Patch) -> None:
    replace_script(patch, "UNGUARD", "if not mine then drop(k)", "if not mine then")


def _unconcerned_memcached(patch: Patch) -> None:
    def plan(self: changes.Release, item: Any) -> bytes:
        data = real(self, item)
        return b"" if self.lost else data

    real = changes.Release.plan
    patch.setattr(changes.Release, "plan", plan)


def _spared_memory(patch: Patch) -> None:
    def invalidate(self: MemoryBackend, keys: Sequence[str]) -> None:
        for key in keys:
            self._drop_value(key)

    patch.setattr(MemoryBackend, "invalidate", invalidate)


def _spared_redis(patch: Patch) -> None:
    replace_script(patch, "INVALIDATE", "do drop(k)", "do if not guard(k) then drop(k) end")


def _spared_memcached(patch: Patch) -> None:
    def plan(self: changes.Invalidation, item: Any) -> bytes:
        return b"" if item is None or item.unread or item.marker is not None else real(self, item)

    real = changes.Invalidation.plan
    patch.setattr(changes.Invalidation, "plan", plan)


def _forgotten(patch: Patch) -> None:
    patch.setattr(Core, "undelivered", lambda self, plan: None)


def _undying(patch: Patch) -> None:
    patch.setattr(Row, "die", lambda self: None)


def _everywhere(breaks: Callable[[Patch], None]) -> dict[str, Callable[[Patch], None]]:
    return dict.fromkeys((MEMORY, REDIS, MEMCACHED), breaks)


def _each(*breaks: Callable[[Patch], None]) -> dict[str, Callable[[Patch], None]]:
    return dict(zip((MEMORY, REDIS, MEMCACHED), breaks, strict=True))


NINE = (
    Mutation(
        "fill without a token check",
        _each(unchecked_memory, unchecked_redis, unchecked_memcached),
        Cast([0], [(1, "plain")]),
    ),
    Mutation(
        "flight shared after a refused fill",
        _everywhere(_shared_when_refused),
        Cast([0, 0, 1], [(2, "plain")]),
        switches=2,
    ),
    Mutation(
        "flight sealed after the fill",
        _everywhere(_sealed_after),
        Cast([0, 0, 1], [(2, "plain")]),
        switches=2,
    ),
    Mutation(
        "tombstone instead of lease",
        _each(_tombstone_memory, _tombstone_redis, _tombstone_memcached),
        Cast([0], [(1, "plain")], drops=1),
    ),
    Mutation(
        "guard with one token",
        _each(_one_token_memory, _one_token_redis, _one_token_memcached),
        Cast([0], [(1, "strict"), (2, "strict")], crashes=1),
    ),
    Mutation(
        "plain delete over a guard",
        _each(_delete_memory, _delete_redis, _delete_memcached),
        Cast([0], [(1, "plain"), (2, "strict")], crashes=1),
    ),
    Mutation(
        "@updates if only my mark is left",
        _each(_only_me_memory, _only_me_redis, _only_me_memcached),
        Cast([0], [(1, "updates"), (2, "updates")]),
    ),
    Mutation(  # memory sends nothing, and memcached makes the token of a lease itself
        "lease token sent again",
        {REDIS: sent_again(redis_wire.Protocol, "lookup")},
        Cast([0], [(1, "plain")], losses=1, fates=(Fate.CLOSED_LATE,)),
    ),
    Mutation(  # memcached: what proves that a writer was alone is the CAS of its marker, not its token
        "guard token sent again",
        {REDIS: sent_again(redis_wire.Protocol, "guard")},
        Cast([0], [(1, "updates"), (2, "plain")], losses=1, lost_guards=1, fates=(Fate.CLOSED_LATE,)),
    ),
    Mutation(
        "delete before commit",
        _everywhere(_delete_first),
        Cast([0], [(1, "plain")]),
    ),
)
"""Those that the issue names (the token sent again is two of them)."""

MORE = (
    Mutation(
        "release of a lost mark does nothing",
        _each(_unconcerned_memory, _unconcerned_redis, _unconcerned_memcached),
        Cast([0], [(1, "strict")], lost_guards=1),
    ),
    Mutation(
        "invalidation leaves a guard untouched",
        _each(_spared_memory, _spared_redis, _spared_memcached),
        Cast([0], [(1, "updates"), (2, "plain")]),
    ),
    Mutation(  # in memory nothing fails
        "failed invalidation forgotten",
        {REDIS: _forgotten, MEMCACHED: _forgotten},
        Cast([0], [(0, "plain")], warm=True, losses=1, fates=(Fate.LOST,)),
    ),
    Mutation(  # elsewhere there are no rows
        "rows outlive their entry",
        {MEMORY: _undying},
        Cast([0], [(0, "plain")], warm=True),
    ),
)
"""And some that they leave out."""

MUTATIONS = (*NINE, *MORE)
