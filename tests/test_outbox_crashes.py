"""The outbox, proved: writers that are killed between commit and delivery leave nothing stale behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import psycopg
import pytest
from long import LONG
from outbox_victim import KEYS, TABLE, Place, Store, live
from servers import PostgresServer, RedisServer

from cacheside.outbox import Outbox

pytestmark = [pytest.mark.proof, pytest.mark.alone, pytest.mark.timeout(300)]

AT_ONCE = 4
BUDGET = 8.0  # seconds, unless all 200 kills are asked for
AT_LEAST = 20  # kills that count, however long they take


class Seen(NamedTuple):
    """What came out."""

    kills: int
    between: int
    """Kills that came between a commit and the end of its delivery."""
    writes: int
    stale: int
    """Entries that differ from their rows, two seconds after the last kill."""
    seconds: float


def crash(place: Place, kills: int) -> Seen:
    """Kill writers at random, half of them right after a commit, and compare all entries with their rows.

    Args:
        kills: so many between a commit and the end of its delivery.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["outbox_victim"])
    chance = random.Random(7)
    began = time.monotonic()
    alive: list[tuple[Any, Any, float, bool]] = []
    killed = between = writes = 0
    with contextlib.closing(Store(place)) as store:
        for number in range(KEYS):
            store.load(number)
        while between < kills and (LONG or between < AT_LEAST or time.monotonic() - began < BUDGET):
            while len(alive) < AT_ONCE:
                state = context.RawArray("i", 2)
                process = context.Process(target=live, args=(place, state), daemon=True)
                process.start()
                alive.append((process, state, 0.0, chance.random() < 0.5))
            for number, (process, state, due, aimed) in enumerate(alive):
                assert process.is_alive(), "a writer has ended by itself"
                if not state[1]:  # it has yet to write
                    continue
                if not due:
                    alive[number] = (process, state, time.monotonic() + chance.random() * 0.1, aimed)
                elif time.monotonic() > due and (state[0] or not aimed):
                    process.kill()
                    process.join()
                    killed, between, writes = killed + 1, between + state[0], writes + state[1]
                    del alive[number]
                    break
            time.sleep(0.001)
        for process, state, _, _ in alive:  # the last ones: these too die at any moment
            process.kill()
            process.join()
            killed, between, writes = killed + 1, between + state[0], writes + state[1]
        time.sleep(2)
        stale = sum(store.load.peek(number) not in (store.version(number), _missing()) for number in range(KEYS))
    return Seen(killed, between, writes, stale, round(time.monotonic() - began, 1))


def _missing() -> Any:
    from cacheside import MISSING

    return MISSING


@pytest.mark.server
@pytest.mark.parametrize("outbox", [True, False], ids=["outbox", "control"])
def test_killed_writers(
    outbox: bool,
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    namespace: str,
    record_property: Any,
) -> None:
    """With an outbox and a relay nothing is stale two seconds after the last of 200 kills between a commit and its
    delivery, and some at other moments; without one (the control) something is. (In short runs of fewer.)"""
    place = Place(postgres_server.url, redis_server.url, namespace, outbox)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(psycopg.connect(place.database, autocommit=True)))
        connection.execute(f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, version INTEGER NOT NULL)".encode())
        stack.callback(connection.execute, f"DROP TABLE {TABLE}".encode())
        connection.execute(f"INSERT INTO {TABLE} SELECT i, 1 FROM generate_series(0, {KEYS - 1}) AS i".encode())
        relay: subprocess.Popen[str] | None = None
        if outbox:
            with contextlib.closing(Store(place)) as store:
                assert store.outbox is not None
                connection.execute(Outbox(store.cache).ddl("postgresql").encode())
                stack.callback(connection.execute, b"DROP TABLE cacheside_outbox")
            relay = subprocess.Popen(
                [
                    sys.executable, "-m", "cacheside", "relay", "--store", place.database, "--poll", "60",
                    "--cache", f"{place.cache}?namespace={namespace}",
                ],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(relay.kill)
            assert relay.stdout is not None
            assert "woken by NOTIFY" in relay.stdout.readline()
        seen = crash(place, 200 if outbox else AT_LEAST)
        record_property("seen", str(seen))
        if relay is not None:
            relay.send_signal(signal.SIGTERM)
            out, _ = relay.communicate(timeout=20)
            print(seen, out.splitlines()[-1])
            assert relay.returncode == 0
            assert seen.stale == 0
            assert seen.between >= (200 if LONG else AT_LEAST)
            rows = connection.execute(b"SELECT count(*) FROM cacheside_outbox").fetchall()
            assert rows == [(0,)]
        else:
            print(seen)
            assert seen.stale > 0
        assert seen.between >= seen.kills / 4
