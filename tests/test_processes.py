"""Real processes that share one Redis or memcached: one load for all, no waiting for the dead, no stale reads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import process_worker
import pytest
from colours import until
from servers import PostgresServer
from shop import postgres_store

TIMEOUT = 60  # seconds; far more than anything takes, so that a deadlock fails the test instead of hanging it


class Worker:
    """One process of `process_worker.py`. It ends with the block at the latest."""

    def __init__(self, options: dict[str, Any]) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)  # the same cacheside, and the modules of the tests
        self.process = subprocess.Popen(
            [sys.executable, process_worker.__file__, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def wait_until_ready(self) -> None:
        """It has imported everything, and waits for `go`."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        """What it answers at its end."""
        answer, _ = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0
        return json.loads(answer)


@contextlib.contextmanager
def workers(options: Sequence[dict[str, Any]]) -> Iterator[list[Worker]]:
    """Several of them, ready."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Worker(each)) for each in options]
        for worker in started:
            worker.wait_until_ready()
        yield started


def run(options: Sequence[dict[str, Any]]) -> list[Any]:
    """What several processes answer that begin at the same time."""
    with workers(options) as started:
        for worker in started:
            worker.go()
        return [worker.result() for worker in started]


@pytest.fixture
def crowd(url: str, namespace: str, tmp_path: Path) -> dict[str, Any]:
    """What the processes of a crowd have in common."""
    arrivals = tmp_path / "arrivals"
    arrivals.mkdir()
    log = tmp_path / "log"
    log.touch()
    return {
        "job": "crowd", "url": url, "namespace": namespace, "lease": 60, "log": str(log), "arrivals": str(arrivals),
        "seconds": 0.3,
    }  # fmt: skip


def total(answers: Sequence[Any], name: str) -> int:
    """One number, over all processes."""
    return sum(answer[name] for answer in answers)


def lines(path: str) -> list[str]:
    """The loads so far: the pid of each."""
    return Path(path).read_text().splitlines()


@pytest.mark.parametrize(("threads", "tasks"), [(50, 0), (0, 50), (25, 25)], ids=["threads", "tasks", "mixed"])
def test_one_load_for_all_processes(crowd: dict[str, Any], threads: int, tasks: int) -> None:
    """8 processes of 50 callers each on one cold key: exactly one load, and all 400 get its value."""
    answers = run([{**crowd, "threads": threads, "tasks": tasks, "processes": 8}] * 8)
    assert len(lines(crowd["log"])) == 1
    assert [value for answer in answers for value in answer["values"]] == ["item 1"] * 400
    assert total(answers, "misses") == 400  # nobody came late: the load lasts until all have looked up
    assert (total(answers, "loads"), total(answers, "coalesced"), total(answers, "errors")) == (1, 399, 0)


def test_killed_leader_strands_nobody(crowd: dict[str, Any]) -> None:
    """A process is killed inside its load: who waits for it gets the value after the lease, and it is cached again."""
    crowd["lease"] = 1.5
    victim = {**crowd, "threads": 1, "tasks": 0, "processes": 1, "seconds": 10 * TIMEOUT}
    waiting = {**crowd, "threads": 10, "tasks": 10, "processes": 1}
    with workers([victim, waiting, waiting]) as (leader, *others):
        leader.go()
        until(lambda: lines(crowd["log"]) == [str(leader.process.pid)])
        for worker in others:
            worker.go()
        until(lambda: len(list(Path(crowd["arrivals"]).iterdir())) == 3)
        leader.process.kill()
        answers = [worker.result() for worker in others]
    assert [value for answer in answers for value in answer["values"]] == ["item 1"] * 40
    assert total(answers, "errors") == 0
    assert 2 <= len(lines(crowd["log"])) <= 20  # they did not all go to the store

    cache = process_worker.open_cache(crowd)

    @cache.cached(key="item:{item}")
    def get(item: int) -> str:
        return f"item {item}"

    with cache:
        until(lambda: get(1) == "item 1" and get.cache_info().hits > 0)


KEYS, PROCESSES, CALLERS = 4, 4, 4  # callers: so many threads, and so many tasks, in each process


def race(url: str, namespace: str, store: PostgresServer, folder: Path, operations: int, by_hand: bool) -> list[Any]:
    """The answers of processes that do `operations` altogether."""
    table = f"versions_{namespace}"
    floor = folder / "floor"
    floor.write_bytes(bytes(8 * KEYS * PROCESSES))
    options = {
        "job": "race", "url": url, "namespace": namespace, "lease": 30, "store": store.url, "table": table,
        "floor": str(floor), "keys": KEYS, "callers": CALLERS, "writes": 0.05, "by_hand": by_hand,
        "operations": operations // (2 * CALLERS * PROCESSES),
    }  # fmt: skip
    with contextlib.closing(postgres_store(store.url)) as rows:
        rows.query(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, version BIGINT NOT NULL)")
        for key in range(KEYS):
            rows.query(f"INSERT INTO {table} VALUES (?, 0)", key)
        try:
            return run([{**options, "process": number} for number in range(PROCESSES)])
        finally:
            rows.query(f"DROP TABLE {table}")


def test_race_of_processes(url: str, namespace: str, postgres_server: PostgresServer, tmp_path: Path) -> None:
    """20,000 operations, 5% of them writes, on 4 hot keys: no read is older than the last write before it."""
    answers = race(url, namespace, postgres_server, tmp_path, operations=20_000, by_hand=False)
    assert total(answers, "stale") == 0
    assert total(answers, "errors") == 0
    assert all(answer["hits"] > answer["loads"] for answer in answers)  # it was a cache
    assert total(answers, "refused") > 0  # there were races


def test_control_get_set_delete(url: str, namespace: str, postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The control: with get, set and delete the same traffic does read stale values."""
    answers = race(url, namespace, postgres_server, tmp_path, operations=2_000, by_hand=True)
    assert total(answers, "stale") > 0
