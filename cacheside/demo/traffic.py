"""The traffic: threads, and tasks of one event loop, that read and write by a Zipf distribution, and check each read."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import accumulate

from .products import Product, Products
from .stores import ROWS, Progress

THREADS = 4
TASKS = 4
WRITES = 0.02  # of all operations
EXPONENT = 1.1  # of the Zipf distribution: the product of rank k is asked for 1 / k**1.1 times as often as the first
IDS = range(1, ROWS + 1)
SHARES = list(accumulate(1 / rank**EXPONENT for rank in IDS))


class Oracle:
    """Knows, for each product, the newest version whose write has returned. No read may show an older one.

    A read asks for the `floor` before it begins. A write that returns while the read is under way does not count, since
    the read may have come first.
    """

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        self._lock = threading.Lock()

    def floor(self, product_id: int) -> int:
        """The version that a read beginning now must show at least."""
        return self._newest.get(product_id, 1)

    def written(self, product_id: int, version: int) -> None:
        """A write has returned."""
        with self._lock:
            self._newest[product_id] = max(version, self.floor(product_id))


class Latencies:
    """Durations of calls: counted in steps of 1 %, so that memory is bounded and no call is left out."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, nanoseconds: int) -> None:
        """One call."""
        self._counts[int(math.log(nanoseconds + 1) * 100)] += 1

    def update(self, other: Latencies) -> None:
        """Those of another as well."""
        self._counts.update(other._counts)

    def percentile(self, percent: float) -> float:
        """So much of all calls took this many microseconds or less; 0 if there were none."""
        left = self._counts.total() * percent / 100
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return math.exp((step + 0.5) / 100) / 1000
        return 0.0


class Tally:
    """What one worker, or all of them, have seen."""

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.stale_reads = 0
        self.products: set[int] = set()
        self.latencies = Latencies()

    def read(self, product: Product, floor: int, nanoseconds: int) -> None:
        """One read, its floor noted before it."""
        self.reads += 1
        self.stale_reads += product.version < floor
        self.products.add(product.id)
        self.latencies.add(nanoseconds)

    def update(self, other: Tally) -> None:
        """What another has seen as well."""
        self.reads += other.reads
        self.writes += other.writes
        self.stale_reads += other.stale_reads
        self.products |= other.products
        self.latencies.update(other.latencies)


class Traffic:
    """Reads and writes for some seconds.

    Args:
        products: the repository that is written to.
        oracle: is told of each write, and judges each read.
        get: how threads read.
        aget: how tasks read.
    """

    def __init__(
        self,
        products: Products,
        oracle: Oracle,
        get: Callable[[int], Product],
        aget: Callable[[int], Awaitable[Product]],
    ) -> None:
        self._products = products
        self._oracle = oracle
        self._get = get
        self._aget = aget
        self._stop = threading.Event()

    def run(self, seconds: float, leave: Callable[[], Awaitable[None]], progress: Progress) -> Tally:
        """Let all workers loose, and add up what they have seen.

        Args:
            seconds: for how long.
            leave: is awaited at the end of the event loop, to close its connections.
            progress: is told how much of the time has passed.
        """
        begin = time.monotonic()
        with ThreadPoolExecutor(THREADS + 1) as pool:
            try:
                jobs = [pool.submit(self._in_thread) for _ in range(THREADS)]
                jobs.append(pool.submit(lambda: asyncio.run(self._in_loop(leave))))
                while (passed := time.monotonic() - begin) < seconds:
                    progress(passed / seconds)
                    if wait(jobs, 0.05, FIRST_EXCEPTION).done:  # nobody ends by himself but by an exception
                        break
            finally:
                self._stop.set()
        total = Tally()
        for job in jobs:
            total.update(job.result())
        progress(1.0)
        return total

    def _in_thread(self) -> Tally:
        tally = Tally()
        for product_id, price in self._draws():
            if price is not None:
                self._oracle.written(product_id, self._products.set_price(product_id, price))
                tally.writes += 1
            else:
                floor = self._oracle.floor(product_id)
                begin = time.perf_counter_ns()
                product = self._get(product_id)
                tally.read(product, floor, time.perf_counter_ns() - begin)
        return tally

    async def _in_loop(self, leave: Callable[[], Awaitable[None]]) -> Tally:
        tally = Tally()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(self._in_task(tally))
        finally:
            await leave()
        return tally

    async def _in_task(self, tally: Tally) -> None:
        for product_id, price in self._draws():
            if price is not None:
                self._oracle.written(product_id, await self._products.aset_price(product_id, price))
                tally.writes += 1
            else:
                floor = self._oracle.floor(product_id)
                begin = time.perf_counter_ns()
                product = await self._aget(product_id)
                tally.read(product, floor, time.perf_counter_ns() - begin)
            await asyncio.sleep(0)  # a hit in memory awaits nothing: the others want their turn

    def _draws(self) -> Iterator[tuple[int, int | None]]:
        """What to do next until it is time to stop: a product, and its new price where it is to be written."""
        chance = random.Random()
        while True:
            for product_id in chance.choices(IDS, cum_weights=SHARES, k=100):
                if self._stop.is_set():
                    return
                yield product_id, chance.randrange(100, 10_000) if chance.random() < WRITES else None
