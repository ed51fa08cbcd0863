"""What `cached_many` promises when several things happen at once, or go wrong: the same in both colours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .bench import LONG, SHORT, Bench, Promises, promise_of, until
from .rows import Rows, drop
from .stage import PATIENCE
from .store import raises


class ManyRacePromises(Promises):
    """The tests of batches beside each other, beside single calls and writes, and of loads that fail."""

    @promise_of("batches")
    def test_invalidation_while_a_batch_loads(self, bench: Bench) -> None:
        """A row that is written while a batch loads it is not stored; the other rows of that batch are."""
        cache, store, gate = bench.cache(), Rows(1, 2, 3), bench.gate()
        read = cache.cached_many(key="row:{row}")(bench.function(store.read, gate))
        write = cache.invalidates("row:{row}")(bench.function(store.write))
        loading = bench.start(read, [1, 2, 3])
        gate.wait_for_load()
        bench.call(write, 2, "new")
        later = bench.start(read, [2])  # it came after the write, and must not get what was loaded before
        assert later.result(PATIENCE) == {2: "new"}
        gate.open()
        assert loading.result(PATIENCE).keys() == {1, 2, 3}
        assert bench.call(read, [1, 2, 3]) == store.rows
        assert store.calls == [[1, 2, 3], [2]]

    @promise_of("batches")
    def test_tag_turned_while_a_batch_loads(self, bench: Bench) -> None:
        """A tag that is invalidated while a batch loads makes what it loads worthless: of all its rows, or of one."""
        for number, (tag, again) in enumerate((("org:1", [1, 2, 3]), ("row:2", [2]))):
            cache, store, gate = bench.cache(), Rows(1, 2, 3), bench.gate()
            read = cache.cached_many(key=f"{number}:{{org}}:{{row}}", tags=("org:{org}", "row:{row}"))(
                bench.function(store.read_of, gate)
            )
            loading = bench.start(read, 1, [1, 2, 3])
            gate.wait_for_load()
            store.rows = dict.fromkeys((1, 2, 3), "new")
            drop(bench, cache, tags=[tag])
            gate.open()
            loading.result(PATIENCE)
            found = bench.call(read, 1, [1, 2, 3])
            assert [row for row, value in found.items() if value == "new"] == again
            assert store.calls == [[1, 2, 3], again]

    @promise_of("batches")
    def test_overlapping_batches(self, bench: Bench) -> None:
        """Batches that overlap load each row once, in one process and across several."""
        for number, caches in enumerate(([bench.cache()] * 2, [bench.cache(), bench.cache()])):
            store, gate = Rows(*range(5)), bench.gate()
            first, second = [
                cache.cached_many(key=f"{number}:{{row}}")(bench.function(store.read, gate)) for cache in caches
            ]
            early = bench.start(first, [0, 1, 2])
            gate.wait_for_load()
            late = bench.start(second, [1, 2, 3, 4])
            until(functools.partial(store.has_calls, 2), "the second batch loads what is left")
            gate.open()
            assert early.result(PATIENCE) == store.expected([0, 1, 2])
            assert late.result(PATIENCE) == store.expected([1, 2, 3, 4])
            assert store.calls == [[0, 1, 2], [3, 4]]

    @promise_of("batches")
    def test_batches_in_a_ring(self, bench: Bench) -> None:
        """Three batches that each wait for the next one do not wait for ever: each loads what it has first."""
        shared = bench.cache()
        for number, caches in enumerate(([shared] * 3, [bench.cache() for _ in range(3)])):
            store, gates = Rows(1, 2, 3), [bench.gate() for _ in range(3)]
            keys = {row: f"{shared._core.prefix}{number}:{row}" for row in (1, 2, 3)}
            reads = [
                cache.cached_many(key=f"{number}:{{row}}")(bench.function(store.read, gate))
                for cache, gate in zip(caches, gates, strict=True)
            ]
            # Others have the rows at first, so that each of the three gets one and finds its other one taken.
            tokens = {row: bench.token(keys[row]) for row in (2, 3)}
            calls = []
            for row, (read, gate) in enumerate(zip(reads, gates, strict=True), 1):
                calls.append(bench.start(read, [row, row % 3 + 1]))
                gate.wait_for_load()
                if row < 3:
                    assert bench.release(keys[row + 1], tokens[row + 1])
            for gate in gates:
                gate.open()
            found = [call.result(PATIENCE) for call in calls]
            assert found == [store.expected(pair) for pair in ([1, 2], [2, 3], [3, 1])]
            assert sorted(store.calls) == [[1], [2], [3]]

    @promise_of("batches")
    def test_crowd_of_batches(self, bench: Bench) -> None:
        """However many overlapping batches come at once, each row is loaded once."""
        caches, store = [bench.cache() for _ in range(3)], Rows(*range(30))
        reads = [cache.cached_many(key="row:{row}")(bench.function(store.read)) for cache in caches]
        wanted = [[(place + step) % 30 for step in range(12)] for place in range(0, 30, 2)]
        calls = [bench.start(reads[number % 3], rows) for number, rows in enumerate(wanted)]
        assert [call.result(PATIENCE) for call in calls] == [store.expected(rows) for rows in wanted]
        assert sorted(row for rows in store.calls for row in rows) == list(range(30))

    @promise_of("batches")
    def test_batch_beside_a_single_call(self, bench: Bench) -> None:
        """A batch and a single call of one row, at the same time, load it once, whoever was first."""
        for batch_first in (True, False):
            cache, store, gate = bench.cache(), Rows(1, 2), bench.gate()
            many = cache.cached_many(key=f"{batch_first}:{{row}}")(bench.function(store.read, gate))
            one = cache.cached(key=f"{batch_first}:{{row}}")(bench.function(store.one, gate))
            calls: list[tuple[Any, Any]] = [(many, [1, 2]), (one, 1)]
            first, second = calls if batch_first else calls[::-1]
            early = bench.start(*first)
            gate.wait_for_load()
            late = bench.start(*second)
            if not batch_first:
                until(functools.partial(store.has_calls, 1), "the batch loads what is left")
            gate.open()
            found = {first[0]: early.result(PATIENCE), second[0]: late.result(PATIENCE)}
            assert (found[many], found[one]) == (store.rows, "row 1")
            assert (store.calls, store.singles) == (([[1, 2]], []) if batch_first else ([[2]], [1]))

    @promise_of("batches")
    def test_batch_that_calls_for_one(self, bench: Bench) -> None:
        """A batch that calls the single-key function of the same template, or is called by it, waits for nobody."""
        cache, store = bench.cache(), Rows(1, 2, 3)
        read_one = cache.cached(key="first:{row}")(bench.function(store.one))
        read_many = cache.cached_many(key="second:{row}")(bench.function(store.read))
        many: Any
        one: Any
        if bench.colour == "sync":
            many = cache.cached_many(key="first:{row}")(lambda rows: {row: read_one(row) for row in rows})
            one = cache.cached(key="second:{row}")(lambda row: read_many([row])[row])
        else:

            async def each(rows: Sequence[int]) -> dict[int, Any]:
                return {row: await read_one(row) for row in rows}

            async def first(row: int) -> Any:
                return (await read_many([row]))[row]

            many, one = cache.cached_many(key="first:{row}")(each), cache.cached(key="second:{row}")(first)
        for _ in range(2):
            assert bench.call(many, [1, 2, 3]) == store.rows
            assert bench.call(one, 1) == "row 1"
        assert (store.calls, store.singles) == ([[1]], [1, 2, 3])
        assert many.cache_info().timed_out == one.cache_info().coalesced == 0
        assert (read_one.cache_info().bypassed, read_many.cache_info().bypassed) == (3, 1)

    # Loads that fail.

    @promise_of("batches")
    def test_batch_that_fails(self, bench: Bench) -> None:
        """An exception reaches the caller; its rows are free for others at once, and what was there stays."""
        cache, store = bench.cache(), Rows(1, 2, 3)
        fail = cache.cached_many(key="row:{row}")(bench.function(store.fail))
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        assert bench.call(read, [1]) == {1: "row 1"}
        for _ in range(2):
            assert raises(bench, fail, [1, 2, 3]) == ((2, 3),)
        assert bench.call(fail, [1]) == {1: "row 1"}
        free(bench, read, store, [1, 2, 3], loads=[2, 3])

    @promise_of("batches")
    def test_rows_that_others_failed_to_load(self, bench: Bench) -> None:
        """If a row that a batch waits for fails elsewhere, the batch does not lose what it has loaded itself."""
        cache, store, gate = bench.cache(), Rows(1, 2, 3), bench.gate()

        def nothing(rows: Any) -> None:
            store.calls.append(list(rows))

        wrong = cache.cached_many(key="row:{row}")(bench.function(nothing, gate))
        read = cache.cached_many(key="row:{row}")(bench.function(store.read))
        failing = bench.start(wrong, [1])
        gate.wait_for_load()
        reading = bench.start(read, [1, 2, 3])
        until(lambda: [2, 3] in store.calls, "the batch loads what is left")
        gate.open()
        assert type(failing.exception(PATIENCE)) is TypeError
        assert type(reading.exception(PATIENCE)) in (TypeError, type(None))
        assert bench.call(read, [1, 2, 3]) == store.rows
        assert store.calls.count([2, 3]) == 1

    @promise_of("batches")
    def test_batch_without_a_mapping(self, bench: Bench) -> None:
        """A function that returns no mapping is told so, and its rows are free for others at once."""
        cache, store = bench.cache(), Rows(1, 2)

        def as_list(rows: Any) -> Any:
            return list(store.read(rows).values())

        wrong = cache.cached_many(key="row:{row}")(bench.function(as_list))
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        for _ in range(2):
            error = bench.start(wrong, [1, 2]).exception(PATIENCE)
            assert type(error) is TypeError
            assert "has to return a mapping from each item to its value, not a list" in str(error)
        free(bench, read, store, [1, 2], loads=[1, 2])

    @promise_of("batches")
    def test_cancelled_batch(self, bench: Bench) -> None:
        """An async batch that is cancelled leaves its rows free for others at once."""
        if bench.colour == "async":
            cache, store, gate = bench.cache(), Rows(1, 2, 3), bench.gate()
            held = cache.cached_many(key="row:{row}")(bench.function(store.read, gate))
            reads = [each.cached_many(key="row:{row}")(bench.function(store.read)) for each in (cache, bench.cache())]
            loading = bench.start(held, [1, 2, 3])
            gate.wait_for_load()
            waiting = bench.start(reads[0], [2, 3])
            loading.cancel()
            assert waiting.result(PATIENCE) == store.expected([2, 3])
            gate.open()
            assert sorted(row for rows in store.calls[1:] for row in rows) == [2, 3]
            free(bench, reads[1], store, [1, 2, 3], loads=[1])

    # Old rows.

    @promise_of("batches")
    def test_old_rows(self, bench: Bench) -> None:
        """Rows past their ttl are returned at once, within the window; one call loads all of them anew."""
        if "claims" in bench.capabilities:
            store = Rows(1, 2, 3, 4)
            read = bench.cache().cached_many(key="row:{row}", ttl=SHORT, stale_while_revalidate=LONG)(
                bench.function(store.read)
            )
            old = bench.call(read, [1, 2, 3])
            bench.advance(SHORT)
            store.rows = dict.fromkeys(store.rows, "new")
            assert bench.call(read, [1, 2, 3, 4]) == {**old, 4: "new"}
            settled(bench, read, [1, 2, 3], "new")
            assert sorted(store.calls[:3]) == [[1, 2, 3], [1, 2, 3], [4]]

    @promise_of("batches")
    def test_old_rows_if_loading_fails(self, bench: Bench) -> None:
        """Rows past their ttl are returned if the load of them fails; rows that there are none of fail the call."""
        if "claims" in bench.capabilities:
            cache, store = bench.cache(), Rows(1, 2)
            options: dict[str, Any] = {"key": "row:{row}", "ttl": SHORT, "stale_if_error": LONG}
            read, fail = [cache.cached_many(**options)(bench.function(each)) for each in (store.read, store.fail)]
            old = bench.call(read, [1, 2])
            bench.advance(SHORT)
            assert bench.call(fail, [1, 2]) == old
            assert raises(bench, fail, [2, 3]) == ((2, 3),)
            assert bench.call(fail, [1]) == {1: "row 1"}
            assert store.calls[:2] == [[1, 2], [1, 2]]


def free(bench: Bench, read: Any, store: Rows, rows: list[Any], loads: list[Any]) -> None:
    """That a batch loads these rows without waiting for the end of anybody's lease, and stores them."""
    bypassed = read.cache_info().bypassed
    for _ in range(2):
        assert bench.call(read, rows) == store.expected(rows)
    assert store.calls[-1] == loads
    assert read.cache_info().bypassed == bypassed


def settled(bench: Bench, read: Callable[..., Any], rows: list[Any], value: Any) -> None:
    """Wait until all of `rows` have that value."""
    until(lambda: set(bench.call(read, rows).values()) == {value}, "the rows are refreshed")
