"""One process of the check: threads and tasks that read and write through one cache, and compare each read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from multiprocessing.connection import Connection
from typing import NamedTuple

from ..errors import CacheUnavailable
from .figures import Tally
from .store import Store
from .ways import Way

THREADS = 4
TASKS = 4
CALLERS = THREADS + TASKS


class Settings(NamedTuple):
    """What all processes have in common."""

    url: str
    namespace: str
    rows: int
    writes: float
    strict: bool


class Ready(NamedTuple):
    """The first answer of a process for each race: it waits for a word to begin."""


class Go(NamedTuple):
    """That word: how many operations each caller of the process is to do, or None: until it is told to stop."""

    operations: list[int] | None


class Failure(NamedTuple):
    """An answer instead of the usual one: what ended the process, or its race."""

    reason: str


def main(pipe: Connection, first: int, settings: Settings, store: Store, kinds: Sequence[type[Way]]) -> None:
    """Race each kind of cache in turn. The other end of `pipe` belongs to the parent; its end is the end of all.

    Args:
        first: the number of the first of this process's callers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal: the parent decides
    sys.setswitchinterval(0.0005)  # threads take turns more often than usual: there are more races then
    with contextlib.suppress(EOFError, OSError):  # the parent is gone; errors of the cache do not come this far
        for kind in kinds:
            answer: Tally | Failure
            try:
                way = kind(settings, store)
                pipe.send(Ready())
                go = pipe.recv()
                answer = Race(way, store, settings, first, pipe).run(go)
                way.close()
            except Exception as error:
                store.stop()
                answer = Failure(f"{type(error).__name__}: {error}")
            pipe.send(answer)


class Race:
    """All callers of one process."""

    def __init__(self, way: Way, store: Store, settings: Settings, first: int, pipe: Connection) -> None:
        self._way = way
        self._store = store
        self._settings = settings
        self._first = first
        self._pipe = pipe

    def run(self, go: Go) -> Tally:
        """Let them loose, and add up what they have seen.

        Raises:
            Exception: what one of them raised; then all have ended.
        """
        budgets = go.operations or [sys.maxsize] * CALLERS
        plans = [self._plan(self._first + number, budget) for number, budget in enumerate(budgets)]
        with ThreadPoolExecutor(THREADS + 1) as pool:
            jobs = [pool.submit(self._in_thread, plan) for plan in plans[:THREADS]]
            jobs.append(pool.submit(lambda: asyncio.run(self._in_loop(plans[THREADS:]))))
            while wait(jobs, 0.2).not_done:
                # Nothing is sent to a race: what comes is the end of the parent.
                if self._pipe.poll() or any(job.done() and job.exception() for job in jobs):
                    self._store.stop()
        total = Tally()
        for job in jobs:
            total.update(job.result())
        total.counts.update(self._way.counts())
        total.trouble = self._way.trouble()
        return total

    def _plan(self, caller: int, budget: int) -> Iterator[tuple[int, bool]]:
        """What a caller does: a row, and whether it is written."""
        for _ in itertools.repeat(None, budget):
            if self._store.stopped:
                return
            yield random.randrange(self._settings.rows), random.random() < self._settings.writes
            self._store.count(caller)

    def _in_thread(self, plan: Iterator[tuple[int, bool]]) -> Tally:
        tally, way, store = Tally(), self._way, self._store
        for row, writes in plan:
            begin = time.perf_counter_ns()
            if writes:
                try:
                    store.returned(row, way.write(row))
                except CacheUnavailable:  # a strict write, before anything was written
                    tally.writes_refused += 1
                else:
                    tally.wrote(time.perf_counter_ns() - begin)
            else:
                floor = store.floor(row)
                version = way.read(row)
                tally.read(time.perf_counter_ns() - begin, stale=version < floor)
        return tally

    async def _in_task(self, plan: Iterator[tuple[int, bool]]) -> Tally:
        tally, way, store = Tally(), self._way, self._store
        for row, writes in plan:
            begin = time.perf_counter_ns()
            if writes:
                try:
                    store.returned(row, await way.awrite(row))
                except CacheUnavailable:
                    tally.writes_refused += 1
                else:
                    tally.wrote(time.perf_counter_ns() - begin)
            else:
                floor = store.floor(row)
                version = await way.aread(row)
                tally.read(time.perf_counter_ns() - begin, stale=version < floor)
        return tally

    async def _in_loop(self, plans: Sequence[Iterator[tuple[int, bool]]]) -> Tally:
        total = Tally()
        try:
            for tally in await asyncio.gather(*(self._in_task(plan) for plan in plans)):
                total.update(tally)
        finally:
            await self._way.aclose()
        return total
