"""What decorated functions with windows promise: old values for a while, refreshed by one caller; refreshing ahead."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .bench import CROWD, LONG, SHORT, Bench, Promises, promise_of, until
from .stage import PATIENCE
from .store import NotFound, Store, raises
from .windowed import KEY, Shaky, records, settled, windowed

who: ContextVar[str] = ContextVar("who", default="nobody")


class FreshnessPromises(Promises):
    """The tests of `stale_while_revalidate`, `stale_if_error` and `early_refresh`."""

    @promise_of("claims")
    def test_old_value_while_one_refreshes(self, bench: Bench) -> None:
        """A crowd, in several processes, gets an old value at once, while one of it loads the new one for all."""
        store, gate = Store(), bench.gate()
        short = windowed(bench, store, ttl=SHORT)
        reads = [windowed(bench, store, gate) for _ in range(4)]
        assert bench.call(short, 1) == 0
        store.rows[1] = "new"
        bench.advance(SHORT)
        calls = [bench.start(reads[number % len(reads)], 1) for number in range(CROWD)]
        assert [call.result(PATIENCE) for call in calls] == [0] * CROWD
        gate.wait_for_load()
        assert [bench.call(read, 1) for read in reads] == [0] * len(reads)
        assert store.reads == 2
        gate.open()
        until(lambda: [bench.call(read, 1) for read in reads] == ["new"] * len(reads), "all see the new value")
        settled(*reads)
        assert store.reads == 2
        infos = [read.cache_info() for read in reads]
        assert (sum(info.refreshes for info in infos), sum(info.misses for info in infos)) == (1, 0)
        assert sum(info.stale for info in infos) >= CROWD + len(reads)

    @promise_of("claims")
    def test_past_the_window(self, bench: Bench) -> None:
        """Past its window, that of who stored it or that of who reads it, a value is served to nobody."""
        for stored, wanted in ((SHORT, LONG), (LONG, SHORT)):
            store, key = Store(), f"{stored}:{{row}}"
            short = windowed(bench, store, key=key, ttl=SHORT, stale_while_revalidate=stored)
            read = windowed(bench, store, key=key, stale_while_revalidate=wanted)
            bench.call(short, 1)
            store.rows[1] = "new"
            bench.advance(2 * SHORT)
            assert [bench.call(read, 1) for _ in range(2)] == ["new", "new"]
            info = read.cache_info()
            assert (info.hits, info.misses, info.stale, info.refreshes, store.reads) == (1, 1, 0, 0, 2)

    @promise_of("claims")
    def test_function_without_windows(self, bench: Bench) -> None:
        """A function without windows never gets a value past its ttl, which its key holds for those that have some."""
        store, ttl = Store(), 4 * SHORT
        short = windowed(bench, store, ttl=ttl)
        read = bench.cache().cached(key=KEY, ttl=LONG)(bench.function(store.read))
        for row in (1, 2):
            bench.call(short, row)
        if "in_process" in bench.capabilities:  # where time stands still: who has had it as a hit is no better off
            assert [bench.call(read, 1) for _ in range(3)] == [0, 0, 0]
        store.rows = {1: "new", 2: "new"}
        bench.advance(ttl)
        assert [bench.call(read, row) for row in (1, 2, 1, 2)] == ["new"] * 4

    @promise_of("claims")
    def test_invalidation_during_a_refresh(self, bench: Bench) -> None:
        """A refresh that a write overtakes is refused, and the old value is gone: the next caller loads."""
        store, gate = Store(), bench.gate()
        short, read, elsewhere = windowed(bench, store, ttl=SHORT), windowed(bench, store, gate), windowed(bench, store)
        write = bench.cache().invalidates(KEY)(bench.function(store.write))
        bench.call(short, 1)
        bench.advance(SHORT)
        assert bench.call(read, 1) == 0
        gate.wait_for_load()
        bench.call(write, 1, "new")
        assert [bench.call(each, 1) for each in (elsewhere, read)] == ["new", "new"]
        gate.open()
        until(lambda: read.cache_info().refused == 1, "the refresh is refused")
        settled(read, elsewhere)
        assert [bench.call(each, 1) for each in (elsewhere, read)] == ["new", "new"]
        assert store.reads == 3

    @promise_of("claims")
    def test_refresh_that_fails(self, bench: Bench) -> None:
        """The old value is served on while refreshes fail: each is counted, and the first in a row is logged."""
        store, cache = Shaky(), bench.cache()
        read = cache.cached(key=KEY, ttl=LONG, stale_while_revalidate=LONG)(bench.function(store.read))
        bench.call(read, 1)
        for streak in (1, 2):
            with bench.block(cache.invalidating("row:1", stale=LONG)):
                store.rows[1] = streak
            store.broken = True
            enough = read.cache_info().failed_refreshes + 2

            def failed(old: int = streak - 1, enough: int = enough) -> bool:
                assert bench.call(read, 1) == old
                return bool(read.cache_info().failed_refreshes >= enough)

            with records() as seen:
                until(failed, "two refreshes have failed")
                settled(read)
            assert len(seen) == 1
            store.broken = False
            until(lambda new=streak: bench.call(read, 1) == new, "it is refreshed")  # type: ignore[misc]
        settled(read)
        assert read.cache_info().misses == 1

    @promise_of("claims")
    def test_refresh_of_a_stored_exception(self, bench: Bench) -> None:
        """A declared exception is an outcome like any other: it replaces the old value, and has no windows itself."""
        store = Shaky()
        short = windowed(bench, store, ttl=SHORT)
        options: dict[str, Any] = {"cache_exceptions": (NotFound,), "negative_ttl": 4 * SHORT, "stale_if_error": LONG}
        read = windowed(bench, store, **options)
        bench.call(short, 1)
        bench.advance(SHORT)
        store.broken = True
        assert bench.call(read, 1) == 0
        until(lambda: read.cache_info().loads == 1, "it is refreshed")
        settled(read)
        assert raises(bench, read, 1) == (1,)
        bench.advance(4 * SHORT)
        store.broken = False
        assert bench.call(read, 1) == 0
        info = read.cache_info()
        assert (info.failed_refreshes, info.rescued, info.stale, info.misses) == (0, 0, 1, info.loads - 1)

    @promise_of("claims")
    def test_stale_if_error(self, bench: Bench) -> None:
        """Within its window an old value stands in for a load that fails; one that succeeds is returned, and kept."""
        store = Shaky()
        windows: dict[str, Any] = {"stale_while_revalidate": 0, "stale_if_error": LONG}
        short, read = windowed(bench, store, ttl=SHORT, **windows), windowed(bench, store, **windows)
        bench.call(short, 1)
        store.rows[1] = "new"
        store.broken = True
        bench.advance(SHORT)
        with records() as seen:
            assert [bench.call(read, 1) for _ in range(3)] == [0, 0, 0]
        assert len(seen) == 1
        info = read.cache_info()
        assert (info.rescued, info.misses, info.loads, store.reads) == (3, 3, 3, 4)
        store.broken = False
        assert [bench.call(read, 1) for _ in range(2)] == ["new", "new"]
        assert store.reads == 5

    @promise_of("claims")
    def test_stale_if_error_ends(self, bench: Bench) -> None:
        """Past its window, and where there is no value, a load that fails is a call that raises."""
        store = Shaky()
        for stored, wanted in ((SHORT, LONG), (LONG, SHORT), (LONG, 0)):
            store.broken = False
            windows: list[dict[str, Any]] = [{"stale_if_error": each} for each in (stored, wanted)]
            key = f"{stored}:{wanted}:{{row}}"
            short = windowed(bench, store, key=key, ttl=SHORT, stale_while_revalidate=0, **windows[0])
            read = windowed(bench, store, key=key, stale_while_revalidate=0, **windows[1])
            bench.call(short, 1)
            store.broken = True
            bench.advance(2 * SHORT)
            assert [raises(bench, read, row) for row in (1, 2, 1)] == [(1,), (2,), (1,)]
            assert read.cache_info().rescued == 0

    @promise_of("claims")
    def test_early_refresh(self, bench: Bench) -> None:
        """With a great `early_refresh` a value is refreshed within its ttl, in the background; with 0 it never is."""
        store, gate = Store(), bench.gate()
        first = windowed(bench, store, early_refresh=1)
        late = windowed(bench, store)
        early = windowed(bench, store, gate, ttl=60, stale_while_revalidate=0, early_refresh=1e15)
        bench.call(first, 1)
        store.rows[1] = "new"
        assert [bench.call(late, 1) for _ in range(CROWD)] == [0] * CROWD
        until(lambda: bench.call(early, 1) != 0 or early.cache_info().refreshes > 0, "one is refreshed early")
        gate.wait_for_load()
        assert [bench.call(each, 1) for each in (early, late)] == [0, 0]
        gate.open()
        until(lambda: bench.call(late, 1) == "new", "it is refreshed")
        settled(early, late)
        assert (early.cache_info().stale, early.cache_info().misses) == (0, 0)
        assert (late.cache_info().refreshes, late.cache_info().loads) == (0, 0)

    @promise_of("claims")
    def test_context_of_a_refresh(self, bench: Bench) -> None:
        """A refresh runs with the context variables of the caller that began it, and changes none of them."""
        store = Store()
        short = windowed(bench, store, ttl=SHORT)

        def load(row: int) -> str:
            seen = who.get()
            who.set("the load")
            return seen

        read = bench.cache().cached(key=KEY, ttl=LONG, stale_while_revalidate=LONG)(bench.function(load))
        bench.call(short, 1)
        bench.advance(SHORT)
        token = who.set("the caller")
        try:
            assert bench.call(read, 1) == 0
            settled(read)
            assert who.get() == "the caller"
        finally:
            who.reset(token)
        until(lambda: bench.call(read, 1) == "the caller", "it is refreshed")
