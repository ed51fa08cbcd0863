"""Undelivered invalidations: counted per failure, bounded, never forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheside import Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.errors import CacheUnavailable
from cacheside.pending import Pending


def test_a_delivery_clears_only_what_was_pending_before_it() -> None:
    """A failure while a delivery for the same key is under way stays pending when that delivery succeeds."""
    pending = Pending()
    pending.add(dict.fromkeys(["a", "b"]))
    under_way = pending.snapshot()
    pending.add(dict.fromkeys(["a"]))
    pending.settle(under_way)
    assert pending.blocks("a")
    assert not pending.blocks("b")
    pending.settle(pending.snapshot())
    assert not pending


def test_overflow_blocks_everything() -> None:
    """More keys than the limit: every key is blocked until a snapshot from after the last failure was delivered."""
    pending = Pending(limit=2)
    pending.add(dict.fromkeys(["a", "b", "c"]))
    assert pending.overflowed
    assert pending.blocks("z")
    assert len(pending) == 0
    under_way = pending.snapshot()
    pending.add(dict.fromkeys(["d"]))
    pending.settle(under_way, cleared=True)
    assert pending.blocks("z")
    pending.settle(pending.snapshot())
    assert pending.blocks("z")
    pending.settle(pending.snapshot(), cleared=True)
    assert not pending.blocks("z")


def test_one_try_at_a_time() -> None:
    """Only one caller in `retry_every` seconds gets something to deliver; a success makes the next one due at once."""
    pending = Pending(retry_every=1)
    assert pending.due(0) is None
    pending.add(dict.fromkeys(["a"]))
    assert pending.due(0) is not None
    assert pending.due(0.9) is None
    first = pending.due(1.0)
    assert first is not None
    pending.add(dict.fromkeys(["b"]))
    pending.settle(first)
    again = pending.due(1.1)
    assert again is not None
    assert again.keys == ("b",)


def test_two_deliveries_at_once() -> None:
    """Two deliveries under way at once do not take a failure that came after both of them off."""
    pending = Pending()
    pending.add(dict.fromkeys(["a"]))
    first, second = pending.snapshot(), pending.snapshot()
    pending.add(dict.fromkeys(["a"]))
    pending.settle(first)
    pending.settle(second)
    assert pending.blocks("a")


def test_marks_are_kept_with_their_key() -> None:
    """A mark that could not be taken back goes later, which is an invalidation too: its key is not told twice."""
    pending = Pending()
    pending.add({"a": "mark-1", "b": None})
    pending.add({"a": "mark-2"})
    pending.add({"a": None})
    pending.add({"b": None})
    told = pending.snapshot()
    assert (told.keys, told.marks) == (("b",), (("a", "mark-1"), ("a", "mark-2")))
    assert len(pending) == 2
    assert all(pending.blocks(key) for key in "ab")
    pending.settle(told)
    assert not pending


def test_a_mark_that_comes_during_a_delivery_stays() -> None:
    """A mark that was added while a delivery for its key was under way is not forgotten when that succeeds."""
    pending = Pending()
    pending.add({"a": "mark-1"})
    under_way = pending.snapshot()
    pending.add({"a": "mark-2"})
    pending.settle(under_way)
    assert pending.blocks("a")
    assert ("a", "mark-2") in pending.snapshot().marks


def test_partial_delivery() -> None:
    """What of a delivery failed stays pending with its marks, and the next try is not due at once."""
    pending = Pending(retry_every=1)
    pending.add({"a": None, "b": "mark-b", "c": "mark-c", "d": None})
    first = pending.due(0)
    assert first is not None
    pending.settle(first, but={"b", "d"})
    assert [pending.blocks(key) for key in "abcd"] == [False, True, False, True]
    assert pending.due(0.9) is None
    again = pending.due(1.0)
    assert again is not None
    assert (again.keys, again.marks) == (("d",), (("b", "mark-b"),))
    pending.settle(again, but=())
    assert not pending


def test_marks_of_one_key_are_bounded() -> None:
    """Of a key on which writer after writer fails the latest marks are kept, and the key stays blocked."""
    pending = Pending()
    for number in range(1000):
        pending.add({"a": f"mark-{number}"})
    marks = pending.snapshot().marks
    assert 1 < len(marks) <= 10
    assert marks[-1] == ("a", "mark-999")
    assert pending.blocks("a")


def test_clearing_settles_keys_with_marks_too() -> None:
    """After the namespace was cleared nothing older than that is pending, marked or not; what came later is."""
    pending = Pending()
    pending.add({"a": "mark-a", "b": None})
    before = pending.snapshot()
    pending.add({"c": "mark-c"})
    pending.settle(before, cleared=True)
    assert [pending.blocks(key) for key in "abc"] == [False, False, True]


@given(st.lists(st.tuples(st.sampled_from("fmsdp"), st.sampled_from("abc")), max_size=40), st.sampled_from([2, 9]))
def test_never_forgets(steps: list[tuple[str, str]], limit: int) -> None:
    """Whatever the order of failures, sendings and deliveries, whole or partial: a key is free only if a delivery that
    was sent after its last failure has succeeded; and a delivery takes back every mark that failed since the last one
    that did."""
    pending = Pending(limit=limit)
    failed: dict[str, int] = {}
    marks: dict[str, list[str]] = {key: [] for key in "abc"}
    sent: list[tuple[int, Any]] = []
    free_since: dict[str, int] = {}
    for now, (kind, key) in enumerate(steps, 1):
        if kind in "fm":
            mark = f"mark-{now}" if kind == "m" else None
            pending.add({key: mark})
            failed[key] = now
            if mark is not None:
                marks[key] = [*marks[key], mark][-8:]
        elif kind == "s":
            snapshot = pending.snapshot()
            sent.append((now, snapshot))
            if not snapshot.overflowed:
                for each in "abc":
                    if pending.blocks(each):
                        told = [mark for at, mark in snapshot.marks if at == each]
                        assert set(marks[each]) <= set(told)
                        assert told or each in snapshot.keys
        elif sent:
            at, snapshot = sent.pop(-1 if key == "a" else 0)  # in whatever order they arrive
            but = [key] if kind == "p" and not snapshot.overflowed else []
            pending.settle(snapshot, cleared=snapshot.overflowed, but=but)
            for each in set("abc") - set(but):
                free_since[each] = max(free_since.get(each, 0), at)
        for each, when in failed.items():
            if free_since.get(each, 0) < when:
                assert pending.blocks(each)
            else:
                marks[each] = []


class Flaky(MemoryBackend):
    """A cache whose invalidations fail while `broken`, and which is cleared by namespace, or not."""

    broken = True
    calls: Any = None

    def invalidate(self, keys: Sequence[str]) -> None:
        if self.broken:
            raise CacheUnavailable("no answer")
        super().invalidate(keys)

    def clear(self, prefix: str | None) -> None:
        if self.broken:
            raise CacheUnavailable("no answer")
        super().clear(prefix)


class Unclearable(Flaky):
    """As memcached: all or nothing."""

    @property
    def capabilities(self) -> Any:
        return super().capabilities - {"clear"}


def test_overflow_clears_the_namespace(caplog: pytest.LogCaptureFixture) -> None:
    """After an overflow the namespace is cleared as soon as the server answers, and caching goes on."""
    backend = Flaky()
    cache = Cache(backend)
    cache._core.pending = Pending(limit=3, retry_every=0)

    @cache.cached("row:{row}")
    def get(row: int) -> int:
        return row

    get(99)
    for row in range(5):
        cache.invalidate(f"row:{row}")
    assert [get(99), get.cache_info().bypassed] == [99, 1]
    assert "bypasses the whole cache" in caplog.text
    backend.broken = False
    assert [get(99), get(99)] == [99, 99]
    assert (get.cache_info().hits, get.cache_info().loads) == (1, 3)


def test_overflow_without_clear_waits_for_the_user() -> None:
    """Where a namespace cannot be cleared the cache stays bypassed until `clear(everything=True)`."""
    backend = Unclearable()
    cache = Cache(backend)
    cache._core.pending = Pending(limit=0, retry_every=0)

    @cache.cached("row:{row}")
    def get(row: int) -> int:
        return row

    cache.invalidate("row:1")
    backend.broken = False
    assert [get(1), get(1), get.cache_info().bypassed] == [1, 1, 2]
    cache.clear(everything=True)
    assert [get(1), get(1), get.cache_info().hits] == [1, 1, 1]


def test_clear_raises_when_the_cache_does_not_answer() -> None:
    """`clear` asks for the cache by name: a broken one is an error there."""
    cache = Cache(Flaky())
    with pytest.raises(CacheUnavailable, match="no answer"):
        cache.clear()
    with pytest.raises(CacheUnavailable, match="no answer"):
        asyncio.run(cache.aclear())
