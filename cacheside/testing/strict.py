"""What strict writes and updates promise, and what everybody may rely on while they run: the same in both colours."""

from __future__ import annotations

import itertools
from datetime import date
from typing import Any

from .bench import LONG, SHORT, Bench, Promises, promise
from .store import Store, raises


class StrictPromises(Promises):
    """The tests of `strict=True` and of `updates`."""

    # Strict writes.

    @promise
    def test_strict_write(self, bench: Bench) -> None:
        """A strict write drops its targets: a template, a function, a callable; before it raises as well."""
        cache, store = bench.cache(), Store()
        reads = [cache.cached(key=f"{name}:{{row}}")(bench.function(store.read)) for name in "abc"]
        targets = ("a:{row}", reads[1], lambda row, value: ["c:none", f"c:{row}"])
        write = cache.invalidates(*targets, strict=True)(bench.function(store.write))
        fail = cache.invalidates(*targets, strict=True)(bench.function(store.write_and_fail))
        for value in (1, 2):
            assert bench.call(write, 1, value) == {"row": 1}
            assert [bench.call(read, 1) for read in reads * 2] == [value] * 6
        assert raises(bench, fail, 1, 3) == (1,)
        assert [bench.call(read, 1) for read in reads * 2] == [3] * 6
        assert store.reads == 9
        assert (cache.stats().guards_lost, cache.stats().pending) == (0, 0)

    @promise
    def test_reads_during_a_strict_write(self, bench: Bench) -> None:
        """While a strict write is under way its key is read from the store and nothing is stored; then it is again."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        elsewhere = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        assert [bench.call(each, row) for each in (read, elsewhere) for row in (1, 2)] == [0] * 4
        with bench.block(cache.invalidating(read.key(1), strict=True)):
            assert [bench.call(each, 1) for each in (read, elsewhere, read)] == [0] * 3
            store.rows[1] = "new"
            assert [bench.call(each, 1) for each in (read, elsewhere, read)] == ["new"] * 3
            assert store.reads == 8
            assert bench.call(read, 2) == 0
        assert [bench.call(each, 1) for each in (read, elsewhere, read)] == ["new"] * 3
        assert store.reads == 9
        assert (read.cache_info().guarded, elsewhere.cache_info().guarded) == (4, 2)

    @promise
    def test_loads_during_a_strict_write(self, bench: Bench) -> None:
        """A load from before a strict write, or in it, is never stored after it."""
        for early in (True, False):
            cache, store, reading, writing = bench.cache(), Store(), bench.gate(), bench.gate()
            slow = cache.cached(key=f"{early}:{{row}}")(bench.function(store.read, reading))
            read = bench.cache().cached(key=f"{early}:{{row}}")(bench.function(store.read))
            write = cache.invalidates(slow, strict=True)(bench.function(store.write, writing))
            loads = []
            if early:
                loads.append(bench.start(slow, 1))
                reading.wait_for_load()
            done = bench.start(write, 1, "new")
            writing.wait_for_load()
            if not early:
                loads.append(bench.start(slow, 1))
                reading.wait_for_load()
            store.rows[1] = "newer"  # a second statement of the write
            writing.open()
            done.result()
            reading.open()
            assert [load.result() for load in loads] == [0 if early else "new"]
            assert [bench.call(each, 1) for each in (read, slow)] == ["newer"] * 2

    @promise
    def test_several_strict_writes(self, bench: Bench) -> None:
        """Of several strict writes at once each guards the key to its own end; after the last one it is cached."""
        cache, store, gates = bench.cache(), Store(), [bench.gate() for _ in range(3)]
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        writes = [cache.invalidates(read, strict=True)(bench.function(store.write, gate)) for gate in gates]
        calls = []
        for value, (write, gate) in enumerate(zip(writes, gates, strict=True)):
            calls.append(bench.start(write, 1, value))
            gate.wait_for_load()
        for place in (1, 2, 0):
            reads = store.reads
            assert [bench.call(read, 1) for _ in range(2)] == [2, 2]
            assert store.reads == reads + 2
            gates[place].open()
            calls[place].result()
        reads = store.reads
        assert [bench.call(read, 1) for _ in range(2)] == [2, 2]
        assert store.reads == reads + 1

    @promise
    def test_invalidation_during_a_strict_write(self, bench: Bench) -> None:
        """A plain write to the key, in the middle of a strict one, lets nobody store what the strict one changes."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read, strict=True)(bench.function(store.write, gate))
        other = cache.invalidates(read)(bench.function(store.write))
        strict = bench.start(write, 1, "new")
        gate.wait_for_load()
        bench.call(other, 1, "other")
        assert bench.call(read, 1) == "other"
        store.rows[1] = "newer"
        assert bench.call(read, 1) == "newer"
        gate.open()
        strict.result()
        assert [bench.call(read, 1) for _ in range(2)] == ["newer"] * 2

    @promise
    def test_write_that_outlasts_its_hold(self, bench: Bench) -> None:
        """A strict write whose guard has ended before it did is as a plain one: what was read since is dropped."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        with bench.block(cache.invalidating("row:1", strict=True, hold=SHORT)):
            bench.advance(2.2 if "whole_seconds" in bench.capabilities else SHORT)
            assert [bench.call(read, 1) for _ in range(2)] == [0, 0]
            assert store.reads == 1
            store.rows[1] = "new"
        assert bench.call(read, 1) == "new"
        assert cache.stats().guards_lost == 1

    # Updates.

    @promise
    def test_updates(self, bench: Bench) -> None:
        """What a write returned is what the next call finds, without a load; whatever was there before."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        elsewhere = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        write = cache.updates(read)(bench.function(store.write_and_return))
        for row, before in ((1, True), (2, False)):
            if before:
                bench.call(read, row)
            reads = store.reads
            for value in ("new", "newer"):
                assert bench.call(write, row, value) == value
                assert [bench.call(each, row) for each in (read, elsewhere)] == [value] * 2
            assert store.reads == reads
        stats = cache.stats()
        assert (stats.updates, stats.updates_refused, stats.guards_lost, stats.pending) == (4, 0, 0, 0)

    @promise
    def test_updated_values_come_back_as_they_were(self, bench: Bench) -> None:
        """A hit returns what the write returned, types included; None is a value like any other."""
        values = [None, False, 0, "", b"", 1.5, "é\n", (1, (2, "x")), {"a": {1: 2}}, {1, 2}, date(2024, 2, 29)]
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.updates(read)(bench.function(store.write_and_return))
        for row, value in enumerate(values):
            bench.call(write, row, value)
            found = bench.call(read, row)
            assert (found, type(found)) == (value, type(value))
        assert store.reads == 0

    @promise
    def test_updates_of_several_targets(self, bench: Bench) -> None:
        """Each target gets the value as it keeps values: a function with its ttl, version and cache, a text by ttl=."""
        cache, other, store = bench.cache(), bench.cache(), Store()
        long = cache.cached(key="long:{row}", ttl=LONG)(bench.function(store.read))
        never = cache.cached(key="never:{row}", cache_if=lambda value: False)(bench.function(store.read))
        versioned = other.cached(key="versioned:{row}", version=2)(bench.function(store.read))
        text = cache.cached(key="text:{row}", ttl=LONG)(bench.function(store.read))
        targets = (long, never, versioned, "text:{row}")
        write = cache.updates(*targets, ttl=SHORT)(bench.function(store.write_and_return))
        bench.call(write, 1, "new")
        assert (cache.stats().updates, other.stats().updates) == (2, 1)
        assert [bench.call(read, 1) for read in (long, versioned, never)] == ["new"] * 3
        assert store.reads == 1
        bench.advance(SHORT)
        assert [bench.call(read, 1) for read in (long, versioned, text)] == ["new"] * 3
        assert store.reads == 2

    @promise
    def test_updates_on_error(self, bench: Bench) -> None:
        """A write that raises has no value to put in; what was there is dropped."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.updates(read)(bench.function(store.write_and_fail))
        bench.call(read, 1)
        assert raises(bench, write, 1, "new") == (1,)
        assert [bench.call(read, 1) for _ in range(2)] == ["new", "new"]
        assert store.reads == 2

    @promise
    def test_updates_at_once(self, bench: Bench) -> None:
        """Of writes that overlap none puts its value in, in whatever order they end: the next call reads the store."""
        for round_, (order, strict) in enumerate(itertools.product(((0, 1), (1, 0)), (False, True))):
            cache, store, gates = bench.cache(), Store(), [bench.gate() for _ in range(2)]
            read = cache.cached(key=f"{round_}:{{row}}")(bench.function(store.read))
            writes = [
                cache.updates(read, strict=strict)(bench.function(store.write_and_return, gate)) for gate in gates
            ]
            calls = []
            for value, (write, gate) in enumerate(zip(writes, gates, strict=True)):
                calls.append(bench.start(write, 1, value))
                gate.wait_for_load()
            for place in order:
                gates[place].open()
                assert calls[place].result() == place
            assert [bench.call(read, 1) for _ in range(2)] == [1, 1]
            assert store.reads == 1
            assert (cache.stats().updates, cache.stats().updates_refused) == (0, 2)

    @promise
    def test_other_writes_during_an_update(self, bench: Bench) -> None:
        """Whatever else was written while a write was under way: its value, be it older or not, is dropped."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        theirs = bench.cache()
        others: list[Any] = [
            cache.updates(read)(bench.function(store.write_and_return)),
            theirs.updates("row:{row}")(bench.function(store.write_and_return)),
            theirs.invalidates("row:{row}", strict=True)(bench.function(store.write)),
            theirs.invalidates("row:{row}")(bench.function(store.write)),
        ]
        for row, other in enumerate(others):
            gate = bench.gate()
            write = cache.updates(read)(bench.function(store.write_and_return, gate))
            slow = bench.start(write, row, "older")
            gate.wait_for_load()
            bench.call(other, row, "newer")
            gate.open()
            assert slow.result() == "older"
            assert [bench.call(read, row) for _ in range(2)] == ["newer"] * 2
            assert store.reads == row + 1

    @promise
    def test_load_during_an_update(self, bench: Bench) -> None:
        """A load from before a write, or in it, does not overwrite what the write put in."""
        for early in (True, False):
            cache, store, reading, writing = bench.cache(), Store(), bench.gate(), bench.gate()
            slow = cache.cached(key=f"{early}:{{row}}")(bench.function(store.read, reading))
            write = cache.updates(slow)(bench.function(store.write_and_return, writing))
            loads = []
            if early:
                loads.append(bench.start(slow, 1))
                reading.wait_for_load()
            done = bench.start(write, 1, "new")
            writing.wait_for_load()
            if not early:
                store.rows[1] = "not yet"
                loads.append(bench.start(slow, 1))
                reading.wait_for_load()
                store.rows[1] = "new"
            writing.open()
            done.result()
            reading.open()
            assert [load.result() for load in loads] == [0 if early else "not yet"]
            assert bench.call(slow, 1) == "new"
            assert store.reads == 1
