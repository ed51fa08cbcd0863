"""What writes that leave old values for a while promise, and those that do not, to functions with windows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .bench import LONG, SHORT, Bench, Promises, promise_of, until
from .stage import PATIENCE
from .store import Store, raises
from .windowed import KEY, Shaky, invalidator, settled, windowed

RESCUE: dict[str, Any] = {"stale_while_revalidate": 0, "stale_if_error": LONG}


class MarkPromises(Promises):
    """The tests of `@invalidates(stale=...)`, and of plain invalidations beside windows."""

    @promise_of("claims")
    def test_marked_value(self, bench: Bench) -> None:
        """After a write with `stale=` functions with a window get the old value while it is refreshed, others load."""
        store, gate = Store(), bench.gate()
        read, rescuer = windowed(bench, store), windowed(bench, store, **RESCUE)
        slow, plain = windowed(bench, store, gate), bench.cache().cached(key=KEY, ttl=LONG)(bench.function(store.read))
        write = bench.cache().invalidates(KEY, stale=LONG)(bench.function(store.write))
        for row in (1, 2, 3):
            for each in (read, plain):
                assert [bench.call(each, row) for _ in range(2)] == [0, 0]
            bench.call(write, row, "new")
        assert store.reads == 3
        assert bench.call(slow, 1) == 0
        gate.wait_for_load()
        assert [bench.call(read, 1) for _ in range(3)] == [0, 0, 0]
        gate.open()
        until(lambda: bench.call(read, 1) == "new", "it is refreshed")
        assert bench.call(plain, 2) == "new"
        assert bench.call(rescuer, 3) == "new"
        settled(read, slow)
        assert [bench.call(each, row) for each in (read, plain, rescuer) for row in (1, 2, 3)] == ["new"] * 9
        assert store.reads == 6
        assert (slow.cache_info().stale, slow.cache_info().refreshes, read.cache_info().refreshes) == (1, 1, 0)

    @promise_of("claims")
    def test_marked_value_where_loading_fails(self, bench: Bench) -> None:
        """A marked value stands in for a load that fails where `stale_if_error` allows it, and nowhere else."""
        store = Shaky()
        rescuer, plain = windowed(bench, store, **RESCUE), bench.cache().cached(key=KEY)(bench.function(store.read))
        write = bench.cache().invalidates(KEY, stale=LONG)(bench.function(store.write))
        bench.call(rescuer, 1)
        bench.call(write, 1, "new")
        store.broken = True
        assert [bench.call(rescuer, 1) for _ in range(2)] == [0, 0]
        assert rescuer.cache_info().rescued == 2
        assert raises(bench, plain, 1) == (1,)
        assert raises(bench, rescuer, 1) == (1,), "a function without windows has seen that the value is of no use"

    @promise_of("claims")
    def test_marks_end(self, bench: Bench) -> None:
        """A marked value is served for `stale` seconds after the first mark, however often it is marked."""
        store = Shaky()
        read = windowed(bench, store, stale_if_error=LONG)
        first = bench.cache().invalidates(KEY, stale=2 * SHORT)(bench.function(store.write))
        again = bench.cache().invalidates(KEY, stale=2 * SHORT)(bench.function(store.write))
        for row in (1, 2):
            bench.call(read, row)
            bench.call(first, row, "new")
            bench.advance(SHORT)
            bench.call(again, row, "newer")
            bench.advance(SHORT)
        assert [bench.call(read, 1) for _ in range(2)] == ["newer"] * 2
        store.broken = True
        assert raises(bench, read, 2) == (2,)
        assert (read.cache_info().stale, read.cache_info().rescued) == (0, 0)

    @promise_of("claims")
    def test_invalidation_beside_windows(self, bench: Bench) -> None:
        """What was invalidated is served to nobody, by no window: fresh, past its ttl, or marked before."""
        store, cache = Shaky(), bench.cache()
        both: dict[str, Any] = {"stale_while_revalidate": LONG, "stale_if_error": LONG}
        short, read = windowed(bench, store, ttl=SHORT, **both), windowed(bench, store, **both)
        drop = bench.cache().invalidates(KEY)(bench.function(store.write))
        mark = bench.cache().invalidates(KEY, stale=LONG)(bench.function(store.write))
        ways: dict[int, Callable[[int], object]] = {
            1: lambda row: bench.call(drop, row, "new"),
            2: lambda row: bench.call(read.invalidate, row),
            3: lambda row: bench.call(invalidator(bench, cache), read.key(row)),
        }
        for state in ("fresh", "old", "marked"):
            for row, invalidate in ways.items():
                store.rows[row] = state
                store.broken = False
                bench.call(read.invalidate, row)
                bench.call(short if state == "old" else read, row)
                if state == "old":
                    bench.advance(SHORT)
                elif state == "marked":
                    bench.call(mark, row, "in between")
                invalidate(row)
                store.broken = True
                assert raises(bench, read, row) == (row,)
                store.rows[row], store.broken = "new", False
                assert [bench.call(read, row) for _ in range(2)] == ["new", "new"]
        assert (read.cache_info().stale, read.cache_info().rescued) == (0, 0)

    @promise_of("claims")
    def test_mark_during_a_load(self, bench: Bench) -> None:
        """A load that a mark overtakes is not stored, be it a miss or a refresh: the value is refreshed later."""
        for cold in (True, False):
            store, gate, key = Store(), bench.gate(), f"{cold}:{{row}}"
            slow, read = windowed(bench, store, gate, key=key), windowed(bench, store, key=key)
            mark = bench.cache().invalidates(key, stale=LONG)(bench.function(store.write))
            if not cold:
                bench.call(read, 1)
                bench.call(mark, 1, "middle")
            call = bench.start(slow, 1)
            gate.wait_for_load()
            bench.call(mark, 1, "new")
            gate.open()
            assert call.result(PATIENCE) == 0
            until(lambda slow=slow: slow.cache_info().refused == 1, "its fill is refused")  # type: ignore[misc]
            until(lambda read=read: bench.call(read, 1) == "new", "it is refreshed")  # type: ignore[misc]
            settled(slow, read)
            assert bench.call(slow, 1) == "new"

    @promise_of("claims")
    def test_steady_writes(self, bench: Bench) -> None:
        """Under steady writes, marking or not, every caller comes back, and with no value older than it may be."""
        for grace in (0, SHORT):
            store, key = Store(), f"{grace}:{{row}}"
            store.rows[1] = over = 0
            both: dict[str, Any] = {"stale_while_revalidate": LONG, "stale_if_error": LONG, "key": key}
            reads = [windowed(bench, store, **both) for _ in range(2)]
            reads.append(bench.cache().cached(key=key)(bench.function(store.read)))
            write = bench.cache().invalidates(key, stale=grace)(bench.function(store.write))
            stop = threading.Event()

            def writing(write: Any = write, grace: float = grace, stop: threading.Event = stop) -> None:
                nonlocal over
                for version in range(1, 1000):
                    bench.call(write, 1, version)
                    if grace:
                        bench.advance(grace)
                    over = version  # nobody who calls from now on may see less
                    if stop.is_set():
                        return

            writer = threading.Thread(target=writing)
            writer.start()
            try:
                for _ in range(10):
                    least = over
                    calls = [bench.start(read, 1) for read in reads for _ in range(3)]
                    for call in calls:
                        assert call.result(PATIENCE) >= least
            finally:
                stop.set()
                writer.join(PATIENCE)
            last = over
            until(lambda reads=reads, last=last: [bench.call(read, 1) for read in reads] == [last] * 3, "it is kept")  # type: ignore[misc]
            settled(*reads[:2])

    @promise_of("claims")
    def test_refreshes_under_steady_marks(self, bench: Bench) -> None:
        """However many refreshes in a row are refused, callers are answered: by the old value, and in time by loads."""
        store, cache = Store(), bench.cache()
        read = windowed(bench, store)
        mark = cache.invalidates(KEY, stale=LONG)(bench.function(store.write))
        assert bench.call(read, 1) == 0
        for value in range(1, 6):
            gate = bench.gate()
            slow = windowed(bench, store, gate)
            bench.call(mark, 1, value)
            assert bench.call(slow, 1) == 0
            gate.wait_for_load()
            bench.call(mark, 1, value)
            gate.open()
            until(lambda slow=slow: slow.cache_info().refused == 1, "the refresh is refused")  # type: ignore[misc]
            settled(slow)
        with bench.block(cache.invalidating("row:1", stale=SHORT)):
            store.rows[1] = "last"
        bench.advance(SHORT)
        assert [bench.call(read, 1) for _ in range(2)] == ["last", "last"]
