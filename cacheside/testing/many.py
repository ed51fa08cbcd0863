"""What `cached_many` promises, on whatever backend with the capability "batches": the same in both colours."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from ..errors import CacheWarning
from .bench import LONG, SHORT, Bench, Promises, promise_of, until
from .rows import Rows, drop
from .windowed import settled


class ManyPromises(Promises):
    """The tests of decorated batches, one call after the other."""

    # What is asked of the function, and what is returned.

    @promise_of("batches")
    def test_misses_of_a_batch(self, bench: Bench) -> None:
        """One call of the function for all that is missing, each once and in order; none if nothing is."""
        store = Rows(*range(10))
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        assert list(bench.call(read, [3, 1, 2]).items()) == [(3, "row 3"), (1, "row 1"), (2, "row 2")]
        assert list(bench.call(read, [5, 2, 4, 3]).items()) == [
            (5, "row 5"),
            (2, "row 2"),
            (4, "row 4"),
            (3, "row 3"),
        ]
        assert bench.call(read, (1, 2, 3, 4, 5)) == store.expected([1, 2, 3, 4, 5])
        assert store.calls == [[3, 1, 2], [5, 4]]
        info = read.cache_info()
        assert (info.hits, info.misses, info.loads, info.errors) == (7, 5, 5, 0)

    @promise_of("batches")
    def test_empty_batch(self, bench: Bench) -> None:
        """No items are no call."""
        store = Rows()
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        assert bench.call(read, []) == {}
        bench.call(read.invalidate, [])
        assert read.keys([]) == []
        assert store.calls == []

    @promise_of("batches")
    def test_same_items(self, bench: Bench) -> None:
        """Items that are there twice, or whose keys are the same text, are asked for once, and all answered."""
        store = Rows(1, 2)
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        for _ in range(2):
            assert bench.call(read, [1, 2, 1, "1", "2", 2]) == {1: "row 1", "1": "row 1", 2: "row 2", "2": "row 2"}
        assert store.calls == [[1, 2]]
        assert read.keys(["1", 2, 1]) == [read.key(["1"]), read.key([2])] == ["row:1", "row:2"]

    @promise_of("batches")
    def test_values_of_rows(self, bench: Bench) -> None:
        """A row comes back as it was, types included; None is a value like any other."""
        values = [None, False, 0, "", b"", 1.5, (1, (2, "x")), [1, [2]], {"a": {1: 2}}, {1, 2}]
        store = Rows()
        store.rows = dict(enumerate(values))
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        for _ in range(3):
            found = bench.call(read, range(len(values)))
            assert list(found.values()) == values
            assert [type(value) for value in found.values()] == [type(value) for value in values]
        assert len(store.calls) == 1

    @promise_of("batches")
    def test_list_is_the_functions_own(self, bench: Bench) -> None:
        """What the function does to the list that it is given, sorting or emptying it, changes nobody's row."""
        for change in (list.sort, list.reverse, list.pop, list.clear):
            store, mine = Rows(1, 2, 3), [3, 1, 2]
            many = bench.cache().cached_many(key=f"{change.__name__}:{{row}}")(
                bench.function(functools.partial(_read_and_change, store, change))
            )
            assert [bench.call(many, mine) for _ in range(2)] == [store.expected(mine)] * 2
            assert (mine, store.calls) == ([3, 1, 2], [[3, 1, 2]])

    @promise_of("batches")
    def test_absent_items(self, bench: Bench) -> None:
        """What the function leaves out is left out, and known to be absent for `negative_ttl`, whatever the ttl."""
        cache, store = bench.cache(), Rows(1)
        short = cache.cached_many(key="short:{row}", ttl=LONG, negative_ttl=SHORT)(bench.function(store.read))
        long = cache.cached_many(key="long:{row}", ttl=SHORT, negative_ttl=LONG)(bench.function(store.read))
        assert [bench.call(read, [7, 1, 8]) for read in (long, short)] == [{1: "row 1"}] * 2
        assert bench.call(long, [7, 8]) == {}
        assert store.calls == [[7, 1, 8]] * 2
        bench.advance(SHORT)
        store.rows[7] = "born"
        assert bench.call(long, [7, 8]) == {}
        assert bench.call(short, [7, 1]) == {7: "born", 1: "row 1"}
        bench.call(long.invalidate, [7])
        assert bench.call(long, [7, 8]) == {7: "born"}
        assert store.calls[2:] == [[7], [7]]

    @promise_of("batches")
    def test_answers_under_other_keys(self, bench: Bench) -> None:
        """A function that returns nothing that was asked for, but something else, is told once; nothing is absent."""
        store = Rows(1, 2)

        def read(rows: Any) -> Any:
            return {str(row): value for row, value in store.read(rows).items()}

        many = bench.cache().cached_many(key="row:{row}", tags=("all",))(bench.function(read))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert bench.call(many, [3]) == {}
            assert [bench.call(many, [1, 2, 3]) for _ in range(2)] == [{}] * 2
        assert [each.category for each in seen] == [CacheWarning]
        assert "such as 1, but something under others, such as '1'" in str(seen[0].message)
        assert store.calls == [[3], [1, 2], [1, 2]]  # 3 is absent: for that call nothing at all was returned
        assert many.cache_info().uncacheable == 4

    @promise_of("batches")
    def test_items_of_a_generator(self, bench: Bench) -> None:
        """Items may come from a generator: calls, `invalidate`, `refresh` and `keys` each go through it once."""
        store = Rows(1, 2)

        def of_org(self: Any, rows: Any, *, org: int) -> Any:
            return store.read(rows)

        class Shop:
            method: Any = bench.cache().cached_many(key="{org}:{row}", ignore=("self",))(bench.function(of_org))

        many: Any = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        for read in (many, functools.partial(Shop().method, org=7)):
            assert bench.call(read, (row for row in (1, 2, 1))) == store.expected([1, 2])
        for refresh in (many.refresh, functools.partial(Shop().method.refresh, org=7)):
            del store.calls[:]
            assert bench.call(refresh, (row for row in (2, 1))) == store.expected([2, 1])
            assert store.calls == [[2, 1]]
        bench.call(many.invalidate, (row for row in (1, 2)))
        assert many.keys(row for row in (1, 2)) == ["row:1", "row:2"]
        assert bench.call(many, [1, 2]) == store.expected([1, 2])
        assert store.calls == [[2, 1], [1, 2]]

    @promise_of("batches")
    def test_hits_are_not_rewritten(self, bench: Bench) -> None:
        """A batch that hits a row does not prolong its life."""
        store, ttl = Rows(1, 2), 12 * SHORT
        read = bench.cache().cached_many(key="row:{row}", ttl=ttl)(bench.function(store.read))
        assert bench.call(read, [1]) == {1: "row 1"}
        bench.advance(ttl / 2)
        assert bench.call(read, [1, 2]) == {1: "row 1", 2: "row 2"}
        if store.calls == [[1], [2]]:  # else this machine is too slow for that
            bench.advance(ttl / 2)
            store.rows[1] = "new"
            assert bench.call(read, [1])[1] == "new"

    @promise_of("batches")
    def test_large_batch(self, bench: Bench) -> None:
        """A thousand rows are one call of the function, and then none."""
        items = range(1000)
        store = Rows(*items)
        read = bench.cache().cached_many(key="row:{row}")(bench.function(store.read))
        assert [bench.call(read, items) == store.rows for _ in range(2)] == [True, True]
        assert store.calls == [list(items)]
        bench.call(read.invalidate, items)
        assert bench.call(read, items) == store.rows
        assert len(store.calls) == 2

    @promise_of("batches")
    def test_options_for_each_row(self, bench: Bench) -> None:
        """`ttl` and `cache_if` are asked of each row: one is kept for long, one is not, and one not at all."""
        store = Rows()
        store.rows = {"short": SHORT, "long": LONG, "never": 0, "unwanted": -1}
        read = bench.cache().cached_many(key="row:{row}", ttl=lambda ttl: ttl, cache_if=lambda ttl: ttl >= 0)(
            bench.function(store.read)
        )
        assert bench.call(read, list(store.rows)) == store.rows
        bench.advance(SHORT)
        assert bench.call(read, list(store.rows)) == store.rows
        assert store.calls[1] == ["short", "never", "unwanted"]

    @promise_of("batches")
    def test_versions_of_rows(self, bench: Bench) -> None:
        """A row of another version is never returned, and a write drops it whatever its version."""
        cache, store = bench.cache(), Rows(1, 2)
        old, new = [cache.cached_many(key="row:{row}", version=each)(bench.function(store.read)) for each in ("", 2)]
        assert bench.call(old, [1]) == {1: "row 1"}
        store.rows[1] = "new"
        assert bench.call(new, [1, 2]) == store.rows
        assert store.calls == [[1], [1, 2]]
        bench.call(old.invalidate, [1])
        store.rows[1] = "newer"
        assert bench.call(new, [1, 2]) == store.rows
        assert store.calls[2:] == [[1]]

    @promise_of("batches")
    def test_batch_methods(self, bench: Bench) -> None:
        """Methods and classmethods are cached, each instance by its own key, and invalidated through them."""
        store = Rows(1, 2)
        cached_many: Any = bench.cache().cached_many

        def of_instance(self: Any, rows: Any) -> Any:
            return {row: (self.name, value) for row, value in store.read(rows).items()}

        def of_class(cls: type, rows: Any) -> Any:
            return {row: (cls.__name__, value) for row, value in store.read(rows).items()}

        def of_nothing(rows: Any) -> Any:
            return store.read(rows)

        class Shop:
            method = cached_many(key="{self.name}:{row}")(bench.function(of_instance))
            same = cached_many(key="same:{row}")(bench.function(of_instance))
            class_method = cached_many(key="class:{row}")(classmethod(bench.function(of_class)))
            static_method = cached_many(key="static:{row}")(staticmethod(bench.function(of_nothing)))

            def __init__(self, name: str) -> None:
                self.name = name

        a, b = Shop("a"), Shop("b")
        reads: list[Any] = [a.method, b.method, a.same, Shop.class_method, a.static_method]
        wanted = [("a", "row 1"), ("b", "row 1"), ("a", "row 1"), ("Shop", "row 1"), "row 1"]
        for _ in range(2):
            assert [bench.call(read, [1]) for read in reads] == [{1: each} for each in wanted]
        assert bench.call(b.same, [1]) == {1: ("a", "row 1")}
        assert len(store.calls) == len(reads)
        bench.call(a.method.invalidate, [1])
        store.rows[1] = "new"
        assert [bench.call(read, [1])[1] for read in reads[:2]] == [("a", "new"), ("b", "row 1")]
        assert bench.call(Shop.class_method.refresh, [1]) == {1: ("Shop", "new")}
        assert a.method.keys([1, 2]) == ["a:1", "a:2"]

    # What batches share with single-key functions.

    @promise_of("batches")
    def test_rows_are_shared(self, bench: Bench) -> None:
        """A batch and a single-key function of one template have the same entries."""
        cache, store = bench.cache(), Rows(1, 2, 3)
        many = cache.cached_many(key="row:{row}")(bench.function(store.read))
        one = cache.cached(key="row:{row}")(bench.function(store.one))
        assert bench.call(one, 1) == "row 1"
        assert bench.call(many, [1, 2]) == store.expected([1, 2])
        assert [bench.call(one, row) for row in (1, 2)] == ["row 1", "row 2"]
        assert (store.calls, store.singles) == ([[2]], [1])
        store.rows[1] = store.rows[2] = "new"
        bench.call(one.invalidate, 1)
        bench.call(many.invalidate, [2])
        assert bench.call(many, [1]) == {1: "new"}
        assert [bench.call(one, row) for row in (1, 2)] == ["new", "new"]
        assert (store.calls, store.singles) == ([[2], [1]], [1, 2])
        assert many.keys([1, 2]) == [one.key(1), one.key(2)]

    @promise_of("batches")
    def test_absent_rows_for_a_single_key(self, bench: Bench) -> None:
        """What a batch knows to be absent a single-key function asks the store for; then the batch sees its value."""
        cache, store = bench.cache(), Rows()
        many = cache.cached_many(key="row:{row}")(bench.function(store.read))
        one = cache.cached(key="row:{row}")(bench.function(store.one))
        assert bench.call(many, [1, 2]) == {}
        store.rows[2] = "born"
        assert [bench.call(one, row) for row in (1, 2, 1, 2)] == [None, "born", None, "born"]
        assert bench.call(many, [1, 2, 3]) == {1: None, 2: "born"}
        assert (store.calls, store.singles) == ([[1, 2], [3]], [1, 2])

    # What drops rows.

    @promise_of("batches")
    def test_invalidated_rows(self, bench: Bench) -> None:
        """A row is dropped by its key, by the template in a write, and by the batch's own `invalidate`; no other is."""
        cache, store = bench.cache(), Rows(1, 2, 3, 4)
        read = cache.cached_many(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates("row:{row}")(bench.function(store.write))
        bench.call(read, [1, 2, 3, 4])
        bench.call(write, 1, "new")
        assert bench.call(read, [1, 2, 3, 4]) == store.rows
        store.rows[2] = "new"
        drop(bench, cache, "row:2")
        assert bench.call(read, [1, 2, 3, 4]) == store.rows
        store.rows[3] = store.rows[4] = "new"
        bench.call(read.invalidate, [4, 3, 4])
        assert bench.call(read, [1, 2, 3, 4]) == store.rows
        assert bench.call(read.refresh, [1, 3]) == store.expected([1, 3])
        assert store.calls == [[1, 2, 3, 4], [1], [2], [3, 4], [1, 3]]

    @promise_of("batches")
    def test_tags_of_rows(self, bench: Bench) -> None:
        """A tag with the item's field drops one row, one with another parameter's all of that call, absent ones too."""
        cache, store = bench.cache(), Rows(1, 2)
        tags = ("org:{org}", "row:{row}")
        read = cache.cached_many(key="{org}:{row}", tags=tags)(bench.function(store.read_of))
        for _ in range(2):
            assert [bench.call(read, org, [1, 2, 3]) for org in (1, 2)] == [store.expected([1, 2])] * 2
        assert store.calls == [[1, 2, 3]] * 2
        store.rows = {1: "new", 2: "new", 3: "born"}
        drop(bench, cache, tags=["row:2"])
        assert [bench.call(read, org, [1, 2, 3]) for org in (1, 2)] == [{1: "row 1", 2: "new"}] * 2
        assert store.calls[2:] == [[2], [2]]
        drop(bench, cache, tags=["org:1"])
        assert bench.call(read, 1, [1, 2, 3]) == store.rows
        assert bench.call(read, 2, [1, 2, 3]) == {1: "row 1", 2: "new"}
        assert store.calls[4:] == [[1, 2, 3]]
        store.rows[2] = "newer"
        bench.call(read.invalidate, 1, [2])
        assert bench.call(read, 1, [1, 2]) == store.expected([1, 2])
        assert store.calls[5:] == [[2]]

    @promise_of("batches")
    def test_early_refresh_of_rows(self, bench: Bench) -> None:
        """With a great `early_refresh` rows are refreshed within their ttl, all by one call, and served meanwhile."""
        if "claims" in bench.capabilities:
            store, gate = Rows(1, 2), bench.gate()
            first, early, late = [
                bench.cache().cached_many(key="row:{row}", ttl=LONG, early_refresh=beta)(
                    bench.function(store.read, held)
                )
                for beta, held in ((1, None), (1e15, gate), (0, None))
            ]
            old = bench.call(first, [1, 2])
            store.rows = dict.fromkeys((1, 2), "new")
            assert [bench.call(each, [1, 2]) for each in (late, early)] == [old] * 2
            gate.wait_for_load()
            assert [bench.call(each, [2, 1]) for each in (early, late)] == [old] * 2
            gate.open()
            until(lambda: bench.call(late, [1, 2]) == store.rows, "they are refreshed")
            settled(early)
            assert store.calls == [[1, 2]] * 2
            info = early.cache_info()
            assert (info.hits, info.misses, info.stale, info.refreshes) == (4, 0, 0, 2)
            assert late.cache_info().refreshes == 0

    @promise_of("batches")
    def test_rows_under_a_guard(self, bench: Bench) -> None:
        """While a strict write is under way its row is read from the store each time, and no other row suffers."""
        cache, store = bench.cache(), Rows(1, 2)
        read = cache.cached_many(key="row:{row}")(bench.function(store.read))
        assert bench.call(read, [2]) == {2: "row 2"}
        with bench.block(cache.invalidating("row:1", strict=True)):
            assert bench.call(read, [1, 2, 3]) == {1: "row 1", 2: "row 2"}
            store.rows[1] = "new"
            assert bench.call(read, [1, 2, 3]) == {1: "new", 2: "row 2"}
        assert bench.call(read, [1, 2, 3]) == {1: "new", 2: "row 2"}
        assert bench.call(read, [1, 2, 3]) == {1: "new", 2: "row 2"}
        assert store.calls == [[2], [1, 3], [1], [1]]
        assert read.cache_info().guarded == 2


def _read_and_change(store: Rows, change: Callable[[list[Any]], Any], rows: list[Any]) -> Any:
    found = store.read(rows)
    change(rows)
    return found
