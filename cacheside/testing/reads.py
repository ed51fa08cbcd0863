"""What decorated reads promise, on whatever backend: the same in both colours."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from .bench import LONG, SHORT, Bench, Promises, promise
from .store import NotFound, Store, raises


class ReadPromises(Promises):
    """The tests of decorated reads and their options."""

    @promise
    def test_hit(self, bench: Bench) -> None:
        """The first call loads, the next ones are hits; other arguments are other entries."""
        store = Store()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        store.rows = {1: "one", 2: "two"}
        assert [bench.call(read, row) for row in (1, 1, 2, 1, 2)] == ["one", "one", "two", "one", "two"]
        assert store.reads == 2

    @promise
    def test_values_come_back_as_they_were(self, bench: Bench) -> None:
        """A hit returns what the miss returned, types included; None is a value like any other."""
        values = [
            None,
            False,
            0,
            "",
            b"",
            1.5,
            "é\n",
            (1, (2, "x")),
            [1, [2]],
            {"a": {1: 2}},
            {1, 2},
            date(2024, 2, 29),
        ]
        store = Store()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        for row, value in enumerate(values):
            store.rows[row] = value
            found = [bench.call(read, row) for _ in range(3)]
            assert found == [value] * 3
            assert {type(each) for each in found} == {type(value)}
        assert store.reads == len(values)

    @promise
    def test_cache_info(self, bench: Bench) -> None:
        """Every call counts as one hit or one miss, and every read of the store as a load."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        for row in (1, 1, 1, 2):
            bench.call(read, row)
        bench.call(read.invalidate, 1)
        bench.call(read, 1)
        info = read.cache_info()
        assert (info.hits, info.misses, info.loads) == (2, 3, 3)
        assert (info.coalesced, info.refused, info.bypassed, info.errors) == (0, 0, 0, 0)
        assert cache.stats().totals.hits == 2
        assert cache.stats().invalidations == 1

    @promise
    def test_exception_is_not_cached(self, bench: Bench) -> None:
        """An exception reaches its caller, is never stored, and leaves nobody waiting."""
        store = Store()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.fail))
        for _ in range(3):
            assert raises(bench, read, 1) == (1,)
        assert store.reads == 3
        assert read.cache_info().misses == 3

    @promise
    def test_cached_exception(self, bench: Bench) -> None:
        """A declared exception is raised again on hits, for its `negative_ttl`; others are not kept."""
        cache, store = bench.cache(), Store()
        options: dict[str, Any] = {"cache_exceptions": (NotFound,)}
        long = cache.cached(key="long:{row}", negative_ttl=LONG, **options)(bench.function(store.fail))
        short = cache.cached(key="short:{row}", negative_ttl=SHORT, **options)(bench.function(store.fail))
        other = cache.cached(key="other:{row}", cache_exceptions=(LookupError,))(bench.function(store.fail))
        for read in (short, long):
            assert raises(bench, read, 7) == (7,)
        bench.advance(SHORT)
        assert raises(bench, long, 7) == (7,)
        assert store.reads == 2
        assert raises(bench, short, 7) == (7,)
        assert store.reads == 3
        assert [raises(bench, other, 7) for _ in range(2)] == [(7,), (7,)]
        assert store.reads == 5

    @promise
    def test_ttl_of_a_function(self, bench: Bench) -> None:
        """A value is read again after its ttl; a timedelta, None, and the default of the cache work as well."""
        cache, store = bench.cache(ttl=SHORT), Store()
        kept = [
            cache.cached(key=f"kept{number}:{{row}}", ttl=ttl)(bench.function(store.read))
            for number, ttl in enumerate((LONG, timedelta(hours=1), None))
        ]
        gone = [
            cache.cached(key="default:{row}")(bench.function(store.read)),
            cache.cached(key="delta:{row}", ttl=timedelta(seconds=SHORT))(bench.function(store.read)),
        ]
        for read in (*kept, *gone):
            bench.call(read, 1)
        store.rows[1] = "new"
        bench.advance(SHORT)
        assert [bench.call(read, 1) for read in kept] == [0, 0, 0]
        assert [bench.call(read, 1) for read in gone] == ["new", "new"]

    @promise
    def test_ttl_of_the_result(self, bench: Bench) -> None:
        """A callable makes the ttl of each result; 0 means not to store it."""
        store = Store()
        store.rows = ttls = {"short": SHORT, "long": LONG, "never": 0, "endless": None}
        read = bench.cache().cached(key="row:{row}", ttl=lambda value: value)(bench.function(store.read))
        for row in ttls:
            bench.call(read, row)
        bench.advance(SHORT)
        reads = store.reads
        assert bench.call(read, "long") == LONG
        assert bench.call(read, "endless") is None
        assert store.reads == reads
        assert bench.call(read, "never") == 0
        assert bench.call(read, "short") == SHORT
        assert store.reads == reads + 2

    @promise
    def test_jitter(self, bench: Bench) -> None:
        """Jitter shortens a ttl, by no more than its fraction, and never lengthens it."""
        cache, store = bench.cache(), Store()
        kept = cache.cached(key="kept:{row}", ttl=1000 * LONG, jitter=0.99)(bench.function(store.read))
        gone = cache.cached(key="gone:{row}", ttl=SHORT, jitter=0.5)(bench.function(store.read))
        for row in range(20):
            bench.call(kept, row)
            bench.call(gone, row)
        bench.advance(SHORT)
        for row in range(20):
            bench.call(kept, row)
            bench.call(gone, row)
        assert kept.cache_info().loads == 20
        assert gone.cache_info().loads == 40

    @promise
    def test_cache_if(self, bench: Bench) -> None:
        """A result for which `cache_if` is false is returned and not stored."""
        store = Store()
        store.rows = {1: None, 2: "two"}
        read = bench.cache().cached(key="row:{row}", cache_if=bool)(bench.function(store.read))
        assert [bench.call(read, 1) for _ in range(3)] == [None] * 3
        assert store.reads == 3
        assert [bench.call(read, 2) for _ in range(3)] == ["two"] * 3
        assert store.reads == 4

    @promise
    def test_version(self, bench: Bench) -> None:
        """A value of another version is never returned, and a write drops the entry whatever its version."""
        cache, store = bench.cache(), Store()
        versions = [cache.cached(key="row:{row}", version=each)(bench.function(store.read)) for each in ("", 1, "2")]
        for count, read in enumerate(versions * 2, 1):
            store.rows[1] = count
            assert [bench.call(read, 1) for _ in range(2)] == [count, count]
        for read in versions:
            store.rows[1] = 0
            bench.call(read, 1)
            bench.call(versions[0].invalidate, 1)
            store.rows[1] = "new"
            assert bench.call(read, 1) == "new"

    @promise
    def test_stacked_reads(self, bench: Bench) -> None:
        """One function under two keys has two entries."""
        cache, store = bench.cache(), Store()
        inner = cache.cached(key="inner:{row}")(bench.function(store.read))
        outer = cache.cached(key="outer:{row}")(inner)
        assert bench.call(outer, 1) == 0
        store.rows[1] = 1
        bench.call(outer.invalidate, 1)
        assert bench.call(outer, 1) == 0
        bench.call(inner.invalidate, 1)
        assert bench.call(outer, 1) == 0
        bench.call(outer.invalidate, 1)
        assert bench.call(outer, 1) == 1

    @promise
    def test_methods(self, bench: Bench) -> None:
        """Methods, classmethods and staticmethods are cached, and invalidated through the instance or the class."""
        store = Store()
        cached: Any = bench.cache().cached

        def of_instance(self: Any, row: int) -> Any:
            return store.read((self.name, row))

        def of_class(cls: type, row: int) -> Any:
            return store.read((cls.__name__, row))

        def of_nothing(row: int) -> Any:
            return store.read(("static", row))

        class Shop:
            method = cached(key="{self.name}:{row}")(bench.function(of_instance))
            class_method = cached(key="class:{cls.__name__}:{row}")(classmethod(bench.function(of_class)))
            static_method = cached(key="static:{row}")(staticmethod(bench.function(of_nothing)))

            def __init__(self, name: str) -> None:
                self.name = name

        a, b = Shop("a"), Shop("b")
        reads: list[Any] = [a.method, b.method, Shop.class_method, a.static_method]
        for row, read in zip((("a", 1), ("b", 1), ("Shop", 1), ("static", 1)), reads, strict=True):
            store.rows[row] = "old"
            assert bench.call(read, 1) == "old"
            store.rows[row] = "new"
        assert [bench.call(read, 1) for read in reads] == ["old"] * 4
        bench.call(a.method.invalidate, 1)
        assert [bench.call(read, 1) for read in reads] == ["new", "old", "old", "old"]
        for read in reads:
            bench.call(read.invalidate, 1)
        assert [bench.call(read, 1) for read in reads] == ["new"] * 4
