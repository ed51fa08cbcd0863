"""Part "stampede": a crowd of callers meets a cold key. How often is the store asked, and when has everybody got it?

Threads and tasks in one process, in memory; processes on a Redis of our own, see `crowd.py`. Each time it is a key that
nobody has seen. A load takes 50 ms, so that is the least. All peers stand here with what they have against stampedes;
functools, which has nothing, shows what that would be like.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cacheside.progress import Progress

from . import crowd, peers
from .effort import Effort
from .measure import Spread
from .sides import Loads, NotVerified

LOAD = 0.05  # seconds
ENTRIES = 1000


@dataclass(frozen=True)
class Stampede:
    """What a crowd did.

    Attributes:
        library: that stood between it and the store.
        callers: how many.
        loads: reads of the store, each time.
        seconds: until the last caller had the value.
        verified: whether every caller got it.
    """

    library: str
    callers: int
    loads: list[int]
    seconds: Spread
    verified: bool


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """All crowds, the libraries in turns."""
    size = effort.callers
    with asyncio.Runner() as runner:
        threads = {
            name: _threads(make, size)
            for name, make in {**peers.THREADS, "functools.lru_cache": peers.lru_cache}.items()
        }
        of_threads = _in_turns(threads, size, effort.crowds, lambda done: progress(done * 0.4))
        tasks = {name: _tasks(runner, make, size) for name, make in peers.TASKS.items()}
        of_tasks = _in_turns(tasks, size, effort.crowds, lambda done: progress(0.4 + done * 0.2))
        runner.run(peers.close())
    server, seen = crowd.measure(effort.processes, effort.crowds, LOAD, lambda done: progress(0.6 + done * 0.4))
    of_processes = [_stampede(name, effort.processes, results) for name, results in seen.items()]
    return {
        "servers": [server],
        "load_seconds": LOAD,
        "crowds": {
            f"{size:,} threads, in memory": [asdict(each) for each in of_threads],
            f"{size:,} tasks, in memory": [asdict(each) for each in of_tasks],
            f"{effort.processes} processes, on Redis": [asdict(each) for each in of_processes],
        },
    }


def _in_turns(
    meet: dict[str, Callable[[int], tuple[int, float]]], callers: int, times: int, progress: Progress
) -> list[Stampede]:
    seen: dict[str, list[tuple[int, float]]] = {name: [] for name in meet}
    for number in range(times):
        for name, one in meet.items():
            seen[name].append(one(number))
        progress((number + 1) / times)
    return [_stampede(name, callers, results) for name, results in seen.items()]


def _stampede(name: str, callers: int, results: list[tuple[int, float]]) -> Stampede:
    loads, seconds = zip(*results, strict=True)
    return Stampede(name, callers, list(loads), Spread.of(seconds), verified=True)


def _threads(make: peers.Make, size: int) -> Callable[[int], tuple[int, float]]:
    """Threads that wait for a gate, and then call."""
    loads = Loads()
    lock = threading.Lock()

    def load(a: int, b: int) -> int:
        with lock:
            loads.add()
        time.sleep(LOAD)
        return a + b

    f = make(ENTRIES)(load)

    def meet(number: int) -> tuple[int, float]:
        before, gate, got = loads.count, threading.Event(), []

        def caller() -> None:
            gate.wait()
            got.append(f(number, 1))

        crew = [threading.Thread(target=caller) for _ in range(size)]
        for each in crew:
            each.start()
        begin = time.perf_counter()
        gate.set()
        for each in crew:
            each.join()
        seconds = time.perf_counter() - begin
        return _verified(got, number + 1, size, loads.count - before), seconds

    return meet


def _tasks(runner: asyncio.Runner, make: peers.Make, size: int) -> Callable[[int], tuple[int, float]]:
    """Tasks that are made at once."""
    loads = Loads()

    async def load(a: int, b: int) -> int:
        loads.add()
        await asyncio.sleep(LOAD)
        return a + b

    f = make(ENTRIES)(load)

    async def caller(number: int) -> int:
        return int(await f(number, 1))

    async def crowd_of(number: int) -> tuple[int, float]:
        before = loads.count
        begin = time.perf_counter()
        got = await asyncio.gather(*[caller(number) for _ in range(size)])
        seconds = time.perf_counter() - begin
        return _verified(got, number + 1, size, loads.count - before), seconds

    return lambda number: runner.run(crowd_of(number))


def _verified(got: list[int], value: int, size: int, loads: int) -> int:
    if got != [value] * size:
        raise NotVerified(f"of {size} callers {got.count(value)} got the value")
    return loads
