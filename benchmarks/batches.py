"""Part "batch": 1,000 rows by one call of `cached_many`, beside 1,000 calls of the same function under `cached`.

All are hits, or all are misses, of ids that nobody has seen; the loads return what is there, and are not subtracted on
either side. Sync calls are made one after another; async ones are 1,000 tasks at once. Every side ends with a dict of
the rows by id. In memory, and on a Redis of our own, where client and server share one CPU, see `one_cpu`. In memory a
miss puts out another entry, on both sides.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

from cacheside import Cache
from cacheside.progress import Progress

from .effort import Effort
from .measure import Row, compare
from .on_redis import PATIENCE, value_of
from .peers import TTL
from .servers import HOST, one_cpu, redis_server
from .sides import Loads, NotVerified, Side, awaited, plain

SIZE = 1000
ENTRIES = 4 * SIZE  # in memory: room for the hits of both sides, and soon full of misses
ABOUT = {
    "title": f"A batch of {SIZE:,} rows / {SIZE:,} calls",
    "text": "`cached_many` beside `cached`; times are of one row. Sync calls are made one after another, async ones "
    "are tasks, all at once.",
}


class Batches:
    """Hands out the ids of batches: always the same, or new ones each time.

    Attributes:
        seen: how many ids have been handed out, each counted once.
    """

    def __init__(self, fresh: bool) -> None:
        self._starts = itertools.count(0, SIZE) if fresh else itertools.repeat(0)
        self.seen = 0

    def __iter__(self) -> Iterator[range]:
        return self

    def __next__(self) -> range:
        start = next(self._starts)
        self.seen = start + SIZE
        return range(start, self.seen)


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure all of it, on a server of its own; with fewer rounds, for each is long."""
    less = replace(effort, rounds=max(3, effort.rounds // 4))
    rows: list[Row] = []
    with one_cpu(), redis_server() as server, asyncio.Runner() as runner:
        url = f"redis://{HOST}:{server.port}/0"
        with Cache(url, namespace="bench", ttl=TTL, timeout=PATIENCE) as shared:
            for where, fresh, is_async in itertools.product(("memory", "Redis"), (False, True), (False, True)):
                with Cache(f"memory://?max_entries={ENTRIES}", ttl=TTL) as memory:
                    rows.append(_row(runner, where, memory if where == "memory" else shared, fresh, is_async, less))
                progress(len(rows) / 8)
            runner.run(shared.aclose())
    return {"servers": [server.version], "rows": [asdict(row) for row in rows], "ratios": ABOUT}


def _row(runner: asyncio.Runner, where: str, cache: Cache, fresh: bool, is_async: bool, effort: Effort) -> Row:
    what = "misses" if fresh else "hits"
    name = f"{SIZE:,} {what} by a batch, {where}, {'async' if is_async else 'sync'}"
    if is_async:
        ours = _tasks_side(runner, "cached_many", _many_async(cache, what), fresh)
        other = _tasks_side(runner, f"gather of {SIZE:,} calls of cached", _gathered(cache, what), fresh)
    else:
        ours = _side("cached_many", _many(cache, what), fresh)
        other = _side(f"{SIZE:,} calls of cached", _one_by_one(cache, what), fresh)
    return compare(name, ours, other, effort)


Call = Callable[..., Any]
Made = tuple[Call, Loads]
"""What gives the rows of a batch, and the number of rows that were loaded for it."""


def _many(cache: Cache, what: str) -> Made:
    loads = Loads()

    @cache.cached_many(f"many-{what}:{{product_id}}")
    def load(product_ids: list[int]) -> dict[int, Any]:
        loads.count += len(product_ids)
        return {each: value_of(each) for each in product_ids}

    return load, loads


def _one_by_one(cache: Cache, what: str) -> Made:
    loads = Loads()

    @cache.cached(f"ones-{what}:{{product_id}}")
    def load(product_id: int) -> dict[str, Any]:
        loads.add()
        return value_of(product_id)

    return lambda ids: {each: load(each) for each in ids}, loads


def _many_async(cache: Cache, what: str) -> Made:
    loads = Loads()

    @cache.cached_many(f"many-tasks-{what}:{{product_id}}")
    async def load(product_ids: list[int]) -> dict[int, Any]:
        loads.count += len(product_ids)
        return {each: value_of(each) for each in product_ids}

    return load, loads


def _gathered(cache: Cache, what: str) -> Made:
    loads = Loads()

    @cache.cached(f"ones-tasks-{what}:{{product_id}}")
    async def load(product_id: int) -> dict[str, Any]:
        loads.add()
        return value_of(product_id)

    async def call(ids: range) -> dict[int, Any]:
        return dict(zip(ids, await asyncio.gather(*[load(each) for each in ids]), strict=True))

    return call, loads


def _side(name: str, made: Made, fresh: bool) -> Side:
    (call, loads), batches = made, Batches(fresh)
    check = _check(name, call, batches, loads)
    return plain(name, "call(next(batches))", check, SIZE, call=call, batches=batches)


def _tasks_side(runner: asyncio.Runner, name: str, made: Made, fresh: bool) -> Side:
    (call, loads), batches = made, Batches(fresh)
    check = _check(name, lambda ids: runner.run(call(ids)), batches, loads)
    return awaited(runner, name, "await call(next(batches))", check, SIZE, call=call, batches=batches)


def _check(name: str, call: Call, batches: Batches, loads: Loads) -> Callable[[], None]:
    """A check that a batch has the right rows, and that up to now each id was loaded once, whenever it was asked for.

    So all but the first batch are hits if the ids are always the same, and all are misses if they are new.
    """

    def check() -> None:
        for _ in range(2):
            ids = next(batches)
            if call(ids) != {each: value_of(each) for each in ids}:
                raise NotVerified(f"{name} gave other rows than there are")
            if loads.count != batches.seen:
                raise NotVerified(f"{name} loaded {loads.count} rows for {batches.seen} ids")

    return check
