"""SQLAlchemy sessions that are bound, in corners: rows that they have, several sessions, connections that are lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sql_shop import SqlShop, User, elsewhere, open_store
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from cacheside import Cache
from cacheside.integrations.sqlalchemy import bind


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlShop]:
    """A bound shop on SQLite and memory."""
    store = open_store("sqlite", request, tmp_path)
    cache = Cache("memory://")
    made = SqlShop(store, lambda: cache, bound=True)
    yield made
    assert cache._core.held.counts == {}
    made.close()
    store.close()


# What is loaded by a session that has written.


def by_identity(session: Session, user_id: int) -> str:
    """By a row that the session has already: no statement is sent."""
    return session.get_one(User, user_id).name


def without_autoflush(session: Session, user_id: int) -> str:
    """By a statement that finds the row which the session has already, as it was changed."""
    with session.no_autoflush:
        return session.execute(select(User).where(User.id == user_id)).scalar_one().name


@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "pending"])
@pytest.mark.parametrize("load", [by_identity, without_autoflush])
def test_rows_that_a_session_has(shop: SqlShop, load: Callable[[Session, int], str], flushed: bool) -> None:
    """What was changed past any decorator is not cached by a load that sends no statement after the write."""
    get_by: Any = shop.cache.cached("user:{user_id}")(load)
    engine = create_engine(shop.store.engine.url, isolation_level="READ UNCOMMITTED")  # by which no snapshot is read
    with shop.sessions(bind=engine) as session:
        row = session.get_one(User, 1)
        row.name = "new"
        if flushed:
            session.flush()
        assert get_by(session, 1) == "new"
        assert get_by.cache_info().currsize == 0
        session.rollback()
    assert shop.seen() == "old"
    engine.dispose()


class Users:
    """A service."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def name(self, user_id: int) -> str:
        """By a row."""
        return by_identity(self.session, user_id)


def names(session: Session, user_ids: list[int]) -> dict[int, str]:
    """Of several."""
    return {user_id: by_identity(session, user_id) for user_id in user_ids}


@pytest.mark.parametrize("flushed", [True, False], ids=["flushed", "pending"])
@pytest.mark.parametrize("by", ["argument", "keyword", "service", "tagged", "batch", "set"])
def test_rows_changed_elsewhere(shop: SqlShop, by: str, flushed: bool) -> None:
    """The same in a context that has not used the session yet: it is inside as soon as a load is given the session.

    (As where a dependency that a web framework calls in a thread has changed a row, or a task that was waited for.)
    """
    get_by: Any = shop.cache.cached("user:{user_id}", tags=("users",) if by == "tagged" else ())(by_identity)
    get_many: Any = shop.cache.cached_many("user:{user_id}", ignore=("session",))(names)
    get_of: Any = shop.cache.cached("user:{user_id}")(Users.name)
    ways: dict[str, Callable[[Session], object]] = {
        "argument": lambda session: get_by(session, 1),
        "keyword": lambda session: get_by(user_id=1, session=session),
        "service": lambda session: get_of(Users(session), 1),
        "tagged": lambda session: get_by(session, 1),
        "batch": lambda session: get_many(session, [1])[1],
        "set": lambda session: "new" if not get_by.set("new", session, 1) else "put in",
    }

    def change(session: Session) -> User:
        row = session.get_one(User, 1)
        row.name = "new"
        if flushed:
            session.flush()
        return row  # the session itself does not keep it

    with shop.sessions() as session:
        row = elsewhere(change, session)
        assert ways[by](session) == row.name == "new"
        assert get_by.cache_info().currsize == 0
        session.rollback()
    assert shop.seen() == "old"


def test_reads_of_a_clean_session(shop: SqlShop) -> None:
    """The control: one that has changed nothing fills, by its rows as well."""
    get_by: Any = shop.cache.cached("user:{user_id}")(by_identity)
    with shop.sessions() as session:
        row = session.get_one(User, 1)
        assert get_by(session, 1) == row.name == "old"
    assert get_by.cache_info().currsize == 1


def test_replica_that_commits_by_itself(shop: SqlShop) -> None:
    """A session of which one connection commits each statement has not committed what it writes by the other."""
    primary = create_engine(shop.store.engine.url, isolation_level="READ UNCOMMITTED")  # by which no snapshot is read
    replica = create_engine(shop.store.engine.url, isolation_level="AUTOCOMMIT")

    class Routed(Session):
        reads = False

        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            return replica if self.reads else primary

    sessions = sessionmaker(class_=Routed)
    bind(sessions, shop.cache)
    with sessions() as session:
        session.reads = True
        session.execute(text("SELECT 1"))
        session.reads = False
        session.execute(text("UPDATE users SET name = 'new'"))
        assert shop.get_by(session, 1) == "new"
        session.rollback()
    assert shop.seen() == "old"
    primary.dispose()
    replica.dispose()


def test_commit_by_hand(shop: SqlShop) -> None:
    """A COMMIT sent as a statement is a commit: what was held is delivered, though the session rolls back."""
    shop.seen()
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        session.execute(text("COMMIT"))
    assert shop.seen() == "new"


# One write that two sessions hold, of which each may have made it.


@pytest.mark.parametrize("order", ["writer last", "writer first"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_guard_that_two_sessions_hold(shop: SqlShop, order: str, ending: str) -> None:
    """The guard of a strict write stands until the last of them has ended, and is taken back by that one."""

    @shop.cache.invalidates("user:{user_id}", strict=True)
    def rename(session: Session, user_id: int, name: str, other: Session) -> None:
        session.execute(text("UPDATE users SET name = :name WHERE id = :id"), {"name": name, "id": user_id})

    shop.seen()
    first, second = shop.sessions(), shop.sessions()
    first.add(User(id=99, name="pending"))  # so that it may have been the one
    rename(second, 1, "new", first)
    ends = [first.rollback, getattr(second, ending)]
    if order == "writer first":
        ends.reverse()
    ends[0]()
    loads = shop.loads
    shop.seen()
    shop.seen()
    assert shop.loads == loads + 2  # guarded
    ends[1]()
    assert shop.seen() == shop.seen() == ("new" if ending == "commit" else "old")
    assert shop.loads == loads + 3
    assert shop.cache.stats().guards_lost == 0


def test_value_that_two_sessions_hold(shop: SqlShop) -> None:
    """The value of an update is put in by neither: the first may commit what the second rolls back."""

    @shop.cache.updates(shop.get)
    def rename(session: Session, user_id: int, name: str, other: Session) -> str:
        session.execute(text("UPDATE users SET name = :name WHERE id = :id"), {"name": name, "id": user_id})
        return name

    first, second = shop.sessions(), shop.sessions()
    first.add(User(id=99, name="pending"))
    second.execute(text("SELECT 1"))
    rename(second, 1, "new", first)
    first.expunge_all()
    first.commit()
    assert shop.seen() == "old"
    second.rollback()
    assert shop.seen() == "old"
    assert shop.cache.stats().updates == 0


def test_guard_of_a_savepoint_and_another_session(shop: SqlShop) -> None:
    """A savepoint that has ended leaves the guard to the transaction around it."""

    @shop.cache.invalidates("user:{user_id}", strict=True)
    def rename(session: Session, user_id: int, name: str, other: Session) -> None:
        session.execute(text("UPDATE users SET name = :name WHERE id = :id"), {"name": name, "id": user_id})

    first, second = shop.sessions(), shop.sessions()
    first.execute(text("SELECT 1"))
    with second.begin_nested():
        rename(second, 1, "new", first)
    first.commit()
    loads = shop.loads
    shop.seen()
    shop.seen()
    assert shop.loads == loads + 2
    second.commit()
    assert shop.seen() == "new"
    assert shop.cache.stats().guards_lost == 0


# Ends that are not told, or cannot be.


def test_connection_that_is_lost_at_the_close(shop: SqlShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy tells no end of a transaction whose rollback at `close` fails: the next one of the session does."""
    shop.seen()
    dialect = shop.store.engine.dialect
    roll_back = dialect.do_rollback

    def lost(connection: Any) -> None:
        roll_back(connection)
        connection.close()
        raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    rename = shop.cache.invalidates("user:{user_id}", strict=True)(shop.rename.__wrapped__)
    session = shop.sessions()
    rename(session, 1, "lost")
    with monkeypatch.context() as patch:
        patch.setattr(dialect, "do_rollback", lost)
        with contextlib.suppress(OperationalError):
            session.close()
    rename(session, 1, "new")
    assert shop.cache._core.held.counts == {"user:1": 1}
    session.commit()
    assert shop.cache._core.held.counts == {}
    assert shop.seen() == "new"
    session.execute(text("UPDATE users SET name = 'newer'"))
    other: Any = shop.cache.cached("other:{user_id}")(shop.get_by.__wrapped__)
    assert other(session, 1) == "newer"
    session.rollback()
    assert elsewhere(other, session, 1) == "new"
    session.close()
