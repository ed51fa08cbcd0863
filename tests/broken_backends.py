"""Backends with one thing wrong each, and the promises of the conformance suite that have to notice it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cacheside.backends.base import Answer, Busy, Guarded, Hit, Leased
from cacheside.backends.memory import MemoryBackend


class FillsWithoutLease(MemoryBackend):
    """It stores whatever it is given: get, load, set, as everywhere."""

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        super().invalidate([key])
        lease = super().lookup(key, 60)
        assert isinstance(lease, Leased)
        return super().fill(key, lease.token, stored, ttl)


class InvalidatesOnlyValues(MemoryBackend):
    """It drops values and leaves leases alive: a delete that finds nothing does nothing."""

    def invalidate(self, keys: Sequence[str]) -> None:
        for key in keys:
            answer = self.lookup(key, 60)
            if isinstance(answer, Hit):
                super().invalidate([key])
            elif isinstance(answer, Leased):
                self.release(key, answer.token)


class LeasesToEverybody(MemoryBackend):
    """Whoever asks gets a lease: no protection from a stampede."""

    def lookup(self, key: str, lease: float) -> Answer:
        answer = super().lookup(key, lease)
        if isinstance(answer, Busy):
            super().invalidate([key])
            return super().lookup(key, lease)
        return answer


class ReleasesAnyLease(MemoryBackend):
    """Unlocking somebody else's lock."""

    def release(self, key: str, token: Any) -> bool:
        held = super().release(key, token)
        super().invalidate([key])
        return held


class ReplacesAnything(MemoryBackend):
    """It does not compare the entry with the one that was seen."""

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        super().invalidate([key])
        answer = super().lookup(key, lease)
        assert isinstance(answer, Leased)
        return answer


class LeasesForEver(MemoryBackend):
    """A lock without expiry: whose holder dies, that key is dead."""

    def lookup(self, key: str, lease: float) -> Answer:
        return super().lookup(key, 1e9)


class StoresForEver(MemoryBackend):
    """It forgets the ttl."""

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        return super().fill(key, token, stored, None)


class InvalidatesPatterns(MemoryBackend):
    """A key is taken for the beginning of keys."""

    def invalidate(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.clear(key)


class FoldsCase(MemoryBackend):
    """Two keys are one."""

    def lookup(self, key: str, lease: float) -> Answer:
        return super().lookup(key.lower(), lease)

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        return super().fill(key.lower(), token, stored, ttl)

    def invalidate(self, keys: Sequence[str]) -> None:
        super().invalidate([key.lower() for key in keys])


class LeasesAreGuards(MemoryBackend):
    """Somebody's lease is answered like a writer's guard: nobody waits for a load that is under way."""

    def lookup(self, key: str, lease: float) -> Answer:
        answer = super().lookup(key, lease)
        return Guarded() if isinstance(answer, Busy) else answer


class GuardsNothing(MemoryBackend):
    """A guard is noted, and values and leases stay: a lock that readers do not look at."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        values = [(key, entry.stored) for key in keys if (entry := self._entries.get(key)) is not None]
        leases = {key: self._leases[key] for key in keys if key in self._leases}
        proofs = super().guard(keys, token, hold)
        for key, stored in values:
            self._entries.put(key, stored, None)
        self._leases.update(leases)
        return proofs


class LeasesOverGuards(MemoryBackend):
    """A guard drops the value, and whoever comes next may load and fill."""

    def lookup(self, key: str, lease: float) -> Answer:
        answer = super().lookup(key, lease)
        return self._lease(key, lease) if isinstance(answer, Guarded) else answer


class ReplacesGuards(MemoryBackend):
    """What was seen is gone, so it gives a lease, whatever stands there now."""

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        self._guards.pop(key, None)
        return super().replace(key, seen, lease)


class GuardsFirstKey(MemoryBackend):
    """One key for one command."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        super().guard(keys[:1], token, hold)
        return [None] * len(keys)


class OneToken(MemoryBackend):
    """A guard holds the mark of the last writer only."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        for key in keys:
            self._guards.pop(key, None)
        return super().guard(keys, token, hold)


class CountsWriters(MemoryBackend):
    """A guard is freed by the first writer that leaves."""

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        lost = super().unguard(marks)
        for key, _ in marks:
            self._guards.pop(key, None)
        return lost


class NeverFrees(MemoryBackend):
    """Marks are left to expire."""

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        return 0


class InvalidatesGuards(MemoryBackend):
    """A plain delete, over whatever there is."""

    def invalidate(self, keys: Sequence[str]) -> None:
        super().invalidate(keys)
        for key in keys:
            self._guards.pop(key, None)


class InvalidationLeavesUntouched(MemoryBackend):
    """An invalidation takes no notice of guards."""

    def invalidate(self, keys: Sequence[str]) -> None:
        kept = {key: guard.untouched for key, guard in self._guards.items()}
        super().invalidate(keys)
        for key, untouched in kept.items():
            self._guards[key].untouched = untouched


class ClearsGuards(MemoryBackend):
    """Clearing a namespace frees the keys of writers at work."""

    def clear(self, prefix: str | None) -> None:
        super().clear(prefix)
        self._guards.clear()


class ForgetsLostMarks(MemoryBackend):
    """Taking back a mark that is not there does nothing, and nobody hears of it."""

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        super().unguard([(key, token) for key, token in marks if key in self._guards])
        return 0


class ReleasesInSilence(MemoryBackend):
    """A lost mark is invalidated, and not counted."""

    def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        super().unguard(marks)
        return 0


class GuardsForEver(MemoryBackend):
    """A lock without expiry: whose writer dies, that key is never cached again."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        return super().guard(keys, token, 1e9)


class OneDeadline(MemoryBackend):
    """All marks end with the latest: a dead writer's lives on under traffic."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        proofs = super().guard(keys, token, hold)
        for key in keys:
            marks = self._guards[key].marks
            marks.update(dict.fromkeys(marks, max(marks.values())))
        return proofs


class ShortensDeadline(MemoryBackend):
    """All marks end with that of the last writer who came."""

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        proofs = super().guard(keys, token, hold)
        for key in keys:
            marks = self._guards[key].marks
            marks.update(dict.fromkeys(marks, marks[token]))
        return proofs


class UpdatesAnyway(MemoryBackend):
    """A write's value goes in whenever its mark is there: two writers, and the slower one wins."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        guard = self._guard(key)
        if guard is None or token not in guard.marks:
            return False
        del self._guards[key]
        self._entries.put(key, stored, ttl)
        return True


class UpdatesWhenAlone(MemoryBackend):
    """ "Only my mark is left" is taken for "I was alone"."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        guard = self._guard(key)
        if guard is not None:
            guard.untouched = True
        return super().update(key, token, proof, stored, ttl)


class UpdatesWithoutMark(MemoryBackend):
    """Write-through: the value goes in, whatever stands there."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        self._guards.pop(key, None)
        self._drop_value(key)
        self._entries.put(key, stored, ttl)
        return True


class NeverUpdates(MemoryBackend):
    """Always safe, and never of use."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        return False


class UpdatesAndStaysGuarded(MemoryBackend):
    """The value goes in beside the mark, which is left to expire."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        guard = self._guard(key)
        done = super().update(key, token, proof, stored, ttl)
        if done and guard is not None:
            self._guards[key] = guard
        return done


class UpdatesForEver(MemoryBackend):
    """An update forgets the ttl."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        return super().update(key, token, proof, stored, None)


class UpdatesForTheHold(MemoryBackend):
    """The value keeps the expiry of the guard whose place it takes."""

    def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        guard = self._guard(key)
        left = max(guard.marks.values()) - self.clock() if guard is not None else None
        return super().update(key, token, proof, stored, left)


MUTANTS: list[tuple[type[MemoryBackend], str]] = [
    (FillsWithoutLease, "test_no_fill_after_invalidate"),
    (FillsWithoutLease, "test_no_fill_over_a_newer_value"),
    (FillsWithoutLease, "test_no_fill_after_release"),
    (FillsWithoutLease, "test_no_fill_after_clear"),
    (FillsWithoutLease, "test_no_fill_after_the_lease"),
    (FillsWithoutLease, "test_token_of_another_key"),
    (FillsWithoutLease, "test_write_during_a_load"),
    (InvalidatesOnlyValues, "test_no_fill_after_invalidate"),
    (InvalidatesOnlyValues, "test_invalidate_many"),
    (InvalidatesOnlyValues, "test_write_during_a_load"),
    (LeasesToEverybody, "test_miss_hit"),
    (LeasesToEverybody, "test_one_lease_for_a_crowd"),
    (LeasesToEverybody, "test_one_load_for_two_processes"),
    (ReleasesAnyLease, "test_release_of_a_lost_lease"),
    (ReplacesAnything, "test_replace_of_something_else"),
    (ReplacesAnything, "test_one_replaces"),
    (LeasesForEver, "test_no_fill_after_the_lease"),
    (StoresForEver, "test_ttl"),
    (StoresForEver, "test_ttl_of_a_function"),
    (StoresForEver, "test_ttl_of_the_result"),
    (StoresForEver, "test_jitter"),
    (InvalidatesPatterns, "test_keys"),
    (FoldsCase, "test_keys"),
    (LeasesAreGuards, "test_miss_hit"),
    (LeasesAreGuards, "test_one_load_for_two_processes"),
    (GuardsNothing, "test_guard_drops_a_value"),
    (GuardsNothing, "test_guard_drops_a_lease"),
    (GuardsNothing, "test_reads_during_a_strict_write"),
    (GuardsNothing, "test_loads_during_a_strict_write"),
    (GuardsNothing, "test_load_during_an_update"),
    (LeasesOverGuards, "test_guard_drops_a_value"),
    (LeasesOverGuards, "test_reads_during_a_strict_write"),
    (LeasesOverGuards, "test_loads_during_a_strict_write"),
    (LeasesOverGuards, "test_load_during_an_update"),
    (ReplacesGuards, "test_guard_is_not_replaced"),
    (GuardsFirstKey, "test_guard_on_many_keys"),
    (GuardsFirstKey, "test_strict_write"),
    (GuardsFirstKey, "test_updates_of_several_targets"),
    (GuardsFirstKey, "test_update_of_several_keys"),
    (OneToken, "test_marks_of_several_writers"),
    (OneToken, "test_marks_of_a_crowd"),
    (OneToken, "test_several_strict_writes"),
    (OneToken, "test_updates_at_once"),
    (OneToken, "test_update_only_if_alone"),
    (OneToken, "test_update_after_another_left"),
    (CountsWriters, "test_marks_of_several_writers"),
    (CountsWriters, "test_several_strict_writes"),
    (CountsWriters, "test_lost_mark_spares_other_marks"),
    (NeverFrees, "test_guard_drops_a_value"),
    (NeverFrees, "test_strict_write"),
    (NeverFrees, "test_updates_on_error"),
    (NeverFrees, "test_clearing_everything_frees_guards"),
    (InvalidatesGuards, "test_invalidation_keeps_guards"),
    (InvalidatesGuards, "test_invalidation_during_a_strict_write"),
    (InvalidationLeavesUntouched, "test_update_only_if_untouched"),
    (InvalidationLeavesUntouched, "test_other_writes_during_an_update"),
    (ClearsGuards, "test_clearing_a_prefix_keeps_guards"),
    (ForgetsLostMarks, "test_lost_mark"),
    (ForgetsLostMarks, "test_update_takes_its_mark"),
    (ForgetsLostMarks, "test_write_that_outlasts_its_hold"),
    (ReleasesInSilence, "test_lost_mark_spares_other_marks"),
    (ReleasesInSilence, "test_write_that_outlasts_its_hold"),
    (GuardsForEver, "test_marks_of_dead_writers"),
    (OneDeadline, "test_marks_of_dead_writers"),
    (ShortensDeadline, "test_marks_of_dead_writers"),
    (UpdatesAnyway, "test_update_only_if_alone"),
    (UpdatesAnyway, "test_updates_at_once"),
    (UpdatesAnyway, "test_other_writes_during_an_update"),
    (UpdatesWhenAlone, "test_update_only_if_untouched"),
    (UpdatesWhenAlone, "test_update_after_another_left"),
    (UpdatesWhenAlone, "test_marks_of_dead_writers"),
    (UpdatesWhenAlone, "test_updates_at_once"),
    (UpdatesWhenAlone, "test_clearing_a_prefix_keeps_guards"),
    (UpdatesWithoutMark, "test_update_only_by_its_own_mark"),
    (UpdatesWithoutMark, "test_update_with_the_mark_of_another_key"),
    (NeverUpdates, "test_update"),
    (NeverUpdates, "test_updates"),
    (NeverUpdates, "test_updated_values_come_back_as_they_were"),
    (UpdatesAndStaysGuarded, "test_update"),
    (UpdatesForEver, "test_update_has_a_ttl"),
    (UpdatesForEver, "test_updates_of_several_targets"),
    (UpdatesForTheHold, "test_update_has_a_ttl"),
]
