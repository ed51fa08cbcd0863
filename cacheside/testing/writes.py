"""What decorated writes promise, and what everybody may rely on while they run: the same in both colours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from ..errors import ConfigurationError
from .bench import CROWD, Bench, Promises, promise, until
from .store import Store, raises


class WritePromises(Promises):
    """The tests of invalidation, and of reads and writes at the same time."""

    # Writes.

    @promise
    def test_invalidate(self, bench: Bench) -> None:
        """After an invalidation, by whatever name, the next call reads the store; other entries stay."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        by_text = cache.invalidate if bench.colour == "sync" else cache.ainvalidate
        ways: list[tuple[Callable[..., Any], Any]] = [(read.invalidate, (1,)), (by_text, (read.key(1), read.key(3)))]
        assert bench.call(read, 2) == 0
        for value, (way, args) in enumerate(ways):
            bench.call(read, 1)
            store.rows = dict.fromkeys((1, 2, 3), value + 1)
            bench.call(way, *args)
            assert bench.call(read, 1) == value + 1
            assert bench.call(read, 2) == 0

    @promise
    def test_refresh(self, bench: Bench) -> None:
        """`refresh` returns what the store holds now, and keeps it for others."""
        store = Store()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        bench.call(read, 1)
        store.rows[1] = "new"
        assert bench.call(read.refresh, 1) == "new"
        assert bench.call(read, 1) == "new"
        assert store.reads == 2

    @promise
    def test_invalidates(self, bench: Bench) -> None:
        """A write drops its targets when it has returned: a template, `{result...}`, a function, a callable."""
        cache, store = bench.cache(), Store()
        reads = [cache.cached(key=f"{name}:{{row}}")(bench.function(store.read)) for name in "abcd"]
        targets = ("a:{row}", "b:{result[row]}", reads[2], lambda row, value: [f"d:{row}", "d:none"])
        write = bench.function(store.write)
        for target in targets:  # one decorator over the other: each adds its own
            write = cache.invalidates(target)(write)
        for value in (1, 2):
            assert bench.call(write, 1, value) == {"row": 1}
            assert [bench.call(read, 1) for read in reads] == [value] * 4
        together = cache.invalidates(*targets)(bench.function(store.write))
        bench.call(together, 1, 3)
        assert [bench.call(read, 1) for read in reads] == [3] * 4

    @promise
    def test_invalidates_on_error(self, bench: Bench) -> None:
        """A write that raises may have written all the same: its targets are dropped, and its error is raised."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates("row:{row}")(bench.function(store.write_and_fail))
        bench.call(read, 1)
        assert raises(bench, write, 1, "new") == (1,)
        assert bench.call(read, 1) == "new"

    @promise
    def test_clear(self, bench: Bench) -> None:
        """`clear` drops this namespace, or refuses where it would have to drop more."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        clear: Callable[..., Any] = cache.clear if bench.colour == "sync" else cache.aclear
        bench.call(read, 1)
        store.rows[1] = "new"
        try:
            bench.call(clear)
        except ConfigurationError:
            assert "clear" not in bench.capabilities
            assert bench.call(read, 1) == 0
            bench.call(clear, True)
        assert bench.call(read, 1) == "new"

    # Concurrency.

    @promise
    def test_one_load_for_a_crowd(self, bench: Bench) -> None:
        """Many callers of one cold key share one load."""
        store, gate = Store(), bench.gate()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read, gate))
        calls = [bench.start(read, 1) for _ in range(CROWD)]
        until(lambda: read.cache_info().misses == CROWD, "all callers have missed")
        gate.open()
        assert [call.result() for call in calls] == [0] * CROWD
        assert (store.reads, read.cache_info().loads, read.cache_info().coalesced) == (1, 1, CROWD - 1)

    @promise
    def test_one_load_for_two_processes(self, bench: Bench) -> None:
        """Two caches on one server, as in two processes, share one load as well."""
        store, gate = Store(), bench.gate()
        mine, theirs = (bench.cache().cached(key="row:{row}")(bench.function(store.read, gate)) for _ in range(2))
        first = bench.start(mine, 1)
        gate.wait_for_load()
        second = bench.start(theirs, 1)
        until(lambda: theirs.cache_info().misses == 1, "the other cache has missed")
        gate.open()
        assert (first.result(), second.result(), store.reads) == (0, 0, 1)

    @promise
    def test_write_during_a_load(self, bench: Bench) -> None:
        """What was read before a write is not stored after it: whoever calls next sees what was written."""
        store, gate = Store(), bench.gate()
        cache = bench.cache()
        read = cache.cached(key="row:{row}")(bench.function(store.read, gate))
        write = cache.invalidates(read)(bench.function(store.write))
        slow = bench.start(read, 1)
        gate.wait_for_load()
        bench.call(write, 1, "new")
        gate.open()
        slow.result()
        assert [bench.call(read, 1) for _ in range(2)] == ["new", "new"]
        assert read.cache_info().refused == 1
        assert store.reads == 2

    @promise
    def test_read_after_a_write_during_a_load(self, bench: Bench) -> None:
        """Who calls after a write gets no load from before it, though that is under way, here or elsewhere."""
        for same in (True, False):
            store, gate = Store(), bench.gate()
            caches = itertools.repeat(bench.cache()) if same else iter([bench.cache() for _ in range(3)])
            old = next(caches).cached(key=f"{same}:{{row}}")(bench.function(store.read, gate))
            new = next(caches).cached(key=f"{same}:{{row}}")(bench.function(store.read))
            write = next(caches).invalidates(f"{same}:{{row}}")(bench.function(store.write))
            slow = bench.start(old, 1)
            gate.wait_for_load()
            bench.call(write, 1, "new")
            assert [bench.call(new, 1) for _ in range(2)] == ["new", "new"]
            gate.open()
            slow.result()
            assert [bench.call(each, 1) for each in (new, old)] == ["new", "new"]
            assert store.reads == 2

    @promise
    def test_closed_cache_works_again(self, bench: Bench) -> None:
        """A closed cache works again, as for an application that starts a second time."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        close = cache.close if bench.colour == "sync" else cache.aclose
        for value in (1, 2):
            store.rows[1] = value
            bench.call(read.invalidate, 1)
            assert [bench.call(read, 1) for _ in range(2)] == [value, value]
            bench.call(close)
            bench.call(close)
        assert cache.stats().totals.errors == 0
