"""One process of a race. It is told what to do in JSON, as its only argument.

It says "ready", waits for a line, races until every caller has made its operations or the board says stop, and answers
in JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .board import Board
from .judge import Judge
from .rows import Rows
from .ways import ByHand, Decorated, Way

CATCH_UP = 10.0  # seconds


class Race:
    """Threads and tasks that read and write a few hot keys.

    Args:
        options: see `crew.OPTIONS`, and `process`: the number of this one.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.rows = Rows(options["store"], options["table"])
        self.way: Way = (ByHand if options["by_hand"] else Decorated)(options, self.rows)
        self.board = Board(options["board"], options["process"], options["keys"])
        self.judge = Judge(self.board, options["keys"], self.way.undelivered)
        self.operations = 0

    def plan(self) -> Iterator[tuple[int, str | None]]:
        """The operations of one caller: the key, and the kind of write; None: a read."""
        keys, share, kinds = range(self.options["keys"]), self.options["writes"], self.options["kinds"]
        made, left = 0, self.options["operations"]
        while made < left and not self.board.stopped:
            made += 1
            kind = random.choices(list(kinds), list(kinds.values()))[0] if random.random() < share else None
            yield random.choice(keys), kind
        self.operations += made

    def plain(self) -> None:
        """One thread."""
        judge, way = self.judge, self.way
        for key, kind in self.plan():
            done: list[int] = []
            try:
                if kind is None:
                    floor = judge.floor(key)
                    judge.read("a thread", key, way.read(key), floor)
                else:
                    judge.wrote(key, way.writes[kind](key, done), "strict" in kind)
            except Exception as error:
                judge.failed(f"a thread's {kind or 'read'}", error, "strict" in (kind or "") and not done)
        self.rows.close()

    async def task(self) -> None:
        """One task."""
        judge, way = self.judge, self.way
        for key, kind in self.plan():
            done: list[int] = []
            try:
                if kind is None:
                    floor = judge.floor(key)
                    judge.read("a task", key, await way.aread(key), floor)
                else:
                    judge.wrote(key, await way.awrites[kind](key, done), "strict" in kind)
            except Exception as error:
                judge.failed(f"a task's {kind or 'read'}", error, "strict" in (kind or "") and not done)

    async def tasks(self) -> None:
        """All tasks, in one loop."""
        await asyncio.gather(*(self.task() for _ in range(self.options["callers"])))
        await self.way.aclose()
        await self.rows.aclose()

    def catch_up(self) -> None:
        """What failed in the very last moments is delivered with the next calls: here they are."""
        end = time.monotonic() + CATCH_UP
        for key in range(self.options["keys"]):
            while self.way.undelivered(key) and time.monotonic() < end:
                floor = self.judge.floor(key)
                self.judge.read("the last read", key, self.way.read(key), floor)
                time.sleep(0.02)

    def run(self) -> dict[str, Any]:
        """As many threads as tasks, all at the same time."""
        callers: int = self.options["callers"]
        with ThreadPoolExecutor(callers + 1) as threads:
            calls = [threads.submit(asyncio.run, self.tasks()), *(threads.submit(self.plain) for _ in range(callers))]
            for call in calls:
                call.result()
        self.catch_up()
        self.judge.settle()
        self.way.close()
        self.rows.close()
        return {"operations": self.operations, **self.judge.report(), **self.way.report()}


def main() -> None:
    """Get ready, wait for the signal, race, answer."""
    logging.getLogger("cacheside").addHandler(logging.NullHandler())  # that a cache is broken is no news here
    race = Race(json.loads(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(race.run()), flush=True)


if __name__ == "__main__":
    main()
