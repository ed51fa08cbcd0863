"""Part "refresh": how long callers take to get a value that soon expires, again and again, while it is loaded.

Some threads, or tasks, read one key at a steady pace; its ttl is 0.2 s, a load takes 50 ms. The same function with
`stale_while_revalidate` is beside itself with that ttl alone, where a fifth of all calls comes while there is no value.
Both take turns, and compared are, in each round, the medians and the 99th percentiles of the time of a call.

A call that was due while its caller still waited for the one before counts from when it was due: those who wait
would otherwise be counted less often than those who do not. One that its caller has slept into counts from its begin.
On a Redis of our own client and server share one CPU, see `one_cpu`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from cacheside import Cache
from cacheside.progress import Progress

from .effort import Effort
from .measure import Row, Spread, Time
from .on_redis import PATIENCE, value_of
from .peers import Decorator
from .servers import HOST, one_cpu, redis_server
from .sides import Loads, NotVerified, without_collection

TTL = 0.2  # seconds
LOAD = 0.05  # seconds
WINDOW = 60.0  # seconds past the ttl in which an old value is good enough
PACE = 0.005  # seconds from one call of a caller to its next
CALLERS = 8
SETTLE = 2 * LOAD  # seconds until a refresh that may be under way is over, about
ABOUT = {
    "title": "With stale_while_revalidate / with a plain ttl",
    "text": f"The time of a call, of {CALLERS} callers that each call every {PACE * 1000:g} ms: the median (p50) and "
    f"the 99th percentile (p99). The ttl is {TTL:g} s, a load takes {LOAD * 1000:g} ms.",
}

Read = Callable[[float], list[float]]
"""Has all callers call for so many seconds; the seconds of each call."""


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure all of it, on a server of its own."""
    rows: list[Row] = []
    with asyncio.Runner() as runner:

        def compared(where: str, cache: Cache) -> None:
            for who, make in (("threads", _threads), ("tasks", _tasks)):
                ours = make(runner, cache.cached(f"{who}-stale:{{product_id}}", stale_while_revalidate=WINDOW))
                other = make(runner, cache.cached(f"{who}-plain:{{product_id}}"))
                rows.extend(_compared(f"while it is refreshed, {where}, {CALLERS} {who}", ours, other, effort))
                progress(len(rows) / 8)

        with Cache("memory://", ttl=TTL) as memory:
            compared("memory", memory)
            runner.run(memory.aclose())
        with one_cpu(), redis_server() as server:
            url = f"redis://{HOST}:{server.port}/0"
            with Cache(url, namespace="bench", ttl=TTL, timeout=PATIENCE) as shared:
                compared("Redis", shared)
                runner.run(shared.aclose())
    return {"servers": [server.version], "rows": [asdict(row) for row in rows], "ratios": ABOUT}


def _compared(name: str, ours: Read, other: Read, effort: Effort) -> list[Row]:
    """Both in turns; a row of medians, and one of 99th percentiles."""
    seen: dict[Read, list[list[float]]] = {ours: [], other: []}
    for number in range(effort.crowds):
        for read in (ours, other) if number % 2 else (other, ours):
            with without_collection():
                seen[read].append(statistics.quantiles(read(effort.span), n=100, method="inclusive"))
    rows = []
    for percent in (50, 99):
        mine, theirs = [[cuts[percent - 1] * 1e9 for cuts in seen[read]] for read in (ours, other)]
        ratio = Spread.of([one / two for one, two in zip(mine, theirs, strict=True)])
        stale = Time("stale_while_revalidate", Spread.of(mine), verified=True)
        plain = Time("a plain ttl", Spread.of(theirs), verified=True)
        rows.append(Row(f"{name}, p{percent}", stale, plain, ratio, effort.crowds, None, None))
    return rows


def _threads(runner: asyncio.Runner, decorate: Decorator) -> Read:
    loads = Loads()

    def load(product_id: int) -> dict[str, Any]:
        loads.add()
        time.sleep(LOAD)
        return value_of(product_id)

    f = decorate(load)

    def caller(due: float, end: float) -> list[float]:
        times = []
        while due < end:
            begin = due
            pause = due - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
                begin = time.perf_counter()
            value = f(7)
            times.append(time.perf_counter() - begin)
            _verify(value)
            due += PACE
        return times

    def read(seconds: float) -> list[float]:
        f(7)
        time.sleep(SETTLE)
        before = loads.count
        begins, end = _begins(seconds)
        with ThreadPoolExecutor(CALLERS) as pool:
            all_times = list(pool.map(caller, begins, [end] * CALLERS))
        time.sleep(SETTLE)
        return _verified(all_times, loads.count - before)

    return read


def _tasks(runner: asyncio.Runner, decorate: Decorator) -> Read:
    loads = Loads()

    async def load(product_id: int) -> dict[str, Any]:
        loads.add()
        await asyncio.sleep(LOAD)
        return value_of(product_id)

    f = decorate(load)

    async def caller(due: float, end: float) -> list[float]:
        times = []
        while due < end:
            begin = due
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
                begin = time.perf_counter()
            value = await f(7)
            times.append(time.perf_counter() - begin)
            _verify(value)
            due += PACE
        return times

    async def read(seconds: float) -> list[float]:
        await f(7)
        await asyncio.sleep(SETTLE)
        before = loads.count
        begins, end = _begins(seconds)
        all_times = await asyncio.gather(*[caller(begin, end) for begin in begins])
        await asyncio.sleep(SETTLE)
        return _verified(all_times, loads.count - before)

    return lambda seconds: runner.run(read(seconds))


def _begins(seconds: float) -> tuple[list[float], float]:
    """When each caller's first call is due, evenly within the pace, and the end."""
    begin = time.perf_counter() + PACE
    return [begin + PACE * number / CALLERS for number in range(CALLERS)], begin + seconds


def _verify(value: Any) -> None:
    if value != value_of(7):
        raise NotVerified(f"a caller got {value!r}")


def _verified(all_times: list[list[float]], loads: int) -> list[float]:
    """All times together, if the value was loaded again meanwhile."""
    if not loads:
        raise NotVerified("the value was not loaded again while it was read")
    return [each for times in all_times for each in times]
