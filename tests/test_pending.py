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
    pending.add(["a", "b"])
    under_way = pending.snapshot()
    pending.add(["a"])
    pending.settle(under_way)
    assert pending.blocks("a")
    assert not pending.blocks("b")
    pending.settle(pending.snapshot())
    assert not pending


def test_overflow_blocks_everything() -> None:
    """More keys than the limit: every key is blocked until a snapshot from after the last failure was delivered."""
    pending = Pending(limit=2)
    pending.add(["a", "b", "c"])
    assert pending.overflowed
    assert pending.blocks("z")
    assert len(pending) == 0
    under_way = pending.snapshot()
    pending.add(["d"])
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
    pending.add(["a"])
    assert pending.due(0) is not None
    assert pending.due(0.9) is None
    first = pending.due(1.0)
    assert first is not None
    pending.add(["b"])
    pending.settle(first)
    again = pending.due(1.1)
    assert again is not None
    assert again.keys == ("b",)


def test_two_deliveries_at_once() -> None:
    """Two deliveries under way at once do not take a failure that came after both of them off."""
    pending = Pending()
    pending.add(["a"])
    first, second = pending.snapshot(), pending.snapshot()
    pending.add(["a"])
    pending.settle(first)
    pending.settle(second)
    assert pending.blocks("a")


@given(st.lists(st.tuples(st.sampled_from("fsd"), st.sampled_from("abc")), max_size=40))
def test_never_forgets(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of failures, sendings and deliveries: a key is free only if a delivery that was sent after
    its last failure has succeeded."""
    pending = Pending(limit=2)
    failed: dict[str, int] = {}
    sent: list[tuple[int, Any]] = []
    free_since: dict[str, int] = {}
    for now, (kind, key) in enumerate(steps, 1):
        if kind == "f":
            pending.add([key])
            failed[key] = now
        elif kind == "s":
            sent.append((now, pending.snapshot()))
        elif sent:
            at, snapshot = sent.pop(-1 if key == "a" else 0)  # in whatever order they arrive
            pending.settle(snapshot, cleared=snapshot.overflowed)
            for each in "abc":
                free_since[each] = max(free_since.get(each, 0), at)
        for each, when in failed.items():
            if free_since.get(each, 0) < when:
                assert pending.blocks(each)


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
