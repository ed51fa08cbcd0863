"""A process that reads and writes a store behind a cache until it is killed. Forked by a server that has imported this.

Its writes announce the moment between their commit and the delivery, and stretch it.
"""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

import psycopg

from cacheside import Cache
from cacheside.outbox import Outbox

KEYS = 600
TABLE = "crash_rows"


class Place(NamedTuple):
    """Where it works, and how."""

    database: str
    cache: str
    namespace: str
    outbox: bool


class Store:
    """Rows of versions in PostgreSQL, behind a cache."""

    def __init__(self, place: Place) -> None:
        self.cache = Cache(place.cache, namespace=place.namespace)
        self.outbox = Outbox(self.cache) if place.outbox else None
        self.connection = psycopg.connect(place.database)
        self.reads = psycopg.connect(place.database, autocommit=True)
        self.load = self.cache.cached("row:{number}", ttl=None)(self.version)
        self.write = self.cache.invalidates("row:{number}")(self.bump)

    def version(self, number: int) -> int:
        """The version that is committed."""
        query = f"SELECT version FROM {TABLE} WHERE id = %s".encode()
        (version,) = self.reads.execute(query, [number]).fetchone() or (0,)
        return int(version)

    def bump(self, number: int) -> None:
        """Write, and commit nothing."""
        self.connection.execute(f"UPDATE {TABLE} SET version = version + 1 WHERE id = %s".encode(), [number])

    def close(self) -> None:
        """Close all."""
        self.cache.close()
        self.connection.close()
        self.reads.close()


def live(place: Place, state: Any) -> None:
    """Read and write for ever. `state`: [0] is 1 between a commit and the end of its delivery; [1] counts writes."""
    store = Store(place)
    chance = random.Random()
    while True:
        number = chance.randrange(KEYS)
        if chance.random() < 0.6:
            store.load(number)
            continue
        outbox = None if store.outbox is None else store.outbox.on(store.connection)
        with store.cache.transaction(outbox=outbox):
            store.write(number)
            store.connection.commit()
            state[0] = 1
            state[1] += 1
            time.sleep(chance.random() * 0.02)
        state[0] = 0


def _import_all() -> None:
    """What a writer imports, so that its parent has it already: importing takes longer than the whole rest."""
    cache = Cache("redis://127.0.0.1:1/0")  # connected to by nobody
    Outbox(cache)
    cache.cached("a")(live)
    cache.invalidates("a")(live)
    cache.transaction()


_import_all()
