"""What the tests of the outbox share: a database of each kind, and a small store with an outbox on it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest

from cacheside import Cache
from cacheside.outbox import Outbox

DIALECTS = ("postgresql", "mariadb", "sqlite")
DATABASES = [
    pytest.param("postgresql", marks=pytest.mark.server),
    pytest.param("mariadb", marks=pytest.mark.server),
    "sqlite",
]


class Database:
    """A database of one kind, and connections to it that are closed at the end."""

    def __init__(self, dialect: Any, url: str, connect: Callable[[], Any]) -> None:
        self.dialect = dialect
        self.url = url
        self.mark = "?" if dialect == "sqlite" else "%s"
        self._connect = connect
        self._open: list[Any] = []

    def connect(self) -> Any:
        """A new DB-API connection, not in autocommit mode."""
        connection = self._connect()
        self._open.append(connection)
        return connection

    def close(self) -> None:
        """Close all."""
        for connection in self._open:
            with contextlib.suppress(pymysql.Error):  # closed already
                connection.close()


def make_database(request: pytest.FixtureRequest, dialect: str) -> Database:
    """The session's server, or a new file."""
    if dialect == "postgresql":
        postgres = request.getfixturevalue("postgres_server")
        return Database(dialect, postgres.url, lambda: psycopg.connect(postgres.url))
    if dialect == "mariadb":
        mariadb = request.getfixturevalue("mariadb_server")
        return Database(dialect, mariadb.url, lambda: pymysql.connect(**mariadb.connect_args))
    path = request.getfixturevalue("tmp_path") / "store.db"
    return Database(dialect, f"sqlite:///{path}", lambda: sqlite3.connect(path, timeout=30, check_same_thread=False))


class Store:
    """Numbered rows of versions in one database, cached, with an outbox: its writes leave the commit to the caller."""

    def __init__(self, database: Database, cache: Cache, namespace: str, **options: Any) -> None:
        self.database = database
        self.cache = cache
        self.rows = f"rows_{namespace[:20]}"
        self.outbox = Outbox(cache, table=f"outbox_{namespace[:20]}", **options)
        self.connection = database.connect()
        self._other = database.connect()
        for statement in self.outbox.statements(database.dialect):
            self.run(statement)
        self.run(f"CREATE TABLE {self.rows} (id INTEGER PRIMARY KEY, version INTEGER NOT NULL)")
        for number in range(1, 10):
            self.run(f"INSERT INTO {self.rows} VALUES ({number}, 1)")
        self.connection.commit()
        self.load = cache.cached("row:{number}", tags=["all"])(self.read)
        self.write = cache.invalidates("row:{number}")(self.set)

    def run(self, statement: str, *arguments: Any) -> Any:
        """Run one statement on the writers' connection; its first row, if it has any."""
        return _run(self.connection, statement.replace("?", self.database.mark), arguments)

    def read(self, number: int) -> int:
        """The version that is committed."""
        version = self.look(f"SELECT version FROM {self.rows} WHERE id = {number}")[0][0]
        return int(version)

    def set(self, number: int, version: int) -> None:
        """Write, and commit nothing."""
        self.run(f"UPDATE {self.rows} SET version = ? WHERE id = ?", version, number)

    def put(self, *keys: str, age: float = 0.0, namespace: str | None = None, entries: str | None = None) -> str:
        """A committed row, as a writer that died has left it; its id."""
        row = self.outbox.row([self.outbox.core.prefix + key for key in keys])
        assert row is not None
        row = row._replace(namespace=namespace or row.namespace, entries=row.entries if entries is None else entries)
        self.run(self.outbox.insert_with("?"), *row)
        self.run(f"UPDATE {self.outbox.table} SET created = created - ? WHERE id = ?", age, row.id)
        self.connection.commit()
        return row.id

    def left(self) -> list[list[str]]:
        """The keys of the rows that others see, oldest first, without prefix."""
        rows = self.look(f"SELECT entries FROM {self.outbox.table} ORDER BY created")
        start = len(self.outbox.core.prefix)
        return [[key[start:] for key in self.outbox.keys(entries)] for (entries,) in rows]

    def look(self, statement: str) -> Any:
        """All rows of a query, as another connection sees them now."""
        cursor = self._other.cursor()
        cursor.execute(statement)
        found = cursor.fetchall()
        self._other.rollback()
        cursor.close()
        return found


def _run(connection: Any, statement: str, arguments: tuple[Any, ...]) -> None:
    cursor = connection.cursor()
    # psycopg takes a "%" for a mark only beside arguments
    cursor.execute(statement, arguments) if arguments else cursor.execute(statement)
    cursor.close()


@contextlib.contextmanager
def opened_store(request: pytest.FixtureRequest, dialect: str, cache_url: str, **options: Any) -> Iterator[Store]:
    """A store of one's own."""
    name = f"t{uuid.uuid4().hex}"
    with contextlib.closing(make_database(request, dialect)) as database, Cache(cache_url, namespace=name) as cache:
        yield Store(database, cache, name, **options)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for a condition; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found
