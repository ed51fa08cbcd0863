"""The same for the rules of windows and tags (see `mutations.py`).

Not among them, for no read is stale without them: a claim that does not compare the token that was seen (its load
begins after it, whatever entry it is on; only beside a guard it does harm), and forgetting at each look what could be
fallen back on (what a call has seen itself was not invalidated before it came). On memcached neither a mark without a
CAS: a guard is one for its readers, marked or not.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from cacheside import engine
from cacheside.backends.base import Guarded, Hit, Stale
from cacheside.backends.memcached import changes, claims, tags, wire
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.redis import wire as redis_wire
from cacheside.core import Core
from cacheside.engine import Reader
from cacheside.flight import NOTHING
from cacheside.freshness import FreshReader
from cacheside.pending import Pending
from cacheside.steps import Ask, Load

from .calls import Fate
from .explore import Cast
from .mutating import (
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
    watched,
)


# ---- stale marks and claims
def _rights_kept_memory(patch: Patch) -> None:
    def mark_stale(self: MemoryBackend, keys: Sequence[str], grace: float) -> None:
        for key in keys:
            self._entries.mark(key, grace)
            self._touch(key)

    patch.setattr(MemoryBackend, "mark_stale", mark_stale)


def _token_kept_redis(patch: Patch) -> None:
    replace_script(patch, "STALE", "'S'..ARGV[i+1]..d(0)", "'S'")


def _lease_left_redis(patch: Patch) -> None:
    replace_script(patch, "STALE", "else drop(k) end", "elseif guard(k) then drop(k) end")


def _lease_left_memcached(patch: Patch) -> None:
    def delete(self: changes.Marking, item: changes.Item) -> bytes:
        return b"" if item.lease else real(self, item)

    real = changes.Marking.delete
    patch.setattr(changes.Marking, "delete", delete)


def _guard_untouched_memory(patch: Patch) -> None:
    def mark_stale(self: MemoryBackend, keys: Sequence[str], grace: float) -> None:
        for key in keys:
            self._entries.mark(key, grace)
            self._drop_rights(key)

    patch.setattr(MemoryBackend, "mark_stale", mark_stale)


def _guard_untouched_redis(patch: Patch) -> None:
    replace_script(patch, "STALE", "else drop(k) end", "elseif not guard(k) then drop(k) end")


def _guard_untouched_memcached(patch: Patch) -> None:
    def plan(self: changes.Marking, item: changes.Item | None) -> bytes:
        return b"" if item is not None and item.marker is not None else real(self, item)

    real = changes.Marking.plan
    patch.setattr(changes.Marking, "plan", plan, raising=False)


def _anything_claimed_memory(patch: Patch) -> None:
    patch.setattr(MemoryBackend, "claim", lambda self, key, seen, lease: self._lease(key, lease))


def _anything_claimed_redis(patch: Patch) -> None:
    replace_script(patch, "CLAIM", "(s~='V' and s~='S') or not deadline", "false")
    replace_script(patch, "CLAIM", "string.sub(h,2,30)~=ARGV[1] or deadline>now", "false")


def _anything_claimed_memcached(patch: Patch) -> None:
    def claim(key: bytes, seen: wire.Cas, lease: float) -> Any:
        def decide(replies: Any, sent: int, name: str) -> Any:
            _, flags = claims.parse(replies[0].line)
            now = seen._replace(number=int(flags.get(b"c", 0)))
            return claims._claimed(now, claims.side_key(key, seen.number), replies, sent, name)

        command: Any = real(key, seen, lease)
        return command._replace(decide=decide)

    real = claims.claim
    patch.setattr(claims, "claim", claim)


def _served_to_all(patch: Patch) -> None:
    def hit(self: Reader, answer: Any, found: Any) -> Any:
        return real(self, Hit(*answer) if type(answer) is Stale else answer, found)

    real = Reader.hit
    patch.setattr(Reader, "hit", hit)


def _anybodys_old_value(patch: Patch) -> None:
    def judge(self: Any, visit: Any, answer: Any, why: Any) -> Any:
        judged = real_judge(self, visit, answer, why)
        self.old = visit.old
        return judged

    def missed(self: Any, visit: Any, answer: Any, why: Any) -> Any:
        visit.old = getattr(self, "old", NOTHING)
        return (yield from real_missed(self, visit, answer, why))

    real_judge, real_missed = FreshReader._judge, FreshReader._missed
    patch.setattr(FreshReader, "_judge", judge)
    patch.setattr(FreshReader, "_missed", missed)


# ---- tags
def _planted_over_a_guard(patch: Patch) -> None:
    def planted(tag: bytes, replies: Any, sent: int, name: str) -> Any:
        found = real(tag, replies, sent, name)
        _, flags = tags.parse(replies[1].line)
        return wire.Cas(int(flags[b"c"]), sent, tag) if type(found) is Guarded else found

    real = tags._planted
    patch.setattr(tags, "_planted", planted)


def _planted_again(patch: Patch) -> None:
    real = tags.plant
    patch.setattr(tags, "plant", lambda *args: real(*args)._replace(again=True))


def _late_snapshot(patch: Patch) -> None:
    def lead(self: FreshReader, visit: Any, token: Any, flight: Any) -> Generator[Any, Any, Any]:
        def hears(step: Any, answer: Any) -> Generator[Any, Any, Any]:
            if isinstance(step, Load):
                visit.versions = yield Ask("plant", (visit.tags,))

        return (yield from watched(real(self, visit, token, flight), hears))

    real = FreshReader._lead
    patch.setattr(FreshReader, "_lead", lead)


def _shared_by_the_fill_alone(patch: Patch) -> None:
    def store(self: FreshReader, visit: Any, token: Any, kept: Any) -> Generator[Any, Any, Any]:
        def hears(step: Any, answer: Any) -> Generator[Any, Any, Any]:
            yield from ()
            if step.verb == "fill_many" and type(answer) is tuple:
                visit.versions = answer[1]

        return (yield from watched(real(self, visit, token, kept), hears))

    real = FreshReader._store
    patch.setattr(FreshReader, "_store", store)


def _dead_served(patch: Patch) -> None:
    def worth(self: FreshReader, answer: Any, tags: Any, versions: Any) -> Any:
        _, meta = self.codec.examine(answer.stored)
        return real(self, answer, [name for name, _ in meta.stamps], [version for _, version in meta.stamps])

    real = FreshReader._worth
    patch.setattr(FreshReader, "_worth", worth)


def _tag_unguarded(patch: Patch) -> None:
    def guard(self: Core, plan: Any, hold: float) -> Generator[Any, Any, Any]:
        some = {key: mark for key, mark in plan.items() if "%tag:" not in key}
        answer = yield from real(self, some, hold)
        plan.update(some)
        return answer

    real = Core.guard
    patch.setattr(Core, "guard", guard)


def _lane_without_tags(patch: Patch) -> None:
    def visit(self: Reader, key: str, sync: bool, tags: Sequence[str] = ()) -> engine.Visit:
        made = real(self, key, sync, tags)
        made.lane = key + self.codec.identity
        return made

    real = Reader._visit
    patch.setattr(Reader, "_visit", visit)


def _pending_tag_forgotten(patch: Patch) -> None:
    real = Pending.blocks
    patch.setattr(Pending, "blocks", lambda self, key, *tags: real(self, key))


def _everywhere(breaks: Any) -> dict[str, Any]:
    return dict.fromkeys((MEMORY, REDIS, MEMCACHED), breaks)


FRESHNESS = (
    Mutation(  # on memcached a mark makes a CAS that is new
        "stale mark keeps the token",
        {MEMORY: _rights_kept_memory, REDIS: _token_kept_redis},
        Cast([(0, "windowed")], [(1, "marker")], past=True),
    ),
    Mutation(
        "stale mark leaves a lease alone",
        {MEMORY: _rights_kept_memory, REDIS: _lease_left_redis, MEMCACHED: _lease_left_memcached},
        Cast([(0, "windowed")], [(1, "marker")]),
    ),
    Mutation(
        "stale mark leaves a guard untouched",
        {
            MEMORY: _guard_untouched_memory,
            REDIS: _guard_untouched_redis,
            MEMCACHED: _guard_untouched_memcached,
        },
        Cast([0], [(1, "updates"), (2, "marker")]),
    ),
    Mutation(
        "fill under a claim without a token check",
        {MEMORY: unchecked_memory, REDIS: unchecked_redis, MEMCACHED: unchecked_memcached},
        Cast([(0, "windowed")], [(1, "marker")], past=True),
    ),
    Mutation(
        "claim of whatever is there",
        {
            MEMORY: _anything_claimed_memory,
            REDIS: _anything_claimed_redis,
            MEMCACHED: _anything_claimed_memcached,
        },
        Cast([(0, "windowed"), 2], [(1, "strict")], past=True, crashes=1),
        switches=2,
    ),
    Mutation(
        "stale values served to all",
        _everywhere(_served_to_all),
        Cast([0], [(1, "marker")], warm=True),
    ),
    Mutation(
        "rescue with what another call saw",
        _everywhere(_anybodys_old_value),
        Cast([(0, "rescuing"), (0, "rescuing")], [(1, "plain")], past=True, raises=1),
    ),
    Mutation(
        "versions of tags read after the load",
        _everywhere(_late_snapshot),
        Cast([(0, "tagged")], [(1, "tag")]),
    ),
    Mutation(
        "tagged flight shared by the fill alone",
        _everywhere(_shared_by_the_fill_alone),
        Cast([(0, "tagged"), (0, "tagged")], [(1, "tag")]),
    ),
    Mutation(
        "flights shared with other tags",
        _everywhere(_lane_without_tags),
        Cast([(0, "tagged"), 0], [(1, "tag")]),
    ),
    Mutation(
        "entry that is dead by its tag served",
        _everywhere(_dead_served),
        Cast([(0, "tagged")], [(1, "tag")], warm=True),
    ),
    Mutation(
        "strict write leaves the tag unguarded",
        _everywhere(_tag_unguarded),
        Cast([(0, "tagged")], [(1, "strict tag")], warm=True, crashes=1),
    ),
    Mutation(  # in memory nothing fails
        "turn of a tag that failed forgotten by its readers",
        {REDIS: _pending_tag_forgotten, MEMCACHED: _pending_tag_forgotten},
        Cast([(0, "tagged")], [(0, "tag")], warm=True, losses=2, fates=(Fate.LOST,)),
    ),
    Mutation(  # elsewhere looking and planting are one command
        "version planted over a guard",
        {MEMCACHED: _planted_over_a_guard},
        Cast([(0, "tagged")], [(1, "strict tag")], crashes=1),
        switches=2,
    ),
    Mutation(
        "version of a tag sent again",
        {REDIS: sent_again(redis_wire.Protocol, "plant"), MEMCACHED: _planted_again},
        Cast([(0, "tagged")], [(1, "tag")], losses=1, fates=(Fate.CLOSED_LATE,)),
    ),
)
