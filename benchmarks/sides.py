"""What is timed: some statement, very often, without the loop around it; and the proof that it does what it should.

The loop is measured empty each time, and subtracted, on all sides: a hit takes so little that the loop would make the
slow look faster beside it.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import timeit
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class NotVerified(AssertionError):
    """A side did not do what it was timed for: a wrong value, or a load where there should have been a hit."""


@dataclass(frozen=True)
class Side:
    """One that is timed.

    Attributes:
        name: of the library, and what of it.
        seconds: how long so many calls take.
        check: raises `NotVerified`. Called before the first call is timed and after the last.
        unit: calls are made by so many.
    """

    name: str
    seconds: Callable[[int], float]
    check: Callable[[], None]
    unit: int = 1


class Loads:
    """Counts the loads of a function; not exact among threads, where one too many is enough to be seen."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """One more."""
        self.count += 1


def all_hits(
    name: str, call: Callable[[], Sequence[Any]], values: Sequence[Any], loads: Loads | None
) -> Callable[[], None]:
    """A check that calls give these values, and that from the first check on there is no load.

    Args:
        name: of the side.
        call: makes each call once, and gives what came back.
        values: what should come back, of the same types.
        loads: of the function behind the cache; None: there is no function, the values were put in by hand.
    """
    seen: list[int] = []

    def check() -> None:
        for _ in range(2):  # the first may be a miss; and some keep more of an entry when it has been hit
            got = call()
            if list(got) != list(values) or list(map(type, got)) != list(map(type, values)):
                raise NotVerified(f"{name} gave {got!r}, not {values!r}")
        if loads is not None:
            seen.append(loads.count)
            call()
            if loads.count != seen[0]:
                raise NotVerified(f"{name} loaded {loads.count - seen[0]} times where every call should be a hit")

    return check


def plain(name: str, statement: str, check: Callable[[], None], unit: int = 1, **names: Any) -> Side:
    """A side that runs a statement, such as ``f(1, 2)``, in a loop of `timeit`.

    Args:
        unit: how many calls the statement makes.
        names: what it uses; they are local to the loop.
    """
    setup = "; ".join(f"{each} = {each}_" for each in names)
    timer = timeit.Timer(statement, setup, globals={f"{each}_": value for each, value in names.items()})
    empty = timeit.Timer("pass")

    def seconds(calls: int) -> float:
        return timer.timeit(calls // unit) - empty.timeit(calls // unit)

    return Side(name, seconds, check, unit)


def awaited(
    runner: asyncio.Runner,
    name: str,
    statement: str,
    check: Callable[[], None],
    unit: int = 1,
    empty: str = "pass",
    **names: Any,
) -> Side:
    """The same in a coroutine: a statement such as ``await f(1, 2)``, in the runner's event loop.

    Args:
        empty: what the empty loop has in the place of the statement.
    """
    made: dict[str, Any] = {}
    exec(_LOOP.format(names=", ".join(["times", *names]), statement=statement, empty=empty), made)

    def seconds(calls: int) -> float:
        with without_collection():
            return float(runner.run(made["loop"](range(calls // unit), **names)))

    return Side(name, seconds, check, unit)


_LOOP = """
from time import perf_counter

async def loop({names}):
    begin = perf_counter()
    for _ in times:
        {statement}
    middle = perf_counter()
    for _ in times:
        {empty}
    return middle - begin - (perf_counter() - middle)
"""


def threaded(
    name: str, function: Callable[[Any], Any], keys: Sequence[Any], threads: int, check: Callable[[], None]
) -> Side:
    """Threads that each call a function with all keys in turn, each beginning with another one.

    From the moment all of them have started until the last has ended; the loops are included, on all sides.
    """

    def turns(gate: threading.Barrier, first: int, rounds: int) -> None:
        mine = [*keys[first:], *keys[:first]]
        gate.wait()
        for _ in range(rounds):
            for key in mine:
                function(key)

    def seconds(calls: int) -> float:
        gate = threading.Barrier(threads + 1)
        rounds = calls // (threads * len(keys))
        step = len(keys) // threads
        crew = [threading.Thread(target=turns, args=(gate, step * number, rounds)) for number in range(threads)]
        with without_collection():
            for each in crew:
                each.start()
            gate.wait()
            begin = time.perf_counter()
            for each in crew:
                each.join()
            return time.perf_counter() - begin

    return Side(name, seconds, check, threads * len(keys))


@contextmanager
def without_collection() -> Any:
    """No garbage collection in the block, as in `timeit`."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
