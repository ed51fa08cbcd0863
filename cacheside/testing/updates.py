"""What a backend promises to a write that puts its value in: only if its mark stood alone and untouched."""

from __future__ import annotations

from collections.abc import Callable

from ..backends.base import Leased
from .bench import LONG, Bench, Mark, Promises, promise
from .guards import guarded


class UpdatePromises(Promises):
    """The tests of `update` in the backend protocol."""

    @promise
    def test_update(self, bench: Bench) -> None:
        """The value of a writer that was alone takes the place of its guard: a value like any other."""
        for round_, before in enumerate((b"old", None)):
            key = bench.key(str(round_))
            if before is not None:
                bench.store(key, before)
            mark = bench.guard(key)
            assert bench.update(mark, key, b"new", LONG) is True
            found = bench.hit(key)
            assert found.stored == b"new"
            assert isinstance(bench.replace(key, found.seen), Leased)
            bench.invalidate(key)
            mark = bench.guard(key)
            assert bench.update(mark, key, b"newer", None) is True
            bench.invalidate(key)
            assert bench.free(key)

    @promise
    def test_update_takes_its_mark(self, bench: Bench) -> None:
        """A value is put in once: the mark is gone then, and taking it back drops the value, as of a mark lost."""
        key = bench.key()
        mark = bench.guard(key)
        assert bench.update(mark, key, b"new") is True
        assert bench.update(mark, key, b"again") is False
        assert bench.hit(key).stored == b"new"
        assert bench.unguard(mark) == 1
        assert bench.free(key)

    @promise
    def test_update_has_a_ttl(self, bench: Bench) -> None:
        """The value of an update is gone after its ttl, and not before, however long the guard would have stood."""
        short, long, endless = bench.key("short"), bench.key("long"), bench.key("endless")
        brief, ample = bench.guard(long, endless, hold=1), bench.guard(short, hold=LONG)
        assert bench.update(brief, long, b"long", LONG) is True
        assert bench.update(brief, endless, b"endless", None) is True
        assert bench.update(ample, short, b"short", 1) is True
        assert bench.expired(short, 1)
        assert bench.hit(long).stored == b"long"
        assert bench.hit(endless).stored == b"endless"

    @promise
    def test_update_of_several_keys(self, bench: Bench) -> None:
        """Each key of a guard is updated by itself, with its own proof; the rest is taken back."""
        keys = [bench.key(str(number)) for number in range(12)]
        mark = bench.guard(*keys)
        bench.invalidate(keys[0])
        assert [bench.update(mark, key, key.encode()) for key in keys[:6]] == [False] + [True] * 5
        assert bench.unguard(mark, keys[0], *keys[6:]) == 0
        assert [bench.hit(key).stored for key in keys[1:6]] == [key.encode() for key in keys[1:6]]
        assert all(bench.free(key) for key in (keys[0], *keys[6:]))

    @promise
    def test_update_only_if_alone(self, bench: Bench) -> None:
        """With another writer at work, whichever came first, neither puts its value in."""
        key = bench.key()
        first, second = bench.guard(key), bench.guard(key)
        assert bench.update(first, key, b"first") is False
        assert bench.update(second, key, b"second") is False
        assert guarded(bench, key)
        assert bench.unguard(first) + bench.unguard(second) == 0
        assert bench.free(key)

    @promise
    def test_update_only_if_untouched(self, bench: Bench) -> None:
        """Whoever has been there since the guard, though it is over, may have written later: nothing is put in."""

        def writer(key: str) -> None:
            bench.unguard(bench.guard(key))

        def updater(key: str) -> None:
            mark = bench.guard(key)
            assert bench.update(mark, key, b"other") is False
            bench.unguard(mark)

        def late(key: str) -> None:
            bench.unguard(Mark("never-guarded-it", {key: None}))

        touches: list[Callable[[str], None]] = [writer, updater, late, bench.invalidate]
        for round_, touch in enumerate(touches):
            key = bench.key(str(round_))
            mark = bench.guard(key)
            touch(key)
            assert guarded(bench, key)
            assert bench.update(mark, key, b"older") is False
            assert guarded(bench, key)
            assert bench.unguard(mark) == 0
            assert bench.free(key)

    @promise
    def test_update_after_another_left(self, bench: Bench) -> None:
        """A writer that came while another was at work puts nothing in, though it is the only one left."""
        key = bench.key()
        first = bench.guard(key)
        second = bench.guard(key)
        assert bench.unguard(first) == 0
        assert bench.update(second, key, b"older") is False
        assert bench.unguard(second) == 0

    @promise
    def test_update_only_by_its_own_mark(self, bench: Bench) -> None:
        """A mark that was taken back puts nothing in: not on a free key, nor over a lease, a value, another's guard."""
        key = bench.key()
        mark = bench.guard(key)
        assert bench.unguard(mark) == 0
        assert bench.update(mark, key, b"late") is False
        token = bench.token(key)
        assert bench.update(mark, key, b"late") is False
        assert bench.fill(key, token, b"value") is True
        assert bench.update(mark, key, b"late") is False
        assert bench.hit(key).stored == b"value"
        other = bench.guard(key)
        assert bench.update(mark, key, b"late") is False
        assert bench.update(other, key, b"other") is True
        assert bench.hit(key).stored == b"other"

    @promise
    def test_update_with_the_mark_of_another_key(self, bench: Bench) -> None:
        """The mark of one key is worth nothing on another."""
        mine, theirs = bench.key("mine"), bench.key("theirs")
        mark, other = bench.guard(mine), bench.guard(theirs)
        assert bench.update(Mark(mark.token, {theirs: mark.proofs[mine]}), theirs, b"wrong") is False
        assert guarded(bench, mine, theirs)
        assert bench.update(mark, mine, b"right") is True
        assert bench.update(other, theirs, b"right") is True
