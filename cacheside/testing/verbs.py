"""What the other verbs of a decorated read promise: `peek`, `set` and `warm`; the same in both colours."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import date
from typing import Any

from ..envelope import MISSING
from ..steps import Ask
from ..verbs import put
from ..warming import Warmed
from .bench import LONG, SHORT, Bench, Promises, promise, promise_of
from .rows import drop
from .stage import PATIENCE
from .store import NotFound, Store, raises


class VerbPromises(Promises):
    """The tests of `peek`, `set` and `warm`."""

    # Peek.

    @promise_of("batches")
    def test_peek(self, bench: Bench) -> None:
        """It tells the value that a call would find, MISSING where it would load; it loads and counts nothing."""
        store = Store()
        store.rows = {1: "one", 2: None}
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        assert [bench.call(read.peek, row) for row in (1, 2, 1)] == [MISSING] * 3
        assert [bench.call(read, row) for row in (1, 2)] == ["one", None]
        assert [bench.call(read.peek, row) for row in (1, 2, 3)] == ["one", None, MISSING]
        bench.call(read.invalidate, 1)
        assert bench.call(read.peek, 1) is MISSING
        info = read.cache_info()
        assert (info.hits, info.misses, info.loads, store.reads) == (0, 2, 2, 2)

    @promise_of("batches")
    def test_peek_takes_no_lease(self, bench: Bench) -> None:
        """Who peeks keeps nobody waiting: a call elsewhere loads at once, and one that is loading is not disturbed."""
        store, gate = Store(), bench.gate()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read, gate))
        elsewhere = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        assert bench.call(read.peek, 1) is MISSING
        loading = bench.start(read, 1)
        gate.wait_for_load()
        assert [bench.call(each.peek, 1) for each in (read, elsewhere)] == [MISSING] * 2
        gate.open()
        assert loading.result(PATIENCE) == 0
        assert [bench.call(each.peek, 1) for each in (read, elsewhere)] == [0] * 2
        assert bench.call(read.peek, 2) is MISSING
        assert [bench.call(elsewhere, 2) for _ in range(2)] == [0, 0]
        assert (store.reads, elsewhere.cache_info().bypassed) == (2, 0)

    @promise_of("batches")
    def test_peek_at_what_a_call_would_not_return(self, bench: Bench) -> None:
        """What is over, of another version, dropped by a tag, or being written is MISSING; a stored error is raised."""
        cache, store = bench.cache(), Store()
        short = cache.cached(key="short:{row}", ttl=SHORT)(bench.function(store.read))
        old, new = [cache.cached(key="version:{row}", version=each)(bench.function(store.read)) for each in (1, 2)]
        tagged = cache.cached(key="tagged:{row}", tags=("tag:{row}",))(bench.function(store.read))
        guarded = cache.cached(key="guarded:{row}")(bench.function(store.read))
        fail = cache.cached(key="fail:{row}", cache_exceptions=(NotFound,), negative_ttl=LONG)(
            bench.function(store.fail)
        )
        for read in (short, old, tagged, guarded):
            assert bench.call(read.peek, 1) is MISSING
            assert bench.call(read, 1) == 0
        assert [bench.call(read.peek, 1) for read in (old, new, tagged, guarded)] == [0, MISSING, 0, 0]
        bench.advance(SHORT)
        assert bench.call(short.peek, 1) is MISSING
        drop(bench, cache, tags=["tag:2"])
        assert bench.call(tagged.peek, 1) == 0
        drop(bench, cache, tags=["tag:1"])
        assert bench.call(tagged.peek, 1) is MISSING
        with bench.block(cache.invalidating("guarded:1", strict=True)):
            assert bench.call(guarded.peek, 1) is MISSING
        assert bench.call(fail.peek, 1) is MISSING
        assert raises(bench, fail, 1) == (1,)
        assert raises(bench, fail.peek, 1) == (1,)

    @promise_of("batches")
    def test_peek_at_old_values(self, bench: Bench) -> None:
        """An old value that a call would return is told, without loading; one kept for errors only is MISSING."""
        if "claims" in bench.capabilities:
            cache, store = bench.cache(), Store()
            options: tuple[dict[str, Any], ...] = ({"stale_while_revalidate": LONG}, {"stale_if_error": LONG})
            reads = [
                cache.cached(key=f"{number}:{{row}}", ttl=SHORT, **each)(bench.function(store.read))
                for number, each in enumerate(options)
            ]
            assert [bench.call(read, 1) for read in reads] == [0, 0]
            bench.advance(SHORT)
            assert [bench.call(read.peek, 1) for read in reads * 2] == [0, MISSING] * 2
            assert store.reads == 2

    @promise_of("batches")
    def test_peek_at_what_a_batch_knows(self, bench: Bench) -> None:
        """A row that a batch has found absent is MISSING for a single-key function, which would load it."""
        cache = bench.cache()
        many = cache.cached_many(key="row:{row}")(bench.function(lambda rows: {1: "one"}))
        one = cache.cached(key="row:{row}")(bench.function(Store().read))
        bench.call(many, [1, 2])
        assert [bench.call(one.peek, row) for row in (1, 2)] == ["one", MISSING]

    # Set.

    @promise
    def test_set(self, bench: Bench) -> None:
        """A known value is what calls return from then on, type included, over what was there; for its ttl."""
        values = [None, 0, "text", b"bytes", (1, 2), [1], {"a": 1}, date(2024, 2, 29)]
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        short = cache.cached(key="row:{row}", ttl=SHORT)(bench.function(store.read))
        for value in values:
            assert bench.call(read.set, value, 1) is True
            found = [bench.call(read, 1) for _ in range(2)]
            assert found == [value] * 2
            assert {type(each) for each in found} == {type(value)}
        assert store.reads == 0
        bench.call(read.invalidate, 1)
        assert bench.call(read, 1) == 0
        assert bench.call(short.set, "short", 2) is True
        bench.advance(2.2 if "whole_seconds" in bench.capabilities else SHORT)
        assert bench.call(read, 2) == 0

    @promise
    def test_set_that_is_not_wanted(self, bench: Bench) -> None:
        """What `cache_if` or a ttl of 0 does not let in is not there; nor is what was there before."""
        cache, store = bench.cache(), Store()
        store.rows = {1: "old"}
        picky = cache.cached(key="picky:{row}", cache_if=bool)(bench.function(store.read))
        brief = cache.cached(key="brief:{row}", ttl=lambda value: 0 if value == "" else LONG)(
            bench.function(store.read)
        )
        for read in (picky, brief):
            assert bench.call(read, 1) == "old"
            assert bench.call(read.set, "", 1) is False
            store.rows[1] = "new"
            assert bench.call(read, 1) == "new"
            store.rows[1] = "old"

    @promise
    def test_set_against_another_writer(self, bench: Bench) -> None:
        """While another's strict write is under way a known value is refused, and that write's end leaves none."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        with bench.block(bench.cache().invalidating("row:1", strict=True)):
            assert bench.call(read.set, "set", 1) is False
            assert bench.call(read, 1) == 0
            store.rows[1] = "new"
        assert [bench.call(read, 1) for _ in range(2)] == ["new"] * 2

    @promise
    def test_write_in_the_middle_of_a_set(self, bench: Bench) -> None:
        """A write between the two steps of a `set` makes it refused, whichever way it drops the entry."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = bench.cache().invalidates("row:{row}")(bench.function(store.write))
        strict = bench.cache().invalidates("row:{row}", strict=True)(bench.function(store.write))
        updates = bench.cache().updates("row:{row}")(bench.function(store.write_and_return))
        drops: list[Callable[[], object]] = [
            lambda: drop(bench, cache, "row:1"),
            functools.partial(bench.call, read.invalidate, 1),
        ]
        drops += [functools.partial(bench.call, each, 1, "new") for each in (write, strict, updates)]
        for number, meddle in enumerate(drops):
            store.rows[1] = number
            assert bench.call(read.refresh, 1) == number
            assert put_by_steps(bench, read, "known", meddle) is False
            store.rows[1] = "newer"
            assert [bench.call(read, 1) for _ in range(2)] == ["newer"] * 2
            assert put_by_steps(bench, read, "known", lambda: None) is True
            assert bench.call(read, 1) == "known"

    @promise
    def test_set_kills_leases(self, bench: Bench) -> None:
        """A load from before a `set` does not take the place of the known value."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        slow = cache.cached(key="row:{row}")(bench.function(store.read, gate))
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        loading = bench.start(slow, 1)
        gate.wait_for_load()
        assert bench.call(read.set, "known", 1) is True
        gate.open()
        loading.result(PATIENCE)
        assert [bench.call(each, 1) for each in (slow, read)] == ["known"] * 2

    @promise_of("batches")
    def test_set_with_tags(self, bench: Bench) -> None:
        """A known value has its tags: it is there until one of them is invalidated; a guarded tag lets none in."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}", tags=("all", "tag:{row}"))(bench.function(store.read))
        for tag in ("all", "tag:1"):
            assert bench.call(read.set, "known", 1) is True
            assert [bench.call(read, 1), bench.call(read.peek, 1)] == ["known"] * 2
            drop(bench, cache, tags=[tag])
            assert bench.call(read.peek, 1) is MISSING
            assert bench.call(read, 1) == 0
        with bench.block(cache.invalidating("other", tags=("all",), strict=True)):
            assert bench.call(read.set, "known", 1) is False
        assert bench.call(read, 1) == 0

    # Warm.

    @promise
    def test_warm(self, bench: Bench) -> None:
        """Every item is a hit after it: a tuple of arguments, a mapping by name, or the only argument itself."""
        store = Store()
        read = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        assert bench.call(read.warm, [1, (2,), {"row": 3}, 1]) == Warmed(4, 0, None)
        assert store.reads == 3
        assert [bench.call(read, row) for row in (1, 2, 3)] == [0] * 3
        assert store.reads == 3
        assert bench.call(read.warm, ()) == Warmed(0, 0, None)
        assert bench.call(read.warm, iter(range(50))) == Warmed(50, 0, None)
        assert read.cache_info().loads == 50

    @promise
    def test_warm_with_errors(self, bench: Bench) -> None:
        """A call that raises stops no other; it is counted, and the first error told."""
        store = Store()

        def read(row: int) -> int:
            store.read(row)
            if row % 2:
                raise NotFound(row)
            return row

        cached = bench.cache().cached(key="row:{row}")(bench.function(read))
        told: list[Warmed] = []
        warm = functools.partial(cached.warm, concurrency=1, progress=told.append)
        done = bench.call(warm, range(10))
        assert (done.calls, done.failed) == (10, 5)
        assert isinstance(done.error, NotFound)
        assert done.error.args == (1,)
        assert [(each.calls, each.failed) for each in told] == [(place + 1, (place + 1) // 2) for place in range(10)]
        assert told[-1] == done
        assert [bench.call(cached, row) for row in (0, 2, 4)] == [0, 2, 4]
        assert store.reads == 10

    @promise
    def test_warm_makes_several_calls_at_once(self, bench: Bench) -> None:
        """No more calls run at once than it was told, and as many as that do."""
        lock, running, most = threading.Lock(), [0], [0]
        meeting = threading.Barrier(3, timeout=PATIENCE)

        def enter(row: int) -> int:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            return row

        def leave() -> None:
            with lock:
                running[0] -= 1

        def read(row: int) -> int:
            enter(row)
            meeting.wait()
            leave()
            return row

        async def aread(row: int) -> int:
            import asyncio

            enter(row)
            await asyncio.to_thread(meeting.wait)
            leave()
            return row

        cached = bench.cache().cached(key="row:{row}")(read if bench.colour == "sync" else aread)
        assert bench.call(functools.partial(cached.warm, concurrency=3), iter(range(12))).calls == 12
        assert most == [3]

    @promise
    def test_warm_from_an_async_iterable(self, bench: Bench) -> None:
        """An async function is warmed from an async iterable as well, one item after the other."""
        if bench.colour == "async":
            store = Store()
            read = bench.cache().cached(key="row:{row}")(bench.function(store.read))

            async def items(rows: Iterable[int]) -> AsyncIterator[int]:
                import asyncio

                for row in rows:
                    await asyncio.sleep(0)
                    yield row

            assert bench.call(read.warm, items(range(20))) == Warmed(20, 0, None)
            assert [bench.call(read, row) for row in range(20)] == [0] * 20
            assert store.reads == 20

    @promise
    def test_warm_that_is_broken_off(self, bench: Bench) -> None:
        """What the items or the progress raise comes out as it is, and an async generator of items is closed."""
        read = bench.cache().cached(key="row:{row}")(bench.function(Store().read))
        closed: list[bool] = []

        def items() -> Iterator[int]:
            yield 1
            raise NotFound("items")

        async def aitems() -> AsyncIterator[int]:
            try:
                for row in range(5):
                    yield row
            finally:
                closed.append(True)

        def tell(so_far: Warmed) -> None:
            raise NotFound("progress")

        telling = functools.partial(read.warm, progress=tell)
        assert raises(bench, read.warm, items()) == ("items",)
        assert raises(bench, telling, [1, 2, 3]) == ("progress",)
        if bench.colour == "async":
            several = aitems()
            assert raises(bench, functools.partial(telling, concurrency=2), several) == ("progress",)
            assert closed == [True]


def put_by_steps(bench: Bench, read: Any, value: Any, meddle: Callable[[], object]) -> bool:
    """`read.set(value, 1)`, with `meddle` called between its guard and what follows."""
    runtime = read._function.runtime()
    key, tags = read._function.place(runtime, (1,), {})
    steps, answer = put(runtime.reader, key, tags, value), None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return bool(end.value)
        assert isinstance(step, Ask)
        answer = bench.call(getattr(bench.form, step.verb), *step.args)
        if step.verb == "guard":
            meddle()
