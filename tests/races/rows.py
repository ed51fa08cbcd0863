"""The store of the races: versions in PostgreSQL. Each write makes the next version of its row, and commits it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg


def dawdle() -> float:
    """Seconds to wait: mostly one or two thousandths, seldom ten, so that all overtake each other."""
    return min(random.expovariate(1 / 0.0015), 0.02)


@contextlib.contextmanager
def table(url: str, name: str, keys: int) -> Iterator[psycopg.Connection[Any]]:
    """A table with a row for each key, all of version 0, while the block runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, version BIGINT NOT NULL)".encode())
        connection.execute(f"INSERT INTO {name} SELECT id, 0 FROM generate_series(0, {keys - 1}) AS id".encode())
        try:
            yield connection
        finally:
            connection.execute(f"DROP TABLE {name}".encode())


class Rows:
    """Reads and writes, in both colours. Each thread has a connection, and so has each task at work.

    Args:
        url: of the database.
        name: the table. (psycopg's type for a statement admits literals only; bytes pass.)
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._select = f"SELECT version FROM {name} WHERE id = %s".encode()
        self._update = f"UPDATE {name} SET version = version + 1 WHERE id = %s RETURNING version".encode()
        self._mine = threading.local()
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    def load(self, key: int) -> int:
        """Read the version, then dawdle: what a write does meanwhile is not seen."""
        version = self._query(self._select, key)
        time.sleep(dawdle())
        return version

    def write(self, key: int, done: list[int]) -> int:
        """Make a new version, and return it; `done` gets it as soon as it is committed."""
        time.sleep(dawdle() / 2)
        done.append(self._query(self._update, key))
        time.sleep(dawdle() / 2)
        return done[0]

    async def aload(self, key: int) -> int:
        """`load`, awaitable."""
        version = await self._aquery(self._select, key)
        await asyncio.sleep(dawdle())
        return version

    async def awrite(self, key: int, done: list[int]) -> int:
        """`write`, awaitable."""
        await asyncio.sleep(dawdle() / 2)
        done.append(await self._aquery(self._update, key))
        await asyncio.sleep(dawdle() / 2)
        return done[0]

    def _query(self, statement: bytes, key: int) -> int:
        if not hasattr(self._mine, "connection"):
            self._mine.connection = psycopg.connect(self._url, autocommit=True)
        return int(self._mine.connection.execute(statement, (key,)).fetchone()[0])

    async def _aquery(self, statement: bytes, key: int) -> int:
        if self._idle:
            connection = self._idle.pop()
        else:
            connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        cursor = await connection.execute(statement, (key,))
        row = await cursor.fetchone()
        self._idle.append(connection)
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """Close the connection of this thread."""
        if hasattr(self._mine, "connection"):
            self._mine.connection.close()

    async def aclose(self) -> None:
        """Close the connections of the tasks."""
        while self._idle:
            await self._idle.pop().close()
