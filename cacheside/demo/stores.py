"""The two stores that the demo can build, and remove again: a SQLite file, or a table in a PostgreSQL database."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..backends.urls import masked
from ..errors import CachesideError, ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    import psycopg

ROWS = 50_000
CONNECTIONS = 8  # for threads; an event loop has as many of its own
PATIENCE = 5  # seconds to connect to a server
COLUMNS = "(id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, version INTEGER NOT NULL)"

Progress: TypeAlias = Callable[[float], None]
"""Is told how much of a phase is done, from 0 to 1."""


class StoreFailed(CachesideError):
    """The store cannot be reached, or would not do what it was asked."""


class Store(Protocol):
    """A store with a table of `ROWS` products. Threads and tasks may share it.

    `table` is the name of the table, and `mark` what stands for an argument in a statement.
    """

    table: str
    mark: str

    def query(self, sql: str, *args: object) -> Any:
        """Run one statement and return its first row. What it wrote is committed when this returns."""

    async def aquery(self, sql: str, *args: object) -> Any:
        """See `query`."""

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""

    def rows(self) -> Iterator[Any]:
        """All rows: id, name, price, version."""


def open_store(url: str, progress: Progress) -> AbstractContextManager[Store]:
    """A store that is filled on entry, and removed at the end of the block, however it ends.

    Args:
        url: ``sqlite://``, or ``postgresql://user@host/database``.
        progress: is told how far it is filled.

    Raises:
        ConfigurationError: any other URL, or a malformed one.
        MissingExtraError: psycopg is not installed.
        StoreFailed: on entry and in the block: it cannot be reached, or failed.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and not rest:
        return _open_sqlite(progress)
    if scheme in ("postgresql", "postgres") and rest:
        return _open_postgres(url, progress)
    raise ConfigurationError(f"a store is 'sqlite://' or 'postgresql://user@host:5432/database', not {masked(url)!r}")


def _products(progress: Progress) -> Iterator[tuple[int, str, int, int]]:
    for number in range(1, ROWS + 1):
        yield number, f"product {number}", random.randrange(100, 10_000), 1
        if number % 1000 == 0:
            progress(number / ROWS)


class SQLiteStore:
    """A SQLite file. Async functions run their statements in threads."""

    table = "products"
    mark = "?"

    def __init__(self, path: Path) -> None:
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            # The queue sees to it that no two threads use one at the same time.
            self._idle.put(sqlite3.connect(path, timeout=60, check_same_thread=False))

    def query(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        connection = self._idle.get()
        try:
            with connection:  # commits
                return connection.execute(sql, args).fetchall()[0]
        finally:
            self._idle.put(connection)

    async def aquery(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        return await asyncio.to_thread(self.query, sql, *args)

    async def aclose(self) -> None:
        """The threads' connections are all there are."""

    def rows(self) -> Iterator[Any]:
        """See `Store.rows`."""
        connection = self._idle.get()
        try:
            yield from connection.execute(f"SELECT id, name, price, version FROM {self.table}").fetchall()
        finally:
            self._idle.put(connection)

    def fill(self, progress: Progress) -> None:
        """Make the table."""
        connection = self._idle.get()
        connection.execute("PRAGMA journal_mode = WAL")  # readers and a writer do not wait for each other
        with connection:
            connection.execute(f"CREATE TABLE {self.table} {COLUMNS}")
            connection.executemany(f"INSERT INTO {self.table} VALUES (?, ?, ?, ?)", _products(progress))
        self._idle.put(connection)

    def close(self) -> None:
        """Close the connections, all of which have to be idle."""
        while not self._idle.empty():
            self._idle.get().close()


@contextlib.contextmanager
def _open_sqlite(progress: Progress) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="cacheside-demo-") as folder:
        try:
            with contextlib.closing(SQLiteStore(Path(folder, "store.db"))) as store:
                store.fill(progress)
                yield store
        except sqlite3.Error as error:
            raise StoreFailed(f"the SQLite store failed: {error}") from error


class PostgresStore:
    """A table of its own in a PostgreSQL database."""

    mark = "%s"

    def __init__(self, url: str) -> None:
        import psycopg

        self.table = f"cacheside_demo_{uuid.uuid4().hex}"
        self._url = url
        self._idle: queue.SimpleQueue[psycopg.Connection] = queue.SimpleQueue()
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Queue[psycopg.AsyncConnection]] = {}
        with contextlib.ExitStack() as opened:
            for _ in range(CONNECTIONS):
                self._idle.put(opened.enter_context(self._connect()))
            opened.pop_all()

    def query(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        connection = self._idle.get()
        try:
            return connection.execute(sql.encode(), args).fetchone()
        finally:
            self._idle.put(connection)

    async def aquery(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        idle = await self._of_this_loop()
        connection = await idle.get()
        try:
            return await (await connection.execute(sql.encode(), args)).fetchone()
        finally:
            idle.put_nowait(connection)

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        idle = self._loops.pop(asyncio.get_running_loop(), None)
        while idle is not None and not idle.empty():
            await idle.get_nowait().close()

    def rows(self) -> Iterator[Any]:
        """See `Store.rows`."""
        connection = self._idle.get()
        try:
            yield from connection.execute(f"SELECT id, name, price, version FROM {self.table}".encode())
        finally:
            self._idle.put(connection)
