"""Users in a real database behind a cache, and sessions of SQLAlchemy that are bound to it, or not: the control."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Engine, StaticPool, String, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from cacheside import Cache
from cacheside.integrations.sqlalchemy import bind

T = TypeVar("T")


class Base(DeclarativeBase):
    """All tables of the tests."""


class User(Base):
    """A row."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Store:
    """A database with a table of users, 1 to 3, all named "old"; `aurl` for async engines."""

    def __init__(self, url: str, aurl: str) -> None:
        self.url, self.aurl = url, aurl
        self.engine = create_engine(url)
        if url.startswith("sqlite"):
            transactions_by_hand(self.engine)
        Base.metadata.drop_all(self.engine)
        Base.metadata.create_all(self.engine)
        with Session(self.engine) as session:
            session.add_all([User(id=number, name="old") for number in (1, 2, 3)])
            session.commit()

    def close(self) -> None:
        """Drop the tables, and close all connections."""
        Base.metadata.drop_all(self.engine)
        self.engine.dispose()


def transactions_by_hand(engine: Engine) -> None:
    """Let SQLite begin transactions where SQLAlchemy does: the driver's own way knows no savepoints."""

    def connect(raw: Any, record: object) -> None:
        raw.isolation_level = None
        raw.execute("PRAGMA journal_mode=WAL")

    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)


def open_store(kind: str, request: pytest.FixtureRequest, folder: Path) -> Store:
    """A store of one kind: "sqlite", "postgresql", "postgresql+psycopg" (async by psycopg too), or "mariadb"."""
    if kind == "sqlite":
        return Store(f"sqlite:///{folder}/shop.db", f"sqlite+aiosqlite:///{folder}/shop.db")
    if kind == "mariadb":
        url = request.getfixturevalue("mariadb_server").url.replace("mysql:", "mysql+pymysql:")
        return Store(url, "")
    url = request.getfixturevalue("postgres_server").url.replace("postgresql:", "postgresql+psycopg:")
    return Store(url, url if kind.endswith("psycopg") else url.replace("+psycopg", "+asyncpg"))


def elsewhere(fn: Callable[..., T], *args: Any) -> T:
    """What `fn` returns in another thread, which is inside of nothing."""
    answer: list[T] = []
    thread = threading.Thread(target=lambda: answer.append(fn(*args)))
    thread.start()
    thread.join()
    return answer[0]


class SqlShop:
    """Cached reads and decorated writes of users.

    Args:
        store: where they are.
        make_cache: a new Cache on the same entries, as another process has it; in memory always the same.
        bound: whether the sessions are bound.
    """

    def __init__(self, store: Store, make_cache: Callable[[], Cache], bound: bool, **options: Any) -> None:
        self.store, self.bound = store, bound
        self.cache, self.other = make_cache(), make_cache()
        self.sessions: sessionmaker[Session] = sessionmaker(store.engine)
        self.loads = 0
        if bound:
            bind(self.sessions, self.cache, **options)
        self.get = self.reader(self.cache)
        self._get_elsewhere = self.reader(self.other)
        self.get_by: Any = self.cache.cached("user:{user_id}")(_name)
        self.rename: Any = self.cache.invalidates("user:{user_id}")(_rename)

    def reader(self, cache: Cache) -> Any:
        """A cached function that reads over a connection of its own: what is committed."""

        def get(user_id: int) -> str | None:
            self.loads += 1
            with self.store.engine.connect() as connection:
                return _name(connection, user_id)

        return cache.cached("user:{user_id}")(get)

    def seen(self, user_id: int = 1) -> str | None:
        """What another thread, or on a server another process, is told."""
        return elsewhere(self._get_elsewhere, user_id)

    def stored(self, user_id: int = 1) -> str | None:
        """What is committed."""
        with self.store.engine.connect() as connection:
            return _name(connection, user_id)

    def close(self) -> None:
        """Close all but the store."""
        self.cache.close()
        self.other.close()


def _name(session: Any, user_id: int) -> str | None:
    name: str | None = session.execute(text("SELECT name FROM users WHERE id = :id"), {"id": user_id}).scalar()
    return name


def _rename(session: Any, user_id: int, name: str) -> str:
    session.execute(text("UPDATE users SET name = :name WHERE id = :id"), {"id": user_id, "name": name})
    return name


def memory_engine() -> Engine:
    """A database in memory, with the tables."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    return engine
