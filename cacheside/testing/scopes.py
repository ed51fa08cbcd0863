"""What `cache.transaction()` promises: everybody else sees a write at the end of its block, the block sees it at once.

The store shows what is uncommitted to all; so whoever may not see it must not read the store.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..cache import Cache
from ..envelope import MISSING
from .bench import LONG, Bench, Promises, promise, promise_of
from .stage import Gate
from .store import Store, raises

Step = Callable[[], Any]


def transaction(bench: Bench, cache: Cache, *steps: Step, undone: bool = False) -> Callable[[], Any]:
    """A function that makes calls inside a transaction, which then may roll back; it returns their results.

    A step that raises `LookupError` breaks it off, and nothing else.
    """

    def call() -> list[Any]:
        found: list[Any] = []
        with suppress(LookupError), cache.transaction() as block:
            for step in steps:
                found.append(step())
            if undone:
                block.rollback()
        return found

    async def acall() -> list[Any]:
        found: list[Any] = []
        with suppress(LookupError):
            async with cache.transaction() as block:
                for step in steps:
                    answer = step()
                    found.append(await answer if inspect.isawaitable(answer) else answer)
                if undone:
                    block.rollback()
        return found

    return call if bench.colour == "sync" else acall


def stop(bench: Bench, gate: Gate) -> Step:
    """A step that waits for the gate to open."""
    step: Step = bench.function(lambda: None, gate)
    return step


class ScopePromises(Promises):
    """The tests of `cache.transaction()`."""

    @promise
    def test_transaction(self, bench: Bench) -> None:
        """A block reads its own writes, and stores nothing; all others hit the old entry until it ends."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        elsewhere = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read)(bench.function(store.write))
        assert [bench.call(each, row) for each in (read, read, elsewhere) for row in (1, 2)] == [0] * 6
        reads = [partial(read, row) for row in (1, 1, 2, 3)]
        block = transaction(bench, cache, partial(read, 1), partial(write, 1, "new"), *reads, stop(bench, gate))
        running = bench.start(block)
        gate.wait_for_load()
        assert [bench.call(each, 1) for each in (read, read, elsewhere)] == [0] * 3
        assert store.reads == 5
        gate.open()
        assert running.result() == [0, {"row": 1}, "new", "new", 0, 0, None]
        assert [bench.call(each, 1) for each in (read, elsewhere)] == ["new"] * 2
        assert [bench.call(read, row) for row in (2, 3)] == [0, 0]
        assert (store.reads, cache.stats().held, cache.stats().pending) == (6, 1, 0)

    @promise
    def test_transaction_rolled_back(self, bench: Bench) -> None:
        """A block that rolls back invalidates nothing, and what it read of its own writes is nowhere."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read)(bench.function(store.write))
        assert bench.call(read, 1) == 0
        steps = (partial(write, 1, "new"), partial(write, 2, "new"), partial(read, 1), partial(read, 2))
        block = transaction(bench, cache, *steps, store.rows.clear, undone=True)
        assert bench.call(block)[2:] == ["new", "new", None]
        assert [bench.call(read, row) for row in (1, 2, 2)] == [0] * 3
        assert (store.reads, cache.stats().rolled_back, cache.stats().invalidations) == (4, 2, 0)

    @promise
    def test_transaction_that_raises(self, bench: Bench) -> None:
        """A block that raises has written something, as far as is known: it invalidates."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read)(bench.function(store.write_and_fail))
        assert bench.call(read, 1) == 0
        assert raises(bench, transaction(bench, cache, partial(write, 1, "new"))) == (1,)
        assert bench.call(read, 1) == "new"

    @promise
    def test_nested_transactions(self, bench: Bench) -> None:
        """A block inside another one joins it; if it rolls back, it drops its own invalidations only."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read)(bench.function(store.write))
        assert [bench.call(read, row) for row in (1, 2, 3)] == [0] * 3
        kept = transaction(bench, cache, partial(write, 2, "new"))
        undone = transaction(bench, cache, partial(write, 3, "new"), partial(store.rows.pop, 3), undone=True)
        reads = [partial(read, row) for row in (1, 2, 3)]
        block = transaction(bench, cache, partial(write, 1, "new"), kept, undone, *reads, stop(bench, gate))
        running = bench.start(block)
        gate.wait_for_load()
        assert [bench.call(read, row) for row in (1, 2, 3)] == [0] * 3
        gate.open()
        assert running.result()[3:] == ["new", "new", 0, None]
        reads_before = store.reads
        assert [bench.call(read, row) for row in (1, 2, 3)] == ["new", "new", 0]
        assert store.reads == reads_before + 2

    @promise
    def test_load_during_a_transaction(self, bench: Bench) -> None:
        """A load from before the end of a block, wherever it began, is never stored after it."""
        for inside in (False, True):
            cache, store, gate, reading = bench.cache(), Store(), bench.gate(), bench.gate()
            slow = cache.cached(key=f"{inside}:{{row}}")(bench.function(store.read, reading))
            write = cache.invalidates(slow)(bench.function(store.write))
            block = transaction(bench, cache, partial(write, 1, "new"), stop(bench, gate))
            loads = []
            if not inside:
                loads.append(bench.start(slow, 1))
                reading.wait_for_load()
            running = bench.start(block)
            gate.wait_for_load()
            if inside:
                store.rows[1] = 0  # all that the others may see
                loads.append(bench.start(slow, 1))
                reading.wait_for_load()
                store.rows[1] = "new"
            gate.open()
            running.result()
            reading.open()
            assert [load.result() for load in loads] == [0]
            assert [bench.call(slow, 1) for _ in range(2)] == ["new"] * 2

    @promise
    def test_transaction_over_two_caches(self, bench: Bench) -> None:
        """A block holds the invalidations of all caches, and delivers them to each."""
        cache, other, store, gate = bench.cache(), bench.cache(), Store(), bench.gate()
        reads = [
            each.cached(key=f"{name}:{{row}}")(bench.function(store.read))
            for name, each in zip("ab", (cache, other), strict=True)
        ]
        write = cache.invalidates(*reads)(bench.function(store.write))
        assert [bench.call(read, 1) for read in reads] == [0, 0]
        inside = [partial(read, 1) for read in reads]
        running = bench.start(transaction(bench, cache, partial(write, 1, "new"), *inside, stop(bench, gate)))
        gate.wait_for_load()
        assert [bench.call(read, 1) for read in reads] == [0, 0]
        gate.open()
        assert running.result()[1:3] == ["new", "new"]
        assert [bench.call(read, 1) for read in reads] == ["new", "new"]
        assert (cache.stats().held, other.stats().held) == (1, 1)

    @promise
    def test_verbs_in_a_transaction(self, bench: Bench) -> None:
        """In a block `.invalidate` is held, `.refresh` reads what was written, and `.set` and `.warm` store nothing."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        assert [bench.call(read, row) for row in (1, 2)] == [0, 0]
        verbs = [partial(read.refresh, 1), partial(read.set, "known", 1), partial(read.warm, [1])]
        block = transaction(
            bench, cache, partial(store.rows.update, {1: "new", 2: "new"}), partial(read.invalidate, 1), *verbs,
            partial(read, 1), stop(bench, gate), partial(store.rows.clear),
        )  # fmt: skip
        running = bench.start(block)
        gate.wait_for_load()
        assert [bench.call(read, row) for row in (1, 2)] == [0, 0]
        gate.open()
        found = running.result()
        assert (found[2], found[3], found[5]) == ("new", False, "new")
        reads = store.reads
        assert [bench.call(read, row) for row in (1, 2)] == [0, 0]
        assert store.reads == reads + 1

    @promise_of("batches")
    def test_peek_in_a_transaction(self, bench: Bench) -> None:
        """In a block `.peek` finds nothing of a key that it has changed; elsewhere it does until the end."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read)(bench.function(store.write))
        assert bench.call(read, 1) == 0
        steps = (partial(read.peek, 1), partial(write, 1, "new"), partial(read.peek, 1), stop(bench, gate))
        running = bench.start(transaction(bench, cache, *steps))
        gate.wait_for_load()
        assert bench.call(read.peek, 1) == 0
        gate.open()
        assert running.result() == [0, {"row": 1}, MISSING, None]
        assert bench.call(read.peek, 1) is MISSING

    @promise_of("batches")
    def test_batch_in_a_transaction(self, bench: Bench) -> None:
        """Of a batch in a block the rows that it has changed are read from the store, and the others hit."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        asked: list[list[int]] = []

        def load(rows: list[int]) -> dict[int, Any]:
            asked.append(rows)
            return {row: store.read(row) for row in rows}

        many = cache.cached_many(key="row:{row}")(bench.function(load))
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates("row:{row}")(bench.function(store.write))
        assert bench.call(many, [1, 2]) == {1: 0, 2: 0}
        steps = (partial(write, 1, "new"), partial(many, [1, 2, 3]), partial(many, [1, 2, 3]), stop(bench, gate))
        running = bench.start(transaction(bench, cache, *steps))
        gate.wait_for_load()
        assert [bench.call(read, row) for row in (1, 2, 3)] == [0] * 3
        gate.open()
        assert running.result()[1:3] == [{1: "new", 2: 0, 3: 0}] * 2
        assert asked == [[1, 2], [1, 3], [1]]
        assert bench.call(many, [1, 2, 3]) == {1: "new", 2: 0, 3: 0}
        assert asked[3:] == [[1]]

    @promise_of("batches")
    def test_tags_in_a_transaction(self, bench: Bench) -> None:
        """A tag that a block turns is turned at its end; inside, what has the tag is read from the store at once."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}", tags=("all", "tag:{row}"))(bench.function(store.read))
        write = cache.invalidates(tags=("tag:{row}",))(bench.function(store.write))
        for undone in (True, False):
            store.rows.clear()
            assert [bench.call(read, row) for row in (1, 2)] == [0, 0]
            steps = (partial(write, 1, "new"), partial(read, 1), partial(read, 2), stop(bench, gate))
            running = bench.start(transaction(bench, cache, *steps, undone=undone))
            gate.wait_for_load()
            reads = store.reads
            assert [bench.call(read, row) for row in (1, 2)] == [0, 0]
            assert store.reads == reads
            gate.open()
            assert running.result()[1:3] == ["new", 0]
            gate = bench.gate()
            assert [bench.call(read, row) for row in (1, 2)] == [0 if undone else "new", 0]

    @promise_of("claims")
    def test_windows_in_a_transaction(self, bench: Bench) -> None:
        """Inside a block a function with windows returns no old value of a key it has changed; `stale=` waits too."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        options: dict[str, Any] = {"stale_while_revalidate": LONG, "stale_if_error": LONG, "load_timeout": LONG}
        read = cache.cached(key="row:{row}", **options)(bench.function(store.read))
        strict = cache.cached(key="row:{row}")(bench.function(store.read))
        fail = cache.cached(key="row:{row}", **options)(bench.function(store.fail))
        write = cache.invalidates(read, stale=LONG)(bench.function(store.write))
        for each in (read, strict):
            assert bench.call(each, 1) == 0
        running = bench.start(transaction(bench, cache, partial(write, 1, "new"), partial(read, 1), stop(bench, gate)))
        gate.wait_for_load()
        assert [bench.call(each, 1) for each in (read, strict)] == [0, 0]
        gate.open()
        assert running.result()[1] == "new"
        assert bench.call(read, 1) == 0  # marked, for those who ask for that
        assert bench.call(strict, 1) == "new"
        assert raises(bench, transaction(bench, cache, partial(write, 1, "newer"), partial(fail, 1))) == (1,)

    # Strict writes.

    @promise
    def test_strict_write_in_a_transaction(self, bench: Bench) -> None:
        """The guard stands from the write to the end of the block: others load, and store nothing."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        elsewhere = bench.cache().cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read, strict=True)(bench.function(store.write))
        assert bench.call(read, 1) == 0
        writes = [partial(write, 1, value) for value in ("new", "newer")]
        running = bench.start(transaction(bench, cache, *writes, partial(read, 1), stop(bench, gate)))
        gate.wait_for_load()
        reads = store.reads
        assert [bench.call(each, 1) for each in (read, elsewhere)] == ["newer"] * 2
        store.rows[1] = "newest"
        assert [bench.call(each, 1) for each in (read, elsewhere)] == ["newest"] * 2
        assert store.reads == reads + 4
        gate.open()
        assert running.result()[2] == "newer"
        assert [bench.call(each, 1) for each in (read, elsewhere)] == ["newest"] * 2
        assert (store.reads, cache.stats().guards_lost) == (reads + 5, 0)

    @promise
    def test_strict_write_rolled_back(self, bench: Bench) -> None:
        """A rollback takes the guards back at the end of its block, and leaves the others and all values alone."""
        cache, store, gate = bench.cache(), Store(), bench.gate()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.invalidates(read, strict=True)(bench.function(store.write))
        plain = cache.invalidates(read)(bench.function(store.write))
        assert [bench.call(read, row) for row in (1, 2, 3)] == [0] * 3
        undone = transaction(bench, cache, partial(write, 1, "new"), partial(plain, 2, "new"), undone=True)
        steps = (partial(write, 1, "newer"), undone, partial(write, 3, "new"), stop(bench, gate), store.rows.clear)
        running = bench.start(transaction(bench, cache, *steps))
        gate.wait_for_load()
        reads = store.reads
        assert [bench.call(read, 1) for _ in range(2)] == ["new"] * 2
        assert [bench.call(read, 3) for _ in range(2)] == ["new"] * 2
        assert store.reads == reads + 4
        gate.open()
        running.result()
        assert [bench.call(read, row) for row in (1, 1, 2, 3, 3)] == [0] * 5
        assert (store.reads, cache.stats().guards_lost) == (reads + 6, 0)

    # Updates.

    @promise
    def test_update_in_a_transaction(self, bench: Bench) -> None:
        """The value of `@updates` goes in at the end of the block; not if the block has changed its key once more."""
        for other in (False, True):
            cache, store, gate = bench.cache(), Store(), bench.gate()
            read = cache.cached(key=f"{other}:{{row}}")(bench.function(store.read))
            write = cache.updates(read)(bench.function(store.write_and_return))
            drop = cache.invalidates(read)(bench.function(store.write))
            assert bench.call(read, 1) == 0
            steps: list[Step] = [partial(write, 1, "new"), partial(read, 1)]
            if other:
                steps.append(partial(drop, 1, "newer"))
            running = bench.start(transaction(bench, cache, *steps, stop(bench, gate)))
            gate.wait_for_load()
            reads = store.reads
            bench.call(read, 1)
            assert store.reads == reads + 1
            gate.open()
            assert running.result()[:2] == ["new", "new"]
            assert [bench.call(read, 1) for _ in range(2)] == ["newer" if other else "new"] * 2
            assert (store.reads, cache.stats().updates) == (reads + 1 + other, 1 - other)

    @promise
    def test_update_rolled_back(self, bench: Bench) -> None:
        """Nothing is left of an update that was rolled back, by its block or by one inside it."""
        for nested in (False, True):
            cache, store = bench.cache(), Store()
            read = cache.cached(key=f"{nested}:{{row}}")(bench.function(store.read))
            write = cache.updates(read)(bench.function(store.write_and_return))
            block = transaction(bench, cache, partial(write, 1, "new"), store.rows.clear, undone=True)
            bench.call(transaction(bench, cache, block, partial(write, 2, "new")) if nested else block)
            assert [bench.call(read, 1) for _ in range(2)] == [0, 0]
            assert store.reads == 1
            assert (cache.stats().updates, cache.stats().guards_lost) == (int(nested), 0)

    @promise
    def test_update_in_a_transaction_that_raises(self, bench: Bench) -> None:
        """A block that raises may have been rolled back: no value of an update goes in, nor in one inside it."""
        for nested in (False, True):
            cache, store = bench.cache(), Store()
            read = cache.cached(key=f"{nested}:{{row}}")(bench.function(store.read))
            write = cache.updates(read)(bench.function(store.write_and_return))
            block = transaction(bench, cache, partial(write, 1, "never"), store.rows.clear, partial(store.rows.pop, 9))
            bench.call(transaction(bench, cache, block, partial(write, 2, "new")) if nested else block)
            assert [bench.call(read, row) for row in (1, 1, 2)] == [0, 0, "new" if nested else 0]
            assert (cache.stats().updates, cache.stats().guards_lost) == (int(nested), 0)

    @promise
    def test_update_beside_a_rollback(self, bench: Bench) -> None:
        """An update in a block that is still open when the one around it says `rollback()` puts no value in."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.updates(read)(bench.function(store.write_and_return))
        outer = cache.transaction()
        steps = (partial(write, 1, "never"), outer.rollback, store.rows.clear, partial(write, 2, "new"))
        block = transaction(bench, cache, *steps)

        def call() -> None:
            with outer:
                block()

        async def acall() -> None:
            async with outer:
                await block()

        bench.call(call if bench.colour == "sync" else acall)
        assert [bench.call(read, row) for row in (1, 1, 2)] == [0, 0, "new"]
        assert (cache.stats().updates, cache.stats().guards_lost) == (1, 0)

    @promise
    def test_update_in_a_transaction_beside_other_writes(self, bench: Bench) -> None:
        """Whoever else has written the key while the block was open: the value of its update is dropped."""
        cache, store = bench.cache(), Store()
        read = cache.cached(key="row:{row}")(bench.function(store.read))
        write = cache.updates(read)(bench.function(store.write_and_return))
        others = [
            bench.cache().invalidates("row:{row}", strict=strict)(bench.function(store.write))
            for strict in (False, True)
        ]
        for row, other in enumerate(others):
            gate = bench.gate()
            running = bench.start(transaction(bench, cache, partial(write, row, "older"), stop(bench, gate)))
            gate.wait_for_load()
            bench.call(other, row, "newer")
            gate.open()
            running.result()
            assert [bench.call(read, row) for _ in range(2)] == ["newer"] * 2
        assert (store.reads, cache.stats().updates) == (2, 0)
