"""What limits on loads promise: how long a caller waits for one, and how many run at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..errors import LoadTimeout, TooManyLoads
from .bench import CROWD, LONG, SHORT, Bench, Promises, promise, promise_of, until
from .stage import PATIENCE
from .store import Store, raises
from .windowed import KEY, records, settled, windowed


class LimitPromises(Promises):
    """The tests of `load_timeout`, `max_loads` and `max_loads_wait`."""

    # load_timeout.

    @promise
    def test_load_timeout(self, bench: Bench) -> None:
        """Callers do not wait longer than `load_timeout`; the load goes on without them, and its value is kept."""
        store, gate = Store(), bench.gate()
        read = bench.cache().cached(key=KEY, load_timeout=SHORT)(bench.function(store.read, gate))
        with records() as seen:
            for _ in range(2):
                calls = [bench.start(read, 1) for _ in range(3)]
                assert [type(call.exception(PATIENCE)) for call in calls] == [LoadTimeout] * 3
            gate.open()
            until(lambda: outcome(bench, read, 1) == 0, "the load has ended")
        assert bench.call(read, 1) == 0
        info = read.cache_info()
        assert (store.reads, info.loads) == (1, 1)
        assert info.timed_out >= 6
        assert seen == []

    @promise
    def test_load_within_its_timeout(self, bench: Bench) -> None:
        """A load that is in time is as any other: its value, its exception, and one load for a crowd."""
        store, gate = Store(), bench.gate()
        read = bench.cache().cached(key=KEY, load_timeout=PATIENCE)(bench.function(store.read, gate))
        fail = bench.cache().cached(key="fail:{row}", load_timeout=PATIENCE)(bench.function(store.fail))
        calls = [bench.start(read, 1) for _ in range(CROWD)]
        until(lambda: read.cache_info().misses == CROWD, "all callers have missed")
        gate.open()
        assert [call.result(PATIENCE) for call in calls] == [0] * CROWD
        assert store.reads == 1
        assert [raises(bench, fail, 1) for _ in range(2)] == [(1,), (1,)]
        assert (read.cache_info().timed_out, fail.cache_info().timed_out) == (0, 0)

    @promise
    def test_write_during_a_load_that_timed_out(self, bench: Bench) -> None:
        """A load that goes on after its caller has gone is no more stored after a write than any other."""
        store, gate, cache = Store(), bench.gate(), bench.cache()
        slow = cache.cached(key=KEY, load_timeout=SHORT)(bench.function(store.read, gate))
        read = cache.cached(key=KEY)(bench.function(store.read))
        write = cache.invalidates(KEY)(bench.function(store.write))
        assert outcome(bench, slow, 1) is LoadTimeout
        bench.call(write, 1, "new")
        gate.open()
        until(lambda: slow.cache_info().refused == 1, "its fill is refused")
        assert [bench.call(read, 1) for _ in range(2)] == ["new", "new"]

    @promise_of("claims")
    def test_load_timeout_with_an_old_value(self, bench: Bench) -> None:
        """Who would wait too long gets an old value, if `stale_if_error` allows one; the load still ends."""
        store, gate = Store(), bench.gate()
        windows: dict[str, Any] = {"stale_while_revalidate": 0, "stale_if_error": LONG, "load_timeout": SHORT}
        short = windowed(bench, store, ttl=SHORT, stale_while_revalidate=0, stale_if_error=LONG)
        slow, read = windowed(bench, store, gate, **windows), windowed(bench, store, **windows)
        bench.call(short, 1)
        store.rows[1] = "new"
        bench.advance(SHORT)
        calls = [bench.start(slow, 1)]
        gate.wait_for_load()
        calls += [bench.start(each, 1) for each in (slow, slow, read, read)]
        assert [call.result(PATIENCE) for call in calls] == [0] * 5
        assert bench.call(slow, 1) == 0
        gate.open()
        until(lambda: bench.call(read, 1) == "new", "the load has ended")
        assert bench.call(slow, 1) == "new"
        assert store.reads == 2
        assert slow.cache_info().timed_out >= 4

    # max_loads.

    @promise
    def test_max_loads(self, bench: Bench) -> None:
        """No more loads of a function run at once than it says, of whatever keys; the others wait, and all are made."""
        store = Busy()
        read = bench.cache().cached(key=KEY, max_loads=3, max_loads_wait=PATIENCE)(store.function(bench))
        for failing in (False, True):
            store.opened.clear()
            store.failing = failing
            first = int(failing) * CROWD
            calls = [bench.start(read, first + row) for row in range(CROWD)]
            until(lambda: store.running == 3, "as many loads run as may")
            until(lambda first=first: read.cache_info().misses == first + CROWD, "all callers have missed")  # type: ignore[misc]
            assert store.running == 3
            store.opened.set()
            errors = [call.exception(PATIENCE) for call in calls]
            assert [type(error) for error in errors] == [ValueError if failing else type(None)] * CROWD
        assert [bench.call(read, row) for row in range(CROWD)] == list(range(CROWD))
        assert (store.most, store.running, store.loads) == (3, 0, 2 * CROWD)
        assert read.cache_info().rejected == 0

    @promise
    def test_max_loads_wait(self, bench: Bench) -> None:
        """A load that has waited for its turn as long as it may is refused; its place is not lost, and nothing kept."""
        store = Busy()
        read = bench.cache().cached(key=KEY, max_loads=1, max_loads_wait=SHORT)(store.function(bench))
        held = bench.start(read, 1)
        until(lambda: store.running == 1, "a load runs")
        calls = [bench.start(read, row) for row in (2, 3, 2)]
        assert [type(call.exception(PATIENCE)) for call in calls] == [TooManyLoads] * 3
        assert store.loads == 1
        store.opened.set()
        assert held.result(PATIENCE) == 1
        assert [bench.call(read, row) for row in (1, 2, 3, 2)] == [1, 2, 3, 2]
        assert store.loads == 3
        assert read.cache_info().rejected >= 2

    @promise
    def test_load_inside_a_load(self, bench: Bench) -> None:
        """A function that calls itself inside its load does not wait for its own turn."""
        store = Store()
        options: dict[str, Any] = {"key": KEY, "max_loads": 1, "max_loads_wait": PATIENCE}

        def read(row: int) -> Any:
            store.reads += 1
            return row + cached(row - 1) if row else 0

        async def aread(row: int) -> Any:
            store.reads += 1
            return row + await cached(row - 1) if row else 0

        cached: Any = bench.cache().cached(**options)(read if bench.colour == "sync" else aread)
        assert bench.start(cached, 4).result(PATIENCE / 2) == 10
        assert bench.call(cached, 3) == 6
        assert store.reads == 5

    @promise_of("claims")
    def test_refresh_waits_for_its_turn(self, bench: Bench) -> None:
        """Refreshes are loads: they wait for their turn as well, while the old value is served."""
        store, busy = Store(), Busy()
        short = windowed(bench, store, ttl=SHORT)
        options: dict[str, Any] = {"ttl": LONG, "stale_while_revalidate": LONG, "max_loads": 1}
        read = bench.cache().cached(key=KEY, **options)(busy.function(bench))
        for row in (2, 3):
            bench.call(short, row)
        bench.advance(SHORT)
        held = bench.start(read, 1)
        until(lambda: busy.running == 1, "a load runs")
        assert [bench.call(read, row) for row in (2, 3)] == [0, 0]
        until(lambda: read.cache_info().refreshes == 2, "both are to be refreshed")
        assert [bench.call(read, row) for row in (2, 3)] == [0, 0]
        busy.opened.set()
        assert held.result(PATIENCE) == 1
        until(lambda: [bench.call(read, row) for row in (2, 3)] == [2, 3], "both are refreshed")
        settled(read)
        assert (busy.most, busy.loads) == (1, 3)


class Busy:
    """A store that counts who is in it at once, and keeps them until it is opened. Every row is its number."""

    def __init__(self) -> None:
        self.loads: int = 0
        self.running: int = 0
        self.most: int = 0
        self.failing: bool = False
        self.opened: threading.Event = threading.Event()
        self._lock = threading.Lock()

    def function(self, bench: Bench) -> Callable[..., Any]:
        """The read, in the colour of the bench."""

        def read(row: int) -> int:
            self._enter()
            try:
                assert self.opened.wait(PATIENCE), "nobody has opened it"
                return self._found(row)
            finally:
                self._leave()

        async def aread(row: int) -> int:
            import asyncio

            self._enter()
            try:
                while not self.opened.is_set():
                    await asyncio.sleep(0.002)
                return self._found(row)
            finally:
                self._leave()

        return read if bench.colour == "sync" else aread

    def _enter(self) -> None:
        with self._lock:
            self.loads += 1
            self.running += 1
            self.most = max(self.most, self.running)

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1

    def _found(self, row: int) -> int:
        if self.failing:
            raise ValueError(row)
        return row


def outcome(bench: Bench, read: Any, row: int) -> Any:
    """What a call returns, or that it took too long."""
    try:
        return bench.call(read, row)
    except LoadTimeout:
        return LoadTimeout
