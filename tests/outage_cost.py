"""What an outage costs, in seconds: `python tests/outage_cost.py` prints the table.

For each kind of server, of outage and of function: what the first call of the outage takes; the median, the 99th
percentile and the longest of those after it (the longest is a probe: now and then one call asks the server); and how
long after the server's return there is a hit again. The load takes no time: what is measured is added by the cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import statistics
import time
from collections.abc import Callable, Iterator

from servers import MemcachedServer, RedisServer

from cacheside import Cache

CALLS = 5000
SPACING = 0.0005  # seconds between two calls: so the outage lasts for several probes

AnyServer = RedisServer | MemcachedServer
Read = Callable[[int], object]


@contextlib.contextmanager
def functions(url: str, colour: str) -> Iterator[tuple[Read, Cache]]:
    """A cached function as plain code calls it; the async one in an event loop of its own."""
    cache = Cache(url, namespace="outage")
    if colour == "sync":
        with cache:
            yield cache.cached(key="row:{number}")(lambda number: number), cache
    else:

        @cache.cached(key="row:{number}")
        async def aread(number: int) -> int:
            return number

        with asyncio.Runner() as runner:
            yield lambda number: runner.run(aread(number)), cache
            runner.run(cache.aclose())


def timed(read: Read, number: int) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    assert read(number) == number
    return time.perf_counter() - start


def measured(server: AnyServer, outage: str, colour: str) -> tuple[float, float, float, float, float]:
    """First call, median, 99th percentile, the longest; and the time from the server's return to the next hit."""
    with functions(server.url, colour) as (read, cache):
        for number in range(1000):
            read(number % 10)
        server.freeze() if outage == "frozen" else server.kill()
        calls = []
        for number in range(CALLS):
            calls.append(timed(read, number % 10))
            time.sleep(SPACING)
        server.thaw() if outage == "frozen" else server.start()
        back, hits = time.perf_counter(), cache.stats().totals.hits
        while cache.stats().totals.hits == hits:
            read(0)
            time.sleep(SPACING)
        recovery = time.perf_counter() - back
    rest = sorted(calls[1:])
    return calls[0], statistics.median(rest), rest[len(rest) * 99 // 100], rest[-1], recovery


def main() -> None:
    """Measure all, and print the table."""
    logging.getLogger("cacheside").addHandler(logging.NullHandler())  # that the cache is broken is no news here
    print("| server | outage | function | first call, ms | median, ms | 99%, ms | longest, ms | a hit after, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    makers: dict[str, Callable[[], AnyServer]] = {"Redis": RedisServer, "memcached": MemcachedServer}
    for name, outage, colour in itertools.product(makers, ("frozen", "gone"), ("sync", "async")):
        with makers[name]() as server:
            *calls, recovery = measured(server, outage, colour)
        milliseconds = " | ".join(f"{1000 * seconds:.3f}" for seconds in calls)
        print(f"| {name} | {outage} | {colour} | {milliseconds} | {recovery:.2f} |", flush=True)


if __name__ == "__main__":
    main()
