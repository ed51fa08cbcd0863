"""Processes that meet a cold key on one Redis, each with one caller.

Each process has the caches of all libraries, and calls them in turns, all processes at the same moment.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from cacheside.progress import Progress

from . import peers
from .servers import HOST, redis_server
from .sides import Loads, NotVerified

NAMES = ("cacheside", "cacheside, async", "dogpile.cache, distributed_lock", "cashews, lock")
PATIENCE = 60.0  # seconds that processes wait for each other


def measure(
    processes: int, times: int, load: float, progress: Progress
) -> tuple[str, dict[str, list[tuple[int, float]]]]:
    """Let them meet.

    Args:
        processes: how many.
        times: how often each library.
        load: the seconds that a load takes.

    Returns:
        the server's version, and by library, for each time, the loads and the seconds until all had the value.
    """
    context = multiprocessing.get_context("spawn")
    with redis_server() as server:
        gate = context.Barrier(processes)
        pipes, crew = [], []
        try:
            for _ in range(processes):
                ours, theirs = context.Pipe()
                crew.append(context.Process(target=_member, args=(theirs, gate, server.port, times, load)))
                crew[-1].start()
                theirs.close()
                pipes.append(ours)
            seen: dict[str, list[tuple[int, float]]] = {name: [] for name in NAMES}
            for number in range(times):
                for name in NAMES:
                    answers = [pipe.recv() for pipe in pipes]
                    begin, end = min(answer[0] for answer in answers), max(answer[1] for answer in answers)
                    seen[name].append((sum(answer[2] for answer in answers), end - begin))
                progress((number + 1) / times)
        except BaseException as error:
            gate.abort()  # nobody waits for one that has died
            if isinstance(error, EOFError):
                raise NotVerified("a process of the crowd has ended early; it has said why") from None
            raise
        finally:
            for each in crew:
                each.join(PATIENCE)
                each.kill()
                each.join()
    return server.version, seen


def _member(pipe: Connection, gate: Barrier, port: int, times: int, load: float) -> None:
    """One process. It tells when each call began and ended, by a clock that all share, and how often it loaded."""
    loads = Loads()
    with asyncio.Runner() as runner:
        calls = dict(zip(NAMES, _calls(runner, port, load, loads), strict=True))
        for number in range(times):
            for call in calls.values():
                before = loads.count
                gate.wait(PATIENCE)
                begin = time.monotonic()
                value = call(number)
                end = time.monotonic()
                if value != number + 1:
                    raise NotVerified(f"a caller got {value!r}")
                pipe.send((begin, end, loads.count - before))
        runner.run(peers.close())


def _calls(runner: asyncio.Runner, port: int, seconds: float, loads: Loads) -> list[Callable[[int], Any]]:
    """For each library, in the order of `NAMES`, a call of its cached function."""
    from cacheside import Cache

    url = f"redis://{HOST}:{port}/0"

    def load(product_id: int) -> int:
        loads.add()
        time.sleep(seconds)
        return product_id + 1

    async def aload(product_id: int) -> int:
        loads.add()
        await asyncio.sleep(seconds)
        return product_id + 1

    cache = Cache(url, namespace="bench", ttl=peers.TTL, timeout=5)
    ours = cache.cached("sync:{product_id}")(load)
    ours_async = cache.cached("async:{product_id}")(aload)
    dogpile = peers.dogpile_redis(url, distributed=True)(load)
    cashews = peers.cashews_redis(url, lock=True)(aload)
    peers.at_end(cache.aclose)
    return [
        ours,
        lambda number: runner.run(ours_async(number)),
        dogpile,
        lambda number: runner.run(cashews(number)),
    ]
