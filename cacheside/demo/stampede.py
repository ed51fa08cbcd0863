"""A stampede: a thousand callers at once on one cold key, whose load is slow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .products import Products

CALLERS = 1000


@dataclass(frozen=True)
class Stampede:
    """How it went: `loads` were counted in the loader itself."""

    callers: int
    loads: int


def of_threads(products: Products) -> Stampede:
    """A thousand threads wait at a gate for it to open."""
    gate = threading.Event()

    def caller() -> None:
        gate.wait()
        products.summary("threads")

    with small_stacks(), ThreadPoolExecutor(CALLERS) as pool:
        try:
            jobs = [pool.submit(caller) for _ in range(CALLERS)]
        finally:
            gate.set()
    for job in jobs:
        job.result()
    return Stampede(CALLERS, products.summary_loads.count("threads"))


def of_tasks(products: Products, leave: Callable[[], Awaitable[None]]) -> Stampede:
    """A thousand tasks of one event loop; `leave` is awaited at its end, to close its connections."""

    async def crowd() -> None:
        try:
            await asyncio.gather(*(products.asummary("tasks") for _ in range(CALLERS)))
        finally:
            await leave()

    asyncio.run(crowd())
    return Stampede(CALLERS, products.summary_loads.count("tasks"))


@contextlib.contextmanager
def small_stacks() -> Iterator[None]:
    """Threads started in the block get by with 512 KiB each."""
    before = threading.stack_size(512 * 1024)
    try:
        yield
    finally:
        threading.stack_size(before)
