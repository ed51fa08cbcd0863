"""A small service as a user would write it: a store, and a repository of cached reads and invalidating writes.

The decorators are the bare ones: they find the default cache at call time, so a test says with `configure` where it is.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from cacheside import cached, invalidates

PAGES = 3

# SQLite has neither type, and Python 3.12 has given up its own adapters. A type without TEXT in its name would become a
# float there.
sqlite3.register_adapter(Decimal, str)
sqlite3.register_converter("DECIMAL_TEXT", lambda raw: Decimal(raw.decode()))
sqlite3.register_adapter(datetime, datetime.isoformat)
sqlite3.register_converter("TIMESTAMP", lambda raw: datetime.fromisoformat(raw.decode()))


class NotFound(Exception):
    """There is no such row."""


@dataclass(frozen=True)
class User:
    """One row."""

    id: int
    email: str
    name: str
    city: str | None
    balance: Decimal
    joined: datetime


class Store:
    """A database: one connection for each thread, and every statement commits itself.

    Args:
        connect: opens a connection of any driver that follows the DB-API.
        mark: what stands for an argument in a statement; ours are written with ``?``.
        serial: the type of a column that numbers its rows.
        timestamp: the type of a date and time with microseconds.
        money: the type of a number with two decimals.
    """

    def __init__(
        self, connect: Callable[[], Any], mark: str, serial: str, timestamp: str, money: str = "DECIMAL(10, 2)"
    ) -> None:
        self._connect = connect
        self._mark = mark
        self._types = {"serial": serial, "timestamp": timestamp, "money": money}
        self._mine = threading.local()
        self._all: list[Any] = []

    def query(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, if it has any."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = self._connect()
            self._all.append(self._mine.connection)
        cursor = self._mine.connection.cursor()
        try:
            cursor.execute(sql.replace("?", self._mark), args)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            cursor.close()

    def create(self) -> None:
        """Begin with an empty table."""
        self.query("DROP TABLE IF EXISTS users")
        self.query(
            "CREATE TABLE users (id {serial} PRIMARY KEY, email VARCHAR(100) NOT NULL UNIQUE, "
            "name VARCHAR(100) NOT NULL, city VARCHAR(100), balance {money} NOT NULL, "
            "joined {timestamp} NOT NULL)".format(**self._types)
        )

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._all:
            self._all.pop().close()


def sqlite_store(path: Path) -> Store:
    """A SQLite file."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            path,
            timeout=20,
            isolation_level=None,
            detect_types=sqlite3.PARSE_DECLTYPES,
            check_same_thread=False,  # `close` closes those of other threads
        )

    store = Store(connect, "?", "INTEGER", "TIMESTAMP", "DECIMAL_TEXT")
    store.query("PRAGMA journal_mode = WAL")
    return store


def postgres_store(url: str) -> Store:
    """A PostgreSQL database."""
    import psycopg

    return Store(lambda: psycopg.connect(url, autocommit=True), "%s", "SERIAL", "TIMESTAMP")


def mariadb_store(connect_args: dict[str, Any]) -> Store:
    """A MariaDB database."""
    import pymysql

    return Store(
        lambda: pymysql.connect(**connect_args, autocommit=True), "%s", "INTEGER AUTO_INCREMENT", "DATETIME(6)"
    )


def all_pages(*_: object, **__: object) -> list[str]:
    """The keys of all pages: any write may change any of them."""
    return [UserRepository.page.key(None, number) for number in range(1, PAGES + 1)]  # type: ignore[arg-type]  # any self


class UserRepository:
    """Reads and writes of the table, plain and async; the two share their keys, and so their entries.

    Args:
        store: where the rows are.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.loads = 0
        self.after_select: Callable[[], object] = lambda: None
        """A test makes a reader slow with it: called between the SELECT and the return."""

    @cached(key="user:{user_id}", ttl=60, cache_exceptions=(NotFound,))
    def get(self, user_id: int) -> User:
        return self._one("id", user_id)

    @cached(key="user:{user_id}", ttl=60, cache_exceptions=(NotFound,))
    async def aget(self, user_id: int) -> User:
        return await asyncio.to_thread(self._one, "id", user_id)

    @cached("email:{email}", 60)
    def by_email(self, email: str) -> User | None:
        return next(iter(self._select("WHERE email = ?", email)), None)

    @cached("email:{email}", 60)
    async def aby_email(self, email: str) -> User | None:
        return next(iter(await asyncio.to_thread(self._select, "WHERE email = ?", email)), None)

    @cached(key="users:page:{number}", ttl=60)
    def page(self, number: int) -> list[User]:
        return self._select("ORDER BY id LIMIT 2 OFFSET ?", (number - 1) * 2)

    @cached(key="users:page:{number}", ttl=60)
    async def apage(self, number: int) -> list[User]:
        return await asyncio.to_thread(self._select, "ORDER BY id LIMIT 2 OFFSET ?", (number - 1) * 2)

    @cached(key="city:{city}", ttl=60, cache_exceptions=(NotFound,), negative_ttl=30)
    def count(self, city: str) -> int:
        return self._count(city)

    @cached(key="city:{city}", ttl=60, cache_exceptions=(NotFound,), negative_ttl=30)
    async def acount(self, city: str) -> int:
        return await asyncio.to_thread(self._count, city)

    @invalidates("user:{result.id}", by_email, "city:{city}", all_pages)
    def add(self, email: str, name: str, city: str | None, balance: Decimal, joined: datetime) -> User:
        return self._insert(email, name, city, balance, joined)

    @invalidates("user:{result.id}", aby_email, "city:{city}", all_pages)
    async def aadd(self, email: str, name: str, city: str | None, balance: Decimal, joined: datetime) -> User:
        return await asyncio.to_thread(self._insert, email, name, city, balance, joined)

    @invalidates(get, "email:{result.email}", all_pages)
    def rename(self, user_id: int, name: str) -> User:
        return self._update(user_id, name)

    @invalidates(aget, "email:{result.email}", all_pages)
    async def arename(self, user_id: int, name: str) -> User:
        return await asyncio.to_thread(self._update, user_id, name)

    @invalidates("user:{user.id}", "email:{user.email}", "city:{user.city}", all_pages)
    def remove(self, user: User) -> None:
        self.store.query("DELETE FROM users WHERE id = ?", user.id)

    @invalidates("user:{user.id}", "email:{user.email}", "city:{user.city}", all_pages)
    async def aremove(self, user: User) -> None:
        await asyncio.to_thread(self.store.query, "DELETE FROM users WHERE id = ?", user.id)

    def _select(self, rest: str, *args: Any) -> list[User]:
        self.loads += 1
        rows = self.direct(rest, *args)
        self.after_select()
        return rows

    def direct(self, rest: str, *args: Any) -> list[User]:
        """What is in the store, whatever the cache says."""
        rows = self.store.query(f"SELECT id, email, name, city, balance, joined FROM users {rest}", *args)
        return [User(*row) for row in rows]

    def _one(self, column: str, value: Any) -> User:
        found = self._select(f"WHERE {column} = ?", value)
        if not found:
            raise NotFound(f"no user with {column} {value}")
        return found[0]

    def _count(self, city: str) -> int:
        found = len(self._select("WHERE city = ?", city))
        if not found:
            raise NotFound(f"nobody lives in {city}")
        return found

    def _insert(self, *values: Any) -> User:
        sql = "INSERT INTO users (email, name, city, balance, joined) VALUES (?, ?, ?, ?, ?) RETURNING id"
        ((user_id,),) = self.store.query(sql, *values)
        return User(user_id, *values)

    def _update(self, user_id: int, name: str) -> User:
        self.store.query("UPDATE users SET name = ? WHERE id = ?", name, user_id)
        return self.direct("WHERE id = ?", user_id)[0]
