"""A Django site in this process for the tests of the integration: databases of each kind, a table of rows on each.

Django can be set up once in a process, and stays so. What the integration registers is taken away after each module, so
that other tests are not run by the same rules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import django
import pymysql
from django.conf import settings
from django.db import connections, transaction
from servers import HOST, MariaDBServer, PostgresServer

import cacheside
from cacheside import Cache, scopes

T = TypeVar("T")

ALIASES = ("sqlite", "mariadb", "postgresql")

savepoint: Callable[[str], str] = getattr(transaction, "savepoint_create", None) or transaction.savepoint
"""As Django 6.1 calls it."""


@contextmanager
def set_up(folder: Path, mariadb: MariaDBServer, postgres: PostgresServer) -> Iterator[None]:
    """The site, with a database under each of `ALIASES`; none is the default."""
    pymysql.install_as_MySQLdb()
    databases = {
        "default": {},
        "sqlite": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "db"},
        "mariadb": {
            "ENGINE": "django.db.backends.mysql", "NAME": "test", "USER": "root", "HOST": HOST, "PORT": mariadb.port,
        },
        "postgresql": {
            "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": HOST,
            "PORT": postgres.port,
        },
    }  # fmt: skip
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["testserver"],
            DATABASES=databases,
            INSTALLED_APPS=["cacheside.integrations.django"],
            CACHESIDE={"URL": "memory://", "TTL": 77},
            USE_TZ=True,
        )
        django.setup()
        make_tables()
    from cacheside.integrations.django import ties

    ties.install()
    try:
        yield
    finally:
        forget_connections()
        scopes.finders.remove(ties.find)
        scopes.watchers.remove(ties.changes)
        cacheside.configure("memory://")


def make_tables() -> None:
    """Empty ones."""
    for alias in ALIASES:
        execute(alias, "CREATE TABLE site_rows (id INTEGER PRIMARY KEY, name VARCHAR(50) NOT NULL)")
    execute("sqlite", "PRAGMA journal_mode=WAL")  # else readers keep a writer from its commit
    execute("postgresql", "ALTER TABLE site_rows ADD UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")


def forget_connections() -> None:
    """Close those of this thread; the next are new objects."""
    for alias in ALIASES:
        connections[alias].close()
        del connections[alias]


def execute(alias: str, statement: str, *values: Any) -> list[Any]:
    """Through Django's connection of this thread."""
    with connections[alias].cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


def elsewhere(call: Callable[..., T], *args: Any) -> T:
    """What a call gives in another thread, with connections and a context of its own."""
    found: list[T] = []

    def run() -> None:
        try:
            found.append(call(*args))
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


class Rows:
    """The rows of one alias, and functions on them that are cached."""

    def __init__(self, alias: str, cache: Cache) -> None:
        self.alias = alias
        self.cache = cache
        execute(alias, "DELETE FROM site_rows")
        for number in (1, 2):
            execute(alias, "INSERT INTO site_rows VALUES (%s, %s)", number, f"old {number}")

        @cache.cached(f"{alias}:{{row}}")
        def get(row: int) -> str:
            return str(execute(alias, "SELECT name FROM site_rows WHERE id = %s", row)[0][0])

        def write(row: int, name: str) -> str:
            execute(alias, "UPDATE site_rows SET name = %s WHERE id = %s", name, row)
            return name

        self.get = get
        self.write = write
        self.rename = cache.invalidates(get)(write)
        self.rename_strictly = cache.invalidates(get, strict=True)(write)
        self.update = cache.updates(get)(write)

    def held(self) -> Mapping[str, int]:
        """The keys that are being changed in this process, and by how many."""
        return self.cache._core.held.counts

    def filled(self, row: int) -> bool:
        """Whether there is an entry."""
        return elsewhere(self.get.peek, row) is not cacheside.MISSING
