"""What a backend promises to a strict write: guards, and the marks that they are made of."""

from __future__ import annotations

from ..backends.base import Busy, Guarded
from .bench import CROWD, LONG, SHORT, Bench, Mark, Promises, promise


def guarded(bench: Bench, *keys: str) -> bool:
    """Whether lookups of all `keys` meet a guard."""
    return all(isinstance(bench.lookup(key), Guarded) for key in keys)


class GuardPromises(Promises):
    """The tests of guards in the backend protocol."""

    @promise
    def test_guard_drops_a_value(self, bench: Bench) -> None:
        """A guard drops the value; lookups meet the guard, and nothing else, until its mark is taken back."""
        key = bench.key()
        bench.store(key, b"old")
        mark = bench.guard(key)
        assert [type(bench.lookup(key)) for _ in range(3)] == [Guarded] * 3
        assert bench.unguard(mark) == 0
        bench.store(key, b"new")
        assert bench.hit(key).stored == b"new"

    @promise
    def test_guard_drops_a_lease(self, bench: Bench) -> None:
        """What was loaded before a guard is refused, while it stands and after it."""
        key = bench.key()
        token = bench.token(key)
        mark = bench.guard(key)
        assert guarded(bench, key)
        assert bench.fill(key, token, b"old") is False
        assert bench.release(key, token) is False
        assert guarded(bench, key)
        assert bench.unguard(mark) == 0
        assert bench.fill(key, token, b"old") is False
        assert bench.free(key)

    @promise
    def test_guard_is_not_replaced(self, bench: Bench) -> None:
        """Who saw a useless entry before the guard came gets no lease in its place."""
        key = bench.key()
        bench.store(key, b"useless")
        seen = bench.hit(key).seen
        mark = bench.guard(key)
        assert type(bench.replace(key, seen)) is Busy
        assert guarded(bench, key)
        assert bench.unguard(mark) == 0

    @promise
    def test_marks_of_several_writers(self, bench: Bench) -> None:
        """Each writer takes back its own mark, in whatever order; the last one out frees the key."""
        for round_, order in enumerate(((0, 1, 2), (2, 1, 0), (1, 2, 0))):
            key = bench.key(str(round_))
            marks = [bench.guard(key) for _ in order]
            for place in order[:-1]:
                assert bench.unguard(marks[place]) == 0
                assert guarded(bench, key)
            assert bench.unguard(marks[order[-1]]) == 0
            assert bench.free(key)

    @promise
    def test_marks_of_a_crowd(self, bench: Bench) -> None:
        """Of many writers that come and go at the same time no mark is lost, and none is left."""
        key = bench.key()
        tokens = [f"writer--{number:08}" for number in range(CROWD)]
        for call in [bench.start(bench.form.guard, [key], token, LONG) for token in tokens]:
            call.result()
        assert guarded(bench, key)
        calls = [bench.start(bench.form.unguard, [(key, token)]) for token in tokens[1:]]
        assert sum(call.result() for call in calls) == 0
        assert guarded(bench, key)
        assert bench.unguard(Mark(tokens[0], {key: None})) == 0
        assert bench.free(key)

    @promise
    def test_guard_on_many_keys(self, bench: Bench) -> None:
        """One call guards all keys, however many, and spares all others; one call takes all marks back."""
        keys = [bench.key(f"guarded{number}") for number in range(100)]
        spared, leased = bench.key("spared"), bench.key("leased")
        for key in (*keys[:10], spared):
            bench.store(key, b"value")
        token = bench.token(leased)
        mark = bench.guard(*keys)
        assert guarded(bench, *keys)
        assert bench.hit(spared).stored == b"value"
        assert bench.fill(leased, token, b"filled") is True
        assert bench.unguard(mark, *keys[:50]) == 0
        assert guarded(bench, *keys[50:])
        assert all(bench.free(key) for key in keys[:50])
        assert bench.unguard(mark, *keys[50:]) == 0
        assert all(bench.free(key) for key in keys[50:])

    @promise
    def test_invalidation_keeps_guards(self, bench: Bench) -> None:
        """An invalidation leaves a guard standing, with all its marks: their writers have yet to commit."""
        key, other = bench.key(), bench.key("other")
        bench.store(other, b"old")
        first, second = bench.guard(key), bench.guard(key)
        bench.invalidate(key, other)
        assert guarded(bench, key)
        assert bench.free(other)
        assert bench.unguard(first) == 0
        bench.invalidate(key)
        assert guarded(bench, key)
        assert bench.unguard(second) == 0
        assert bench.free(key)

    @promise
    def test_clearing_a_prefix_keeps_guards(self, bench: Bench) -> None:
        """Clearing a namespace leaves the guards in it standing, touched, and drops all else."""
        if "clear" in bench.capabilities:
            key, other = bench.key("in:guarded"), bench.key("in:value")
            bench.store(other, b"old")
            mark = bench.guard(key)
            bench.clear(bench.key("in:"))
            assert guarded(bench, key)
            assert bench.free(other)
            assert bench.update(mark, key, b"value") is False
            assert bench.unguard(mark) == 0
            assert bench.free(key)

    @promise
    def test_clearing_everything_frees_guards(self, bench: Bench) -> None:
        """Clearing everything may lose guards or not: in the end each key is free, and can be guarded again."""
        key = bench.key()
        mark = bench.guard(key)
        bench.clear(None)
        assert bench.update(mark, key, b"value") is False
        assert bench.unguard(mark) in (0, 1)
        assert bench.free(key)
        mark = bench.guard(key)
        assert guarded(bench, key)
        assert bench.unguard(mark) == 0

    # Marks that are lost.

    @promise
    def test_lost_mark(self, bench: Bench) -> None:
        """Taking back a mark that is not there counts as lost, and drops what was filled, or leased, since."""
        value, lease, nothing = bench.key("value"), bench.key("lease"), bench.key("nothing")
        mark = bench.guard(value, lease, nothing)
        assert bench.unguard(mark) == 0
        bench.store(value, b"old")
        token = bench.token(lease)
        assert bench.unguard(mark) == 3
        assert all(bench.free(key) for key in (value, lease, nothing))
        assert bench.fill(lease, token, b"old") is False

    @promise
    def test_lost_mark_spares_other_marks(self, bench: Bench) -> None:
        """Taking back a lost mark takes nothing from another writer's guard, but touches it."""
        key = bench.key()
        lost = bench.guard(key)
        assert bench.unguard(lost) == 0
        mark = bench.guard(key)
        assert bench.unguard(lost) == 1
        assert guarded(bench, key)
        assert bench.update(mark, key, b"older") is False
        assert bench.unguard(mark) == 0
        assert bench.free(key)

    @promise
    def test_marks_of_dead_writers(self, bench: Bench) -> None:
        """Each mark ends at its own deadline: one whose writer died does not live on under the traffic of others, nor
        does it shorten another's; and whoever shared the key with it puts no value in."""
        dead, shared, other = bench.key("dead"), bench.key("shared"), bench.key("other")
        lost = bench.guard(dead, shared, other, hold=SHORT)
        alive = bench.guard(shared, other, hold=LONG)
        bench.guard(shared, hold=SHORT)
        assert bench.expired(dead, SHORT)
        if "whole_seconds" in bench.capabilities:  # a mark may gain a second when the next one is put beside it
            bench.advance(1.5)
        assert guarded(bench, shared, other)
        traffic = bench.guard(shared, hold=LONG)
        assert bench.unguard(alive, shared) == 0
        assert guarded(bench, shared)
        assert bench.unguard(lost, dead, shared) == 2
        assert guarded(bench, shared)
        assert bench.unguard(traffic) == 0
        assert bench.free(shared)
        assert bench.free(dead)
        assert bench.update(lost, dead, b"late") is False
        assert bench.update(alive, other, b"older") is False
        assert bench.unguard(alive, other) == 0
        assert bench.free(other)
