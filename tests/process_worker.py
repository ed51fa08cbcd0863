"""A process of `test_processes.py`: does one job on a cache that other processes share, and tells how it went.

It is told what to do in JSON, as its only argument. It says "ready", waits for a line, works, and answers in JSON.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from by_hand import GetSetDelete

from cacheside import Cache

PATIENCE = 30.0  # seconds: longer than any server takes here, however busy the machine


def open_cache(options: dict[str, Any]) -> Cache:
    """The cache that all processes of a test share."""
    return Cache(options["url"], namespace=options["namespace"], lease=options["lease"], timeout=10)


class Crowd:
    """Threads, tasks or both that call one cold key at the same time; the store's reads are lines of one file."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.threads: int = options["threads"]
        self.tasks: int = options["tasks"]
        self.log = Path(options["log"])
        self.arrivals = Path(options["arrivals"])
        self.processes: int = options["processes"]
        self.seconds: float = options["seconds"]
        self.cache = open_cache(options)
        self.get = self.cache.cached(key="item:{item}")(self.load)

        @self.cache.cached(key="item:{item}")
        async def aget(item: int) -> str:
            return await asyncio.to_thread(self.load, item)

        self.aget = aget

    def load(self, item: int) -> str:
        """Leave a line, wait until all callers of all processes have looked up, and take a while."""
        with self.log.open("a") as file:  # O_APPEND: a short line is written as a whole
            file.write(f"{os.getpid()}\n")
        end = time.monotonic() + PATIENCE
        while len(list(self.arrivals.iterdir())) < self.processes and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(self.seconds)
        return f"item {item}"

    def tell_when_complete(self) -> None:
        """Say that all callers of this process have looked up."""
        end = time.monotonic() + PATIENCE
        while sum(self.cache.stats().totals[:2]) < self.threads + self.tasks and time.monotonic() < end:
            time.sleep(0.01)  # hits and misses: each call is one of them
        (self.arrivals / str(os.getpid())).touch()

    def run(self) -> dict[str, Any]:
        """Call from all of them; returns what they got."""

        async def tasks() -> list[str]:
            async with self.cache:
                return await asyncio.gather(*(self.aget(1) for _ in range(self.tasks)))

        with ThreadPoolExecutor(self.threads + 2) as threads:
            threads.submit(self.tell_when_complete)
            loop = threads.submit(asyncio.run, tasks())
            plain_calls = [threads.submit(self.get, 1) for _ in range(self.threads)]
            values = [*loop.result(), *(each.result() for each in plain_calls)]
        self.cache.close()
        return {"values": values, **self.cache.stats().totals._asdict()}


class Floor:
    """For each key the newest version whose write is over, in memory that all processes map.

    Each process has slots of its own, which only grow. An aligned slot of eight bytes is never seen half written.
    """

    def __init__(self, path: str, process: int, keys: int) -> None:
        with open(path, "r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._mine = process * keys
        self._keys = keys
        self._lock = threading.Lock()

    def newest(self, key: int) -> int:
        """The newest version that a read which starts now has to see."""
        return max(self._slots[key :: self._keys])

    def completed(self, key: int, version: int) -> None:
        """The write of `version` is over."""
        with self._lock:
            self._slots[self._mine + key] = max(version, self._slots[self._mine + key])


class Rows:
    """The store: versions in PostgreSQL. Reads and writes take a random while before they return."""

    def __init__(self, url: str, table: str) -> None:
        from shop import postgres_store

        self._store = postgres_store(url)
        self._table = table
        self.close = self._store.close

    def load(self, key: int) -> int:
        """Read the version, then dawdle: what a write does meanwhile is not seen."""
        ((version,),) = self._store.query(f"SELECT version FROM {self._table} WHERE id = ?", key)
        time.sleep(random.uniform(0, 0.004))
        return int(version)

    def write(self, key: int) -> int:
        """Make a new version, and return it."""
        ((version,),) = self._store.query(
            f"UPDATE {self._table} SET version = version + 1 WHERE id = ? RETURNING version", key
        )
        time.sleep(random.uniform(0, 0.002))
        return int(version)


class Shared:
    """Reads and writes through cacheside."""

    def __init__(self, options: dict[str, Any], rows: Rows) -> None:
        self.cache = cache = open_cache(options)
        self.read: Callable[[int], int] = cache.cached(key="row:{key}")(rows.load)
        self.write: Callable[[int], int] = cache.invalidates("row:{key}")(rows.write)

        @cache.cached(key="row:{key}")
        async def aread(key: int) -> int:
            return await asyncio.to_thread(rows.load, key)

        @cache.invalidates("row:{key}")
        async def awrite(key: int) -> int:
            return await asyncio.to_thread(rows.write, key)

        self.aread: Callable[[int], Awaitable[int]] = aread
        self.awrite: Callable[[int], Awaitable[int]] = awrite

    def report(self) -> dict[str, int]:
        """What the cache has seen."""
        return self.cache.stats().totals._asdict()


class ByHand(GetSetDelete):
    """The control: get, set and delete, as most people write it."""

    cache = Cache("null://")  # there is nothing to close

    async def aread(self, key: int) -> int:
        """`read`, in a thread."""
        return await asyncio.to_thread(self.read, key)

    async def awrite(self, key: int) -> int:
        """`write`, in a thread."""
        return await asyncio.to_thread(self.write, key)

    def report(self) -> dict[str, int]:
        """It counts nothing."""
        return {}


class Race:
    """Threads and tasks that read and write a few hot keys; every read is compared with the floor."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.rows = Rows(options["store"], options["table"])
        self.way: Shared | ByHand = (ByHand if options["by_hand"] else Shared)(options, self.rows)
        self.floor = Floor(options["floor"], options["process"], options["keys"])

    def plan(self) -> list[tuple[int, bool]]:
        """The operations of one caller: the key, and whether it is written."""
        keys, writes = self.options["keys"], self.options["writes"]
        return [(random.randrange(keys), random.random() < writes) for _ in range(self.options["operations"])]

    def plain(self) -> int:
        """One thread; returns its stale reads."""
        stale = 0
        for key, writes in self.plan():
            if writes:
                self.floor.completed(key, self.way.write(key))
            else:
                newest = self.floor.newest(key)
                stale += self.way.read(key) < newest
        return stale

    async def task(self) -> int:
        """One task; returns its stale reads."""
        stale = 0
        for key, writes in self.plan():
            if writes:
                self.floor.completed(key, await self.way.awrite(key))
            else:
                newest = self.floor.newest(key)
                stale += await self.way.aread(key) < newest
        return stale

    async def tasks(self) -> int:
        """All tasks."""
        async with self.way.cache:
            return sum(await asyncio.gather(*(self.task() for _ in range(self.options["callers"]))))

    def run(self) -> dict[str, Any]:
        """As many threads as tasks, all at the same time."""
        with ThreadPoolExecutor(self.options["callers"] + 1) as threads:
            loop = threads.submit(asyncio.run, self.tasks())
            stale = sum(each.result() for each in [threads.submit(self.plain) for _ in range(self.options["callers"])])
            stale += loop.result()
        self.way.cache.close()
        self.rows.close()
        return {"stale": stale, **self.way.report()}


def main() -> None:
    """Get ready, wait for the signal, work, answer."""
    options = json.loads(sys.argv[1])
    job = (Crowd if options["job"] == "crowd" else Race)(options)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(job.run()), flush=True)


if __name__ == "__main__":
    main()
