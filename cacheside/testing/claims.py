"""What a backend with the capability "claims" promises: values that are refreshed while they are served, and marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backends.base import Busy, Hit, Leased, Stale
from .bench import CROWD, LONG, SHORT, Bench, Promises, promise_of
from .guards import guarded


class ClaimPromises(Promises):
    """The tests of claims and marks in the backend protocol."""

    # Claims.

    @promise_of("claims")
    def test_claim(self, bench: Bench) -> None:
        """One has the claim on an entry, which is served meanwhile; what it fills takes the entry's place."""
        key = bench.key()
        bench.store(key, b"old")
        token = claimed(bench, key)
        for _ in range(3):
            found = bench.hit(key)
            assert found.stored == b"old"
            assert type(bench.claim(key, found.seen)) is Busy
        assert bench.fill(key, token, b"new") is True
        assert bench.hit(key).stored == b"new"
        assert bench.release(key, token) is False
        assert bench.fill(key, claimed(bench, key), b"newer") is True
        assert bench.hit(key).stored == b"newer"

    @promise_of("claims")
    def test_one_claim_for_a_crowd(self, bench: Bench) -> None:
        """However many saw an entry and want to refresh it, one gets the claim: on a fresh one, and on a marked one."""
        for round_ in range(4):
            key = bench.key(str(round_))
            bench.store(key, b"old")
            if round_ % 2:
                bench.mark_stale(key)
            seen = entry(bench, key).seen
            calls = [bench.start(bench.beyond.claim, key, seen, 60) for _ in range(CROWD)]
            kinds = [type(call.result()) for call in calls]
            assert kinds.count(Leased) == 1
            assert kinds.count(Busy) == CROWD - 1

    @promise_of("claims")
    def test_claim_is_lost(self, bench: Bench) -> None:
        """A claim is lost by an invalidation, a mark, a guard, and if the entry is replaced; then it fills nothing."""

        def guard(key: str) -> None:
            bench.unguard(bench.guard(key))

        def replace(key: str) -> None:
            answer = bench.replace(key, entry(bench, key).seen)
            assert isinstance(answer, Leased)
            bench.release(key, answer.token)

        ends: list[Callable[[str], None]] = [bench.invalidate, bench.mark_stale, guard, replace]
        for round_, end in enumerate(ends):
            for marked in (False, True):
                key = bench.key(f"{round_}{marked}")
                bench.store(key, b"old")
                if marked:
                    bench.mark_stale(key)
                token = claimed(bench, key)
                end(key)
                assert bench.fill(key, token, b"older") is False
                assert bench.release(key, token) is False
                if end == bench.mark_stale:
                    assert bench.stale(key).stored == b"old"
                    assert bench.fill(key, claimed(bench, key), b"new") is True
                else:
                    bench.store(key, b"new")
                assert bench.fill(key, token, b"older") is False
                assert bench.hit(key).stored == b"new"

    @promise_of("claims")
    def test_claim_is_lost_by_another_fill(self, bench: Bench) -> None:
        """Who holds a claim, or a lease, that came after a claim has the key: the older claim fills nothing."""
        replaced, ended = bench.key("replaced"), bench.key("ended")
        for key in (replaced, ended):
            bench.store(key, b"old")
        old = claimed(bench, replaced)
        answer = bench.replace(replaced, bench.hit(replaced).seen)
        assert isinstance(answer, Leased)
        assert bench.fill(replaced, old, b"older") is False
        assert type(bench.lookup(replaced)) is Busy
        assert bench.fill(replaced, answer.token, b"new") is True
        assert bench.fill(replaced, old, b"older") is False
        assert bench.hit(replaced).stored == b"new"
        old = claimed(bench, ended, SHORT)
        bench.advance(SHORT)
        assert bench.fill(ended, claimed_in_time(bench, ended), b"new") is True
        assert bench.fill(ended, old, b"older") is False
        assert bench.hit(ended).stored == b"new"

    @promise_of("claims")
    def test_claim_of_something_else(self, bench: Bench) -> None:
        """There is no claim on an entry that has changed since it was seen, nor on a lease, a guard, or nothing."""
        keys = [bench.key(text) for text in ("f", "m", "l", "g", "n", "r")]
        refilled, marked, leased, locked, gone, refreshed = keys
        for key in keys:
            bench.store(key, b"value")
        claim = claimed(bench, refreshed)
        seen = {key: bench.hit(key).seen for key in keys}
        assert bench.fill(refreshed, claim, b"value") is True
        bench.invalidate(refilled, leased, gone)
        bench.store(refilled, b"value")
        bench.mark_stale(marked)
        token = bench.token(leased)
        mark = bench.guard(locked)
        for key in keys:
            assert type(bench.claim(key, seen[key])) is Busy
        assert bench.hit(refilled).stored == b"value"
        assert bench.stale(marked).stored == b"value"
        assert bench.fill(leased, token, b"filled") is True
        assert guarded(bench, locked)
        assert bench.unguard(mark) == 0
        assert bench.free(gone)

    @promise_of("claims")
    def test_claim_of_another_key(self, bench: Bench) -> None:
        """The token of one claim is worth nothing on another key."""
        keys = [bench.key(text) for text in "ab"]
        for key in keys:
            bench.store(key, b"old")
        first, second = (claimed(bench, key) for key in keys)
        assert bench.fill(keys[1], first, b"wrong") is False
        assert bench.release(keys[0], second) is False
        assert [bench.hit(key).stored for key in keys] == [b"old"] * 2
        assert bench.fill(keys[0], first, b"right") is True
        assert bench.fill(keys[1], second, b"right") is True

    @promise_of("claims")
    def test_release_of_a_claim(self, bench: Bench) -> None:
        """A claim that is given back leaves the entry as it was, free to be claimed."""
        for marked in (False, True):
            key = bench.key(str(marked))
            bench.store(key, b"old")
            if marked:
                bench.mark_stale(key)
            old = claimed(bench, key)
            assert bench.release(key, old) is True
            assert bench.release(key, old) is False
            assert entry(bench, key).stored == b"old"
            assert type(entry(bench, key)) is (Stale if marked else Hit)
            new = claimed(bench, key)
            assert bench.release(key, old) is False
            assert bench.fill(key, new, b"new") is True
            assert bench.fill(key, old, b"late") is False
            assert bench.hit(key).stored == b"new"

    @promise_of("claims")
    def test_claim_ends_by_itself(self, bench: Bench) -> None:
        """A refresh that died does not keep others from the next one, and fills nothing over what that has filled."""
        for marked in (False, True):
            key = bench.key(str(marked))
            bench.store(key, b"old", LONG)
            if marked:
                bench.mark_stale(key, grace=LONG)
            old = claimed(bench, key, SHORT)
            bench.advance(SHORT)
            new = claimed_in_time(bench, key)
            assert entry(bench, key).stored == b"old"
            assert bench.fill(key, new, b"new") is True
            assert bench.fill(key, old, b"late") is False

    @promise_of("claims")
    def test_claim_leaves_the_ttl(self, bench: Bench) -> None:
        """A claim makes no entry live longer; who then leases the key keeps the claim's holder from filling it."""
        key = bench.key()
        bench.store(key, b"old", 1)
        old = claimed(bench, key, LONG)
        assert gone(bench, key, 1)
        answer = bench.lookup(key)
        assert type(answer) in (Busy, Leased)  # the claim may stand yet, or have gone with its entry
        if isinstance(answer, Leased):
            assert bench.fill(key, old, b"older") is False
            assert bench.fill(key, answer.token, b"new") is True
        else:
            assert bench.fill(key, old, b"new") is True
        assert bench.hit(key).stored == b"new"

    @promise_of("claims")
    def test_fill_of_a_claim_has_its_ttl(self, bench: Bench) -> None:
        """What is filled under a claim has the ttl it was given, whatever the old entry, or its mark, had left."""
        shorts, longs = ([bench.key(f"{name}{marked}") for marked in (False, True)] for name in ("short", "long"))
        for short, long in zip(shorts, longs, strict=True):
            bench.store(short, b"old", LONG)
            bench.store(long, b"old", 2)
        bench.mark_stale(shorts[1], longs[1], grace=2)
        for short, long in zip(shorts, longs, strict=True):
            assert bench.fill(short, claimed(bench, short), b"new", 1) is True
            assert bench.fill(long, claimed(bench, long), b"new", LONG) is True
        assert all(bench.expired(short, 1 - number) for number, short in enumerate(shorts))
        bench.advance(1)
        assert [bench.hit(long).stored for long in longs] == [b"new"] * 2

    # Marks.

    @promise_of("claims")
    def test_mark_stale(self, bench: Bench) -> None:
        """Marked values are answered as stale, with the bytes they had; other keys are spared, and absent ones too."""
        marked = [bench.key(f"marked{number}") for number in range(20)]
        absent = [bench.key(f"absent{number}") for number in range(200)]
        kept, leased = bench.key("kept"), bench.key("leased")
        for number, key in enumerate(marked):
            bench.store(key, bytes(range(256)) * number, (LONG, None)[number % 2])
        bench.store(kept, b"kept")
        token = bench.token(leased)
        bench.mark_stale(*absent[:50], *marked, *absent[50:])
        for _ in range(2):
            assert [bench.stale(key).stored for key in marked] == [bytes(range(256)) * number for number in range(20)]
        assert bench.hit(kept).stored == b"kept"
        assert bench.fill(leased, token, b"filled") is True
        assert all(bench.free(key) for key in absent[:5])

    @promise_of("claims")
    def test_mark_stale_ends(self, bench: Bench) -> None:
        """A marked value is gone after the grace of its first mark at the latest, however often it is marked."""
        keys = [bench.key(text) for text in ("once", "twice", "endless")]
        _, twice, endless = keys
        for key in keys:
            bench.store(key, b"old", None if key is endless else LONG)
        bench.mark_stale(*keys, grace=2)
        bench.advance(1)
        bench.mark_stale(twice, grace=LONG)
        bench.advance(1)
        assert all(bench.free(key) for key in keys)

    @promise_of("claims")
    def test_mark_stale_lengthens_nothing(self, bench: Bench) -> None:
        """A value that was to expire sooner than the grace does so, once marked and marked twice."""
        once, twice = bench.key("once"), bench.key("twice")
        for key in (once, twice):
            bench.store(key, b"old", 1)
        bench.mark_stale(once, twice, grace=LONG)
        bench.mark_stale(twice, grace=LONG)
        assert gone(bench, once, 1)
        assert gone(bench, twice, 0)
        assert all(bench.free(key) for key in (once, twice))

    @promise_of("claims")
    def test_mark_stale_kills_leases(self, bench: Bench) -> None:
        """What was loaded before a mark is refused after it."""
        key = bench.key()
        token = bench.token(key)
        bench.mark_stale(key)
        assert bench.fill(key, token, b"old") is False
        assert bench.release(key, token) is False
        assert bench.free(key)

    @promise_of("claims")
    def test_mark_stale_touches_guards(self, bench: Bench) -> None:
        """A guard stays, with all its marks, but its writer puts no value in."""
        key = bench.key()
        first, second = bench.guard(key), bench.guard(key)
        bench.mark_stale(key)
        assert guarded(bench, key)
        assert bench.unguard(first) + bench.unguard(second) == 0
        assert bench.free(key)
        mark = bench.guard(key)
        bench.mark_stale(key)
        assert guarded(bench, key)
        assert bench.update(mark, key, b"older") is False
        assert bench.unguard(mark) == 0
        assert bench.free(key)

    @promise_of("claims")
    def test_mark_stale_of_nothing(self, bench: Bench) -> None:
        """A mark leaves nothing behind where nothing was: neither for now nor for the next value. Nor does no key."""
        key = bench.key()
        bench.mark_stale(key)
        bench.mark_stale()
        assert bench.free(key)
        bench.store(key, b"new")
        assert bench.hit(key).stored == b"new"

    @promise_of("claims")
    def test_replace_of_stale(self, bench: Bench) -> None:
        """A stale entry becomes a lease as any other does; but not for who saw it before it was marked."""
        key = bench.key()
        bench.store(key, b"old")
        fresh = bench.hit(key).seen
        bench.mark_stale(key)
        assert type(bench.replace(key, fresh)) is Busy
        answer = bench.replace(key, bench.stale(key).seen)
        assert isinstance(answer, Leased)
        assert type(bench.lookup(key)) is Busy
        assert bench.fill(key, answer.token, b"new") is True
        assert bench.hit(key).stored == b"new"

    @promise_of("claims")
    def test_one_replaces_stale(self, bench: Bench) -> None:
        """Of many who saw the same stale entry, one gets the lease."""
        key = bench.key()
        bench.store(key, b"old")
        bench.mark_stale(key)
        seen = bench.stale(key).seen
        calls = [bench.start(bench.form.replace, key, seen, 60) for _ in range(CROWD)]
        kinds = [type(call.result()) for call in calls]
        assert kinds.count(Leased) == 1
        assert kinds.count(Busy) == CROWD - 1

    @promise_of("claims")
    def test_stale_is_dropped(self, bench: Bench) -> None:
        """A stale value goes as a fresh one does: by an invalidation, a guard, and when all is cleared."""

        def clear(key: str) -> None:
            bench.clear(key if "clear" in bench.capabilities else None)

        ends: list[Callable[[str], object]] = [bench.invalidate, lambda key: bench.unguard(bench.guard(key)), clear]
        for round_, end in enumerate(ends):
            key = bench.key(str(round_))
            bench.store(key, b"old")
            bench.mark_stale(key)
            assert bench.stale(key).stored == b"old"
            end(key)
            assert bench.free(key)

    @promise_of("claims")
    def test_guard_over_stale(self, bench: Bench) -> None:
        """A guard on a stale value is a guard like any other, and alone: its writer may put a value in."""
        key = bench.key()
        bench.store(key, b"old")
        bench.mark_stale(key)
        mark = bench.guard(key)
        assert guarded(bench, key)
        assert bench.update(mark, key, b"new") is True
        assert bench.hit(key).stored == b"new"

    @promise_of("claims")
    def test_marks_and_claims_at_once(self, bench: Bench) -> None:
        """Of refreshes and marks of one key at the same time, no refresh that began before the last mark is kept."""
        for round_ in range(5):
            key = bench.key(str(round_))
            bench.store(key, b"old")
            token = claimed(bench, key)
            marks = [bench.start(bench.beyond.mark_stale, [key], 60) for _ in range(CROWD // 2)]
            fill = bench.start(bench.form.fill, key, token, b"older", 60)
            for call in marks:
                call.result()
            fill.result()
            assert type(bench.lookup(key)) is not Hit


def entry(bench: Bench, key: str) -> Hit | Stale:
    """What is under `key`, which has to be there, marked or not."""
    answer = bench.lookup(key)
    assert isinstance(answer, (Hit, Stale)), f"{key} should have held a value, and is {answer!r}"
    return answer


def claimed(bench: Bench, key: str, lease: float = 60) -> Any:
    """The token of a claim on the entry under `key`, which has to be there and free."""
    answer = bench.claim(key, entry(bench, key).seen, lease)
    assert isinstance(answer, Leased), f"{key} should have been free to be claimed, and is {answer!r}"
    return answer.token


def claimed_in_time(bench: Bench, key: str) -> Any:
    """The token of a claim, where the one before it is over: on servers that count whole seconds up to two later."""
    for _ in range(12 if "whole_seconds" in bench.capabilities else 0):
        answer = bench.claim(key, entry(bench, key).seen)
        if isinstance(answer, Leased):
            return answer.token
        bench.advance(0.25)
    return claimed(bench, key)


def gone(bench: Bench, key: str, seconds: float) -> bool:
    """Whether no value is left under `key` at the end of `seconds`, fresh or stale. No lease is left, either."""
    whole = "whole_seconds" in bench.capabilities
    bench.advance(seconds)
    for _ in range(12 if whole else 1):
        answer = bench.lookup(key, 0.001)
        if not isinstance(answer, (Hit, Stale)):
            if isinstance(answer, Leased):
                bench.release(key, answer.token)
            return True
        if whole:
            bench.advance(0.25)
    return False
