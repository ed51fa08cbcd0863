"""The traffic: threads, and tasks of an event loop, that read and write by a Zipf distribution, and check each read."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import accumulate

from ..progress import Progress
from .products import Product, Products
from .stores import ROWS

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


class Tally:
    """What one worker, or all of them, have seen."""

    def __init__(self) -> None:
        self.reads: int = 0
        self.writes: int = 0
        self.stale_reads: int = 0
        self.products: set[int] = set()

    def read(self, product: Product, floor: int) -> None:
        """One read, whose floor was asked for before it began."""
        self.reads += 1
        self.stale_reads += product.version < floor
        self.products.add(product.id)

    def written(self, product_id: int) -> None:
        """One write."""
        self.writes += 1
        self.products.add(product_id)

    def update(self, other: Tally) -> None:
        """What another has seen as well."""
        self.reads += other.reads
        self.writes += other.writes
        self.stale_reads += other.stale_reads
        self.products |= other.products


class Traffic:
    """Threads and tasks that read and write for some seconds.

    Args:
        products: the repository.
        oracle: is told of each write, and gives the floor of each read.
        leave: is awaited at the end of the event loop, to close its connections.
    """

    def __init__(self, products: Products, oracle: Oracle, leave: Callable[[], Awaitable[None]]) -> None:
        self._products = products
        self._oracle = oracle
        self._leave = leave
        self._stop = threading.Event()

    def run(self, seconds: float, progress: Progress) -> Tally:
        """Let all workers loose, and add up what they have seen.

        Raises:
            Exception: what a worker raised; then all have ended.
        """
        begin = time.monotonic()
        with often_switched(), ThreadPoolExecutor(THREADS + 1) as pool:
            try:
                jobs = [pool.submit(self._in_thread) for _ in range(THREADS)]
                jobs.append(pool.submit(lambda: asyncio.run(self._in_loop())))
                while (passed := time.monotonic() - begin) < seconds:
                    progress(passed / seconds)
                    if wait(jobs, 0.05, FIRST_EXCEPTION).done:  # none ends yet, unless by an exception
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
        for product_id, price in draws(self._stop.is_set):
            if price is not None:
                self._oracle.written(product_id, self._products.set_price(product_id, price))
                tally.written(product_id)
            else:
                floor = self._oracle.floor(product_id)
                tally.read(self._products.get(product_id), floor)
        return tally

    async def _in_loop(self) -> Tally:
        tally = Tally()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(TASKS):
                    group.create_task(self._in_task(tally))
        finally:
            await self._leave()
        return tally

    async def _in_task(self, tally: Tally) -> None:
        for product_id, price in draws(self._stop.is_set):
            if price is not None:
                self._oracle.written(product_id, await self._products.aset_price(product_id, price))
                tally.written(product_id)
            else:
                floor = self._oracle.floor(product_id)
                tally.read(await self._products.aget(product_id), floor)
            await asyncio.sleep(0)  # a hit in memory awaits nothing: the other tasks want their turn


def draws(stop: Callable[[], bool]) -> Iterator[tuple[int, int | None]]:
    """What to do next, until it is time to stop: a product, and a new price if it is to be written."""
    chance = random.Random()
    while True:
        for product_id in chance.choices(IDS, cum_weights=SHARES, k=100):
            if stop():
                return
            yield product_id, chance.randrange(100, 10_000) if chance.random() < WRITES else None


@contextlib.contextmanager
def often_switched() -> Iterator[None]:
    """Let threads take turns far more often than Python usually does: there are more races then."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
