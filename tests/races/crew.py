"""Starts the processes of a race, and collects what they report."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from . import victim, worker
from .board import Board
from .rows import table

PATIENCE = 60  # seconds: far more than the end of a race takes, so that a deadlock fails the test instead of hanging it

OPTIONS: dict[str, Any] = {
    "by_hand": False,  # get, set and delete instead of cacheside
    "keys": 4,
    "callers": 3,  # so many threads, and so many tasks, in each process
    "writes": 0.05,  # the share of the operations that write
    "kinds": {"plain": 1.0},  # of writes, each with its share of them: see `ways.Decorated`
    "operations": 1 << 62,  # of each caller
    "lease": 30,
    "timeout": 10,
    "hold": 30,
}
"""What a race can be told; url, namespace, store, table, board and process come to it."""


class Report(NamedTuple):
    """What came out of a race, over all processes."""

    operations: int
    stale: int
    exceptions: int
    refused_writes: int
    owed: int
    words: list[str]
    counts: list[dict[str, int]]
    """What each process's cache has counted."""

    def total(self, name: str) -> int:
        """One of the counts, over all processes."""
        return sum(each[name] for each in self.counts)

    @property
    def clean(self) -> bool:
        """Nothing stale, and nothing that reached a caller."""
        return not (self.stale or self.exceptions)


class Process:
    """One process of a race. It ends with the block at the latest."""

    def __init__(self, options: dict[str, Any], program: ModuleType = worker) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)  # the same cacheside, and the modules of the tests
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", program.__name__, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},  # -m would put the current folder first
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()

    def wait_until_ready(self) -> None:
        """It has imported everything, and waits for `go`."""
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Let it begin."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def result(self, patience: float) -> dict[str, Any]:
        """What it answers at its end."""
        answer, _ = self.popen.communicate(timeout=patience)
        assert self.popen.returncode == 0
        report: dict[str, Any] = json.loads(answer)
        return report


class Crew:
    """The processes of one race, at work. See `race`."""

    def __init__(self, processes: list[Process], board: Board, options: dict[str, Any]) -> None:
        self.processes = processes
        self.board = board
        self.options = options

    def settle(self) -> None:
        """Wait until every invalidation has been delivered."""
        end = time.monotonic() + PATIENCE
        while self.board.owed:
            assert time.monotonic() < end, f"{self.board.owed} keys are still owed an invalidation"
            time.sleep(0.02)

    def stop(self) -> Report:
        """End the race."""
        self.board.stop()
        return self.report()

    @contextlib.contextmanager
    def victims(self) -> Iterator[Callable[..., int]]:
        """Processes that die in the race: `perish(key, kind, step, colour)`; see `victim.py`.

        What one had committed is on the board when it returns, if `kind` is strict: from then on all have to see it.
        """
        with Process(self.options, victim) as host:
            host.wait_until_ready()

            def perish(**told: Any) -> int:
                assert host.popen.stdin is not None
                assert host.popen.stdout is not None
                print(json.dumps(told), file=host.popen.stdin, flush=True)
                version = int(host.popen.stdout.readline())
                if "strict" in told["kind"]:
                    self.board.completed(told["key"], version)
                return version

            yield perish

    def report(self, patience: float = PATIENCE) -> Report:
        """Wait for all, `patience` seconds each, and add up what they say."""
        answers = [each.result(patience) for each in self.processes]
        sums = {name: sum(each.pop(name) for each in answers) for name in Report._fields[:5]}
        words = [word for each in answers for word in each.pop("words")]
        return Report(**sums, words=words, counts=answers)


@contextlib.contextmanager
def race(url: str, store: str, folder: Path, processes: int, **options: Any) -> Iterator[Crew]:
    """A race that has just begun.

    Args:
        url: of the cache.
        store: of the PostgreSQL.
        folder: for the board.
        processes: how many.
        options: what differs from `OPTIONS`.
    """
    name = f"races_{uuid.uuid4().hex}"
    told = {
        **OPTIONS, "url": url, "store": store, "namespace": name, "table": name, "board": str(folder / name), **options,
    }  # fmt: skip
    Board.create(folder / name, processes + 1, told["keys"])
    with table(store, name, told["keys"]), contextlib.ExitStack() as stack:
        started = [stack.enter_context(Process({**told, "process": number})) for number in range(processes)]
        for process in started:
            process.wait_until_ready()
        for process in started:
            process.go()
        yield Crew(started, Board(told["board"], processes, told["keys"]), told)
