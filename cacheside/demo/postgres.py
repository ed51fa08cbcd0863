"""The PostgreSQL store: a table with a name of its own, dropped at the end. It needs psycopg."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import uuid
from collections.abc import Iterator
from typing import Any

from ..backends.urls import masked
from ..errors import ConfigurationError, MissingExtraError
from ..progress import Progress
from .stores import COLUMNS, CONNECTIONS, Store, StoreFailed, new_rows

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as _missing:  # psycopg itself, or the libpq that it would have to find
    raise MissingExtraError(
        "the store postgresql:// needs the package 'psycopg': pip install 'cacheside[postgresql]'"
    ) from _missing

PATIENCE = 5  # seconds to connect


class PostgresStore:
    """One table in a database. Statements are bytes to psycopg, since its type for text admits literals only."""

    mark = "%s"

    def __init__(self, url: str) -> None:
        self.table: str = f"cacheside_demo_{uuid.uuid4().hex}"
        self._url = url
        # None: a connection that may still be opened.
        self._idle: queue.SimpleQueue[psycopg.Connection | None] = queue.SimpleQueue()
        self._idle_in: dict[asyncio.AbstractEventLoop, asyncio.Queue[psycopg.AsyncConnection | None]] = {}
        for _ in range(CONNECTIONS):
            self._idle.put(None)

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """A connection, which commits after every statement."""
        connection = self._idle.get()
        try:
            if connection is None:
                connection = psycopg.connect(self._url, autocommit=True, connect_timeout=PATIENCE)
            yield connection
        finally:
            self._idle.put(connection)

    def query(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        with self.connection() as connection:
            return connection.execute(sql.encode(), args).fetchone()

    async def aquery(self, sql: str, *args: object) -> Any:
        """See `Store.query`."""
        loop = asyncio.get_running_loop()
        idle = self._idle_in.get(loop)
        if idle is None:
            idle = self._idle_in[loop] = asyncio.Queue()
            for _ in range(CONNECTIONS):
                idle.put_nowait(None)
        connection = await idle.get()
        try:
            if connection is None:
                connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True, connect_timeout=PATIENCE)
            cursor = await connection.execute(sql.encode(), args)
            return await cursor.fetchone()
        finally:
            idle.put_nowait(connection)

    def rows(self) -> list[Any]:
        """See `Store.rows`."""
        with self.connection() as connection:
            return connection.execute(f"SELECT id, name, price, version FROM {self.table}".encode()).fetchall()

    def fill(self, progress: Progress) -> None:
        """Make the table."""
        with self.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {self.table} {COLUMNS}".encode())
            with cursor.copy(f"COPY {self.table} FROM STDIN".encode()) as copy:
                for row in new_rows(progress):
                    copy.write_row(row)
            cursor.execute(f"ANALYZE {self.table}".encode())

    async def aclose(self) -> None:
        """See `Store.aclose`."""
        idle = self._idle_in.pop(asyncio.get_running_loop(), None)
        while idle is not None and not idle.empty():
            if (connection := idle.get_nowait()) is not None:
                await connection.close()

    def drop(self) -> None:
        """Remove the table, over a connection of its own: any other may be broken."""
        with psycopg.connect(self._url, autocommit=True, connect_timeout=PATIENCE) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {self.table}".encode())

    def close(self) -> None:
        """Close the threads' connections."""
        while not self._idle.empty():
            if (connection := self._idle.get()) is not None:
                connection.close()


@contextlib.contextmanager
def open_postgres(url: str, progress: Progress) -> Iterator[Store]:
    """A new table in the database at `url`. See `open_store`."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # its text may quote the password, and so may the chain
        raise ConfigurationError(f"malformed PostgreSQL URL {masked(url)!r}") from None
    try:
        with contextlib.closing(PostgresStore(url)) as store:
            store.query("SELECT 1")  # connects, or fails before there is a table to drop
            try:
                store.fill(progress)
                yield store
            finally:
                store.drop()
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise StoreFailed(f"the PostgreSQL store {masked(url)} failed: {reason}") from error
