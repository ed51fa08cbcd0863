"""The stores that the demo builds and removes again: a SQLite file here, a PostgreSQL table in `postgres.py`."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ..backends.urls import masked
from ..errors import CachesideError, ConfigurationError
from ..progress import Progress

ROWS = 50_000
CONNECTIONS = 8  # for all threads; an event loop has as many of its own
COLUMNS = "(id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, version INTEGER NOT NULL)"


class StoreFailed(CachesideError):
    """The store cannot be reached, or would not do what it was asked."""


class Store(Protocol):
    """A table of `ROWS` products. Threads, tasks and both colours may share it."""

    @property
    def table(self) -> str:
        """The name of the table."""
        ...

    @property
    def mark(self) -> str:
        """What stands for an argument in a statement."""
        ...

    def query(self, sql: str, *args: object) -> Any:
        """Run one statement and return its first row. What it has written is committed."""

    async def aquery(self, sql: str, *args: object) -> Any:
        """`query`, awaitable."""

    def rows(self) -> list[Any]:
        """All rows: (id, name, price, version)."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""


def open_store(url: str, progress: Progress) -> AbstractContextManager[Store]:
    """A store that is filled when the block begins, and removed at its end, however it ends.

    Args:
        url: ``sqlite://``, or ``postgresql://user@host:5432/database``.
        progress: is told how far it is filled.

    Raises:
        ConfigurationError: any other URL; or, when the block begins, one that psycopg does not understand.
        MissingExtraError: psycopg is not installed.
        StoreFailed: when the block begins, or in it: the store cannot be reached, or has failed.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and not rest:
        return open_sqlite(progress)
    if scheme in ("postgresql", "postgres") and rest:
        from .postgres import open_postgres  # needs psycopg

        return open_postgres(url, progress)
    raise ConfigurationError(f"--store is 'sqlite://' or 'postgresql://user@host:5432/database', not {masked(url)!r}")


def new_rows(progress: Progress) -> Iterator[tuple[int, str, int, int]]:
    """The rows to begin with."""
    for number in range(1, ROWS + 1):
        yield number, f"product {number}", random.randrange(100, 10_000), 1
        if number % 500 == 0:
            progress(number / ROWS)


class SQLiteStore:
    """A SQLite file. Async functions have their statements run in threads."""

    table = "products"
    mark = "?"

    def __init__(self, path: Path) -> None:
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            # A writer waits for another; of threads there is one at a time on a connection, as the queue sees to.
            self._idle.put(sqlite3.connect(path, timeout=60, check_same_thread=False))

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection; at the end of the block what was written is committed."""
        connection = self._idle.get()
        try:
            with connection:
                yield connection
        finally:
            self._idle.put(connection)

    def query(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        with self.connection() as connection:
            (row,) = connection.execute(sql, args).fetchall()
            return row

    async def aquery(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        return await asyncio.to_thread(self.query, sql, *args)

    def rows(self) -> list[Any]:
        """See `Store.rows`."""
        with self.connection() as connection:
            return connection.execute(f"SELECT id, name, price, version FROM {self.table}").fetchall()

    async def aclose(self) -> None:
        """See `Store.aclose`: a loop has no connections of its own."""

    def close(self) -> None:
        """Close the connections."""
        while not self._idle.empty():
            self._idle.get().close()


@contextlib.contextmanager
def open_sqlite(progress: Progress) -> Iterator[Store]:
    """A file in a temporary folder. See `open_store`."""
    with tempfile.TemporaryDirectory(prefix="cacheside-demo-") as folder:
        try:
            with contextlib.closing(SQLiteStore(Path(folder, "store.db"))) as store:
                with store.connection() as connection:
                    connection.execute("PRAGMA journal_mode = WAL")  # reads do not wait for a write, nor it for them
                    connection.execute(f"CREATE TABLE {store.table} {COLUMNS}")
                    connection.executemany(f"INSERT INTO {store.table} VALUES (?, ?, ?, ?)", new_rows(progress))
                yield store
        except sqlite3.Error as error:
            raise StoreFailed(f"the SQLite store failed: {error}") from error
