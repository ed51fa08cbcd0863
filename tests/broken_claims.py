"""More backends with one thing wrong each: in claims and marks, in batches, in tags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cacheside.backends.base import Answer, Busy, Fill, Guarded, Hit, Leased, Stale
from cacheside.backends.memory import MemoryBackend

# --- claims ---


class ClaimsToEverybody(MemoryBackend):
    """Whoever sees an entry that wants refreshing refreshes it."""

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        self._leases.pop(key, None)
        return super().claim(key, seen, lease)


class ClaimsAnything(MemoryBackend):
    """The entry that was seen is not compared with what is there now."""

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        return self._lease(key, lease)


class ClaimsByReplacing(MemoryBackend):
    """The entry goes when its refresh begins."""

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        return self.replace(key, seen, lease)


class ClaimsForEver(MemoryBackend):
    """A lock without expiry: whose refresh died, that entry is never refreshed."""

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        return super().claim(key, seen, 1e9)


class ClaimsLengthen(MemoryBackend):
    """An entry lives as long as its refresh is at work."""

    def claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        seen.deadline = math.inf
        return super().claim(key, seen, lease)


class ClaimsOfAnyKey(MemoryBackend):
    """Any token is good enough."""

    def _holds(self, key: str, token: Any) -> bool:
        return key in self._leases


class ReleasesWithTheValue(MemoryBackend):
    """Giving back a claim clears the key."""

    def _release(self, key: str, token: Any) -> bool:
        held = super()._release(key, token)
        self._entries.pop(key)
        return held


class FillsForTheOldTtl(MemoryBackend):
    """A refreshed value has the time that the old one had left."""

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        entry = self._entries.get(key)
        return super().fill(key, token, stored, entry.deadline - self.clock() if entry is not None else ttl)


class ReplacesBesideClaims(MemoryBackend):
    """Replacing an entry leaves the claim on it, and who had it fills."""

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        held = self._leases.get(key)
        answer = super().replace(key, seen, lease)
        if held is not None:
            self._leases[key] = held
        return answer


# --- marks ---


class MarksKeepLeases(MemoryBackend):
    """A mark concerns values: what is being loaded is filled."""

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        held = {key: self._leases[key] for key in keys if key in self._leases}
        super().mark_stale(keys, grace)
        self._leases.update(held)


class MarksByInvalidating(MemoryBackend):
    """Always safe, and never of use."""

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        self.invalidate(keys)


class MarksNothing(MemoryBackend):
    """The value stays fresh for the grace."""

    def lookup(self, key: str, lease: float) -> Answer:
        answer = super().lookup(key, lease)
        return Hit(*answer) if isinstance(answer, Stale) else answer


class MarksForEver(MemoryBackend):
    """The grace has no end."""

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        super().mark_stale(keys, math.inf)


class MarksAnew(MemoryBackend):
    """Each mark grants its own grace: a busy key is stale for ever."""

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                entry.deadline = math.inf
        super().mark_stale(keys, grace)


class MarksLeaveUntouched(MemoryBackend):
    """A mark takes no notice of guards."""

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        super().mark_stale([key for key in keys if key not in self._guards], grace)


class MarksLeaveTombstones(MemoryBackend):
    """A mark on nothing is a mark."""

    def mark_stale(self, keys: Sequence[str], grace: float) -> None:
        super().mark_stale(keys, grace)
        for key in keys:
            if self._entries.get(key) is None and key not in self._guards:
                self._entries.put(key, b"", grace)


class NeverReplacesStale(MemoryBackend):
    """A marked value is not to be touched."""

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        return Busy() if seen.stale else super().replace(key, seen, lease)


class ReplacesStaleForAll(MemoryBackend):
    """A marked value is worth nothing, so whoever saw it loads."""

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        answer = super().replace(key, seen, lease)
        return Leased(0) if isinstance(answer, Busy) else answer


class InvalidatesOnlyFresh(MemoryBackend):
    """What is marked has been invalidated already."""

    def invalidate(self, keys: Sequence[str]) -> None:
        super().invalidate([key for key in keys if (entry := self._entries.get(key)) is None or not entry.stale])


class GuardsTouchedByMarks(MemoryBackend):
    """A mark from before the guard counts as another writer."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        stale = [key for key in keys if (entry := self._entries.get(key)) is not None and entry.stale]
        proofs = super().guard(keys, token, hold)
        for key in stale:
            self._guards[key].untouched = False
        return proofs


# --- batches ---


class AnswersInAnyOrder(MemoryBackend):
    """The last answer comes first."""

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()) -> Any:
        answers, versions = super().lookup_many(keys, lease, tags)
        return answers[::-1], versions


class LeasesUnasked(MemoryBackend):
    """A lookup is a lookup."""

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()) -> Any:
        return super().lookup_many(keys, lease or 60, tags)


class BatchesKnowNoMarks(MemoryBackend):
    """A stale value is a value."""

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()) -> Any:
        answers, versions = super().lookup_many(keys, lease, tags)
        return [Hit(*answer) if isinstance(answer, Stale) else answer for answer in answers], versions


class BatchesEndEarly(MemoryBackend):
    """What is too much for one exchange is left out."""

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()) -> Any:
        answers, versions = super().lookup_many(keys[:100], lease, tags)
        return [*answers, *[Busy()] * len(keys[100:])], versions


class BatchesLeaseToEverybody(MemoryBackend):
    """A batch asks for no leases but its own."""

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()) -> Any:
        answers, versions = super().lookup_many(keys, lease, tags)
        return [Leased(0) if isinstance(answer, Busy) else answer for answer in answers], versions


class BatchesLeaseForEver(MemoryBackend):
    """A batch forgets how long its leases are to last."""

    def lookup_many(self, keys: Sequence[str], lease: float | None, tags: Sequence[str] = ()) -> Any:
        return super().lookup_many(keys, lease and 1e9, tags)


class FillsAllOrNone(MemoryBackend):
    """One lost lease refuses the batch."""

    def fill_many(self, fills: Sequence[Fill], tags: Sequence[str] = ()) -> Any:
        if not all(self._holds(fill.key, fill.token) for fill in fills):
            return [False] * len(fills), self._versions(tags)
        return super().fill_many(fills, tags)


class FillsManyWithoutLease(MemoryBackend):
    """A batch stores whatever it is given."""

    def fill_many(self, fills: Sequence[Fill], tags: Sequence[str] = ()) -> Any:
        for key, _, stored, ttl in fills:
            self._guards.pop(key, None)
            self._entries.put(key, stored, ttl)
        return [True] * len(fills), self._versions(tags)


class ReleasesManyOfOthers(MemoryBackend):
    """A batch gives back whatever leases there are."""

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Any:
        return [self._leases.pop(key, None) is not None for key, _ in leases]


class ReplacesManyUnseen(MemoryBackend):
    """A batch replaces whatever there is."""

    def replace_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Any:
        return [self._replace(key, self._entries.get(key), lease) for key, _ in entries]


class ReplacesManyByOne(MemoryBackend):
    """All of a batch get the lease of the first."""

    def replace_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Any:
        return super().replace_many(entries, lease)[:1] * len(entries)


class ClaimsManyForAll(MemoryBackend):
    """A batch claims what others have claimed."""

    def claim_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Any:
        for key, _ in entries:
            self._leases.pop(key, None)
        return super().claim_many(entries, lease)


class ClaimsManyByReplacing(MemoryBackend):
    """What a batch claims is served no longer."""

    def claim_many(self, entries: Sequence[tuple[str, Any]], lease: float) -> Any:
        return self.replace_many(entries, lease)


class NothingIsSomething(MemoryBackend):
    """No keys are answered once."""

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Any:
        return super().release_many(leases) or [False]


# --- tags ---


class PlantsEachTime(MemoryBackend):
    """Whoever plants plants: the last version wins."""

    def _plant(self, tag: str) -> bytes | Guarded:
        self._tags.pop(tag, None)
        return super()._plant(tag)


class VersionsAreNames(MemoryBackend):
    """The version is made from the tag, and comes back when it is planted again."""

    def _plant(self, tag: str) -> bytes | Guarded:
        version = super()._plant(tag)
        if isinstance(version, bytes):
            version = self._tags[tag] = tag[-16:].rjust(16, "-").encode()
        return version


class TellsVersionsOfFirstTag(MemoryBackend):
    """A fill tells what the first tag has."""

    def fill_many(self, fills: Sequence[Fill], tags: Sequence[str] = ()) -> Any:
        done, versions = super().fill_many(fills, tags)
        return done, [*versions[:1]] * len(tags)


class ShowsGuardedTags(MemoryBackend):
    """A guard is for values."""

    def _version(self, tag: str) -> bytes | Guarded | None:
        return self._tags.get(tag)


class GuardsKeepTags(MemoryBackend):
    """A version is as good after a strict write as before it."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        kept = {key: self._tags[key] for key in keys if key in self._tags}
        proofs = super().guard(keys, token, hold)
        self._tags.update(kept)
        return proofs


class LostMarksKeepTags(MemoryBackend):
    """A mark that was lost is no matter for tags."""

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        kept = dict(self._tags)
        lost = super().unguard(marks)
        self._tags.update(kept)
        return lost


class InvalidatesNoTags(MemoryBackend):
    """A version is no value, and stays."""

    def invalidate(self, keys: Sequence[str]) -> None:
        kept = {key: self._tags[key] for key in keys if key in self._tags}
        super().invalidate(keys)
        self._tags.update(kept)


class ClearsNoTags(MemoryBackend):
    """Clearing is for values."""

    def clear(self, prefix: str | None) -> None:
        kept = dict(self._tags)
        super().clear(prefix)
        self._tags.update(kept)


MUTANTS: list[tuple[type[MemoryBackend], str]] = [
    (ClaimsToEverybody, "test_claim"),
    (ClaimsToEverybody, "test_one_claim_for_a_crowd"),
    (ClaimsAnything, "test_claim_of_something_else"),
    (ClaimsByReplacing, "test_claim"),
    (ClaimsByReplacing, "test_release_of_a_claim"),
    (ClaimsForEver, "test_claim_ends_by_itself"),
    (ClaimsForEver, "test_claim_is_lost_by_another_fill"),
    (ClaimsLengthen, "test_claim_leaves_the_ttl"),
    (ClaimsOfAnyKey, "test_claim_of_another_key"),
    (ReleasesWithTheValue, "test_release_of_a_claim"),
    (FillsForTheOldTtl, "test_fill_of_a_claim_has_its_ttl"),
    (ReplacesBesideClaims, "test_claim_is_lost"),
    (ReplacesBesideClaims, "test_claim_is_lost_by_another_fill"),
    (MarksKeepLeases, "test_claim_is_lost"),
    (MarksKeepLeases, "test_mark_stale_kills_leases"),
    (MarksKeepLeases, "test_marks_and_claims_at_once"),
    (MarksByInvalidating, "test_mark_stale"),
    (MarksByInvalidating, "test_replace_of_stale"),
    (MarksNothing, "test_mark_stale"),
    (MarksForEver, "test_mark_stale_ends"),
    (MarksAnew, "test_mark_stale_ends"),
    (MarksAnew, "test_mark_stale_lengthens_nothing"),
    (MarksLeaveUntouched, "test_mark_stale_touches_guards"),
    (MarksLeaveTombstones, "test_mark_stale_of_nothing"),
    (NeverReplacesStale, "test_replace_of_stale"),
    (ReplacesStaleForAll, "test_one_replaces_stale"),
    (InvalidatesOnlyFresh, "test_stale_is_dropped"),
    (GuardsTouchedByMarks, "test_guard_over_stale"),
    (AnswersInAnyOrder, "test_lookup_many"),
    (LeasesUnasked, "test_lookup_many_without_a_lease"),
    (BatchesKnowNoMarks, "test_stale_in_a_batch"),
    (BatchesEndEarly, "test_many_keys"),
    (BatchesLeaseToEverybody, "test_one_lease_for_a_crowd_of_batches"),
    (BatchesLeaseForEver, "test_leases_of_a_batch"),
    (FillsAllOrNone, "test_fill_many"),
    (FillsManyWithoutLease, "test_fill_many"),
    (FillsManyWithoutLease, "test_fill_many_leaves_guards"),
    (ReleasesManyOfOthers, "test_release_many"),
    (ReplacesManyUnseen, "test_replace_many"),
    (ReplacesManyByOne, "test_replace_many"),
    (ClaimsManyForAll, "test_claim_many"),
    (ClaimsManyByReplacing, "test_claim_many"),
    (NothingIsSomething, "test_batch_of_nothing"),
    (PlantsEachTime, "test_plant"),
    (PlantsEachTime, "test_one_version_for_a_crowd"),
    (VersionsAreNames, "test_turned_tag"),
    (TellsVersionsOfFirstTag, "test_plant"),
    (TellsVersionsOfFirstTag, "test_tags_beside_keys"),
    (ShowsGuardedTags, "test_guarded_tag"),
    (GuardsKeepTags, "test_guarded_tag"),
    (LostMarksKeepTags, "test_lost_mark_turns_a_tag"),
    (InvalidatesNoTags, "test_turned_tag"),
    (ClearsNoTags, "test_cleared_tags"),
]
