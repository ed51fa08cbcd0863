"""SQLAlchemy sessions that are bound: each hole of plain invalidation, shown as the control, and that it is closed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sql_shop import SqlShop, User, elsewhere, open_store
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from cacheside import Cache
from cacheside.integrations.sqlalchemy import bind

PLACES = [
    pytest.param(("sqlite", "memory"), id="sqlite-memory"),
    pytest.param(("postgresql", "redis"), id="postgresql-redis", marks=pytest.mark.server),
    pytest.param(("mariadb", "redis"), id="mariadb-redis", marks=pytest.mark.server),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database and a cache."""
    return request.param  # type: ignore[no-any-return]  # pytest types it as Any


@pytest.fixture(params=["bound", "plain"])
def way(request: pytest.FixtureRequest) -> str:
    """Bound sessions, and the control."""
    return str(request.param)


def open_shop(
    place: tuple[str, str], bound: bool, request: pytest.FixtureRequest, folder: Path, namespace: str, **options: Any
) -> Iterator[SqlShop]:
    """A shop in a place."""
    database, kind = place
    store = open_store(database, request, folder)
    memory = Cache("memory://")

    def make() -> Cache:
        if kind == "memory":
            return memory
        return Cache(request.getfixturevalue("redis_server").url, namespace=namespace, timeout=5)

    made = SqlShop(store, make, bound, **options)
    yield made
    assert made.cache._core.held.counts == {}
    made.close()
    store.close()


@pytest.fixture
def shop(
    place: tuple[str, str], way: str, request: pytest.FixtureRequest, tmp_path: Path, namespace: str
) -> Iterator[SqlShop]:
    """A shop, bound and not."""
    yield from open_shop(place, way == "bound", request, tmp_path, namespace)


@pytest.fixture
def bound(place: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[SqlShop]:
    """A bound shop."""
    yield from open_shop(place, True, request, tmp_path, namespace)


@pytest.fixture
def small(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[SqlShop]:
    """A bound shop on SQLite and memory, for what no database or cache makes a difference to."""
    yield from open_shop(("sqlite", "memory"), True, request, tmp_path, namespace)


# The holes, each with its control.


def test_invalidated_before_the_commit(shop: SqlShop) -> None:
    """A reader between the write and the commit leaves no old value behind; with plain invalidation it does."""
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        assert shop.seen() == "old"
        session.commit()
        assert shop.seen() == ("new" if shop.bound else "old")


def test_rollback(shop: SqlShop) -> None:
    """A write that was rolled back drops nothing; plain invalidation has dropped the entry."""
    shop.seen()
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        session.rollback()
    assert shop.seen() == "old"
    assert shop.loads == (1 if shop.bound else 2)
    assert shop.cache.stats().rolled_back == (1 if shop.bound else 0)


def test_rollback_of_what_was_read(shop: SqlShop) -> None:
    """What a transaction reads of its own writes is not cached; else others get what was never committed."""
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        assert shop.get_by(session, 1) == "new"
        assert shop.seen() == ("old" if shop.bound else "new")
        session.rollback()
    assert shop.seen() == ("old" if shop.bound else "new")
    assert shop.stored() == "old"


def test_rollback_of_what_nobody_was_told_of(shop: SqlShop) -> None:
    """The same goes for what it has written past any decorator."""
    with shop.sessions() as session:
        session.execute(update(User).where(User.id == 1).values(name="new"))
        assert shop.get_by(session, 1) == "new"
        assert shop.get_by.cache_info().bypassed == (1 if shop.bound else 0)
        session.rollback()
    assert shop.seen() == ("old" if shop.bound else "new")


def test_rollback_of_a_savepoint(shop: SqlShop) -> None:
    """A savepoint that is rolled back drops its own invalidations and no other's; a released one keeps them."""
    for user_id in (1, 2, 3):
        shop.seen(user_id)
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        savepoint = session.begin_nested()
        shop.rename(session, 2, "new")
        savepoint.rollback()
        with session.begin_nested():
            shop.rename(session, 3, "new")
        for user_id in (1, 2, 3):
            assert shop.seen(user_id) == "old"
        loads = shop.loads
        session.commit()
    assert [shop.seen(user_id) for user_id in (1, 2, 3)] == (["new", "old", "new"] if shop.bound else ["old"] * 3)
    assert shop.loads - loads == (2 if shop.bound else 0)


def test_exception_after_a_flush(shop: SqlShop) -> None:
    """An error after the write was flushed rolls back; what it had read by then is not left in the cache."""

    def fail() -> None:
        with shop.sessions.begin() as session:
            shop.rename(session, 1, "new")
            shop.get_by(session, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shop.seen() == ("old" if shop.bound else "new")


def test_two_sessions(shop: SqlShop) -> None:
    """Each of two sessions in one context delivers at its own commit, whatever becomes of the other."""
    # Of different tables: SQLite lets only one write at a time, so the first has not flushed yet.
    with shop.sessions() as first, shop.sessions() as second:
        first.add(User(id=7, name="new"))
        shop.rename(second, 1, "new")
        assert shop.seen() == "old"
        second.commit()
        assert shop.seen() == ("new" if shop.bound else "old")
        first.rollback()
    assert shop.seen() == ("new" if shop.bound else "old")


def test_read_inside_the_transaction(shop: SqlShop) -> None:
    """A transaction reads what it has written, though the old value is cached by others meanwhile."""
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        assert shop.seen() == "old"
        assert shop.get_by(session, 1) == ("new" if shop.bound else "old")
        session.rollback()


@pytest.mark.parametrize(
    "place",
    [
        ("sqlite", "memory"),
        pytest.param(("postgresql", "redis"), marks=pytest.mark.server),
        pytest.param(("mariadb", "redis"), marks=pytest.mark.server),
    ],
    ids=str,
)
def test_old_snapshot(shop: SqlShop, caplog: pytest.LogCaptureFixture) -> None:
    """What a transaction loads from a snapshot older than a write is not left in the cache; else it is.

    MariaDB and SQLite read from snapshots unless told otherwise. The log says once how to keep what is loaded.
    """
    engine = shop.store.engine
    if engine.dialect.name == "postgresql":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with shop.sessions(bind=engine) as reader, shop.sessions() as writer:
        reader.execute(select(User).where(User.id == 2))
        shop.rename(writer, 1, "new")
        writer.commit()
        if not shop.bound:
            shop.cache.invalidate("user:1")  # so that this hole is all there is
        assert elsewhere(shop.get_by, reader, 1) == "old"
        assert shop.get_by.cache_info().bypassed == (1 if shop.bound else 0)
        assert elsewhere(shop.get_by, reader, 2) == "old"
    assert shop.seen() == ("new" if shop.bound else "old")
    assert caplog.text.count("READ COMMITTED") == (1 if shop.bound else 0)


# How transactions end.


def test_commit_that_fails_but_is_real(bound: SqlShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that raised may have arrived: its invalidations are delivered."""
    dialect = bound.store.engine.dialect
    commit = dialect.do_commit

    def lose_the_answer(connection: Any) -> None:
        commit(connection)
        raise OperationalError("COMMIT", {}, Exception("connection lost"))

    with bound.sessions() as session:
        bound.rename(session, 1, "new")
        assert bound.seen() == "old"
        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", lose_the_answer)
            with pytest.raises(OperationalError):
                session.commit()
        session.rollback()
        assert bound.seen() == "new"


@pytest.mark.parametrize("real", [True, False], ids=["real", "refused"])
def test_update_whose_commit_fails(bound: SqlShop, monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    """The value of an update is not put in if the commit raised: the database may have refused it."""
    rename = bound.cache.updates(bound.get)(bound.rename.__wrapped__)
    dialect = bound.store.engine.dialect
    end = dialect.do_commit if real else dialect.do_rollback

    def fail(connection: Any) -> None:
        end(connection)
        raise OperationalError("COMMIT", {}, Exception("lost, or could not serialize access"))

    with bound.sessions() as session:
        rename(session, 1, "new")
        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", fail)
            with pytest.raises(OperationalError):
                session.commit()
        session.rollback()
    assert bound.seen() == bound.seen() == ("new" if real else "old")
    assert (bound.cache.stats().updates, bound.loads) == (0, 1)


def test_commit_whose_flush_fails(bound: SqlShop) -> None:
    """If the flush of a commit fails no COMMIT was tried: what is held is dropped with the rollback."""
    bound.seen()
    with bound.sessions() as session:
        bound.rename(session, 1, "new")
        session.add(User(id=2, name="again"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
    assert bound.seen() == "old"
    assert bound.loads == 1
    assert bound.cache.stats().rolled_back == 1


def test_close_without_commit(bound: SqlShop) -> None:
    """A session that is closed in a transaction has rolled it back."""
    bound.seen()
    session = bound.sessions()
    bound.rename(session, 1, "new")
    session.close()
    assert bound.seen() == "old"
    assert bound.loads == 1


def test_collected_as_garbage(small: SqlShop) -> None:
    """A session that was never closed holds nothing any more once it is collected, and is in nobody's way."""
    small.seen()
    session = small.sessions()
    small.rename(session, 1, "new")
    assert small.cache._core.held.counts == {"user:1": 1}
    del session
    gc.collect()
    with small.sessions() as session:
        session.execute(select(User))
    assert small.cache._core.held.counts == {}
    assert small.get(1) == small.seen() == "old"
    assert small.loads == 1


def test_collected_with_a_guard(small: SqlShop) -> None:
    """The mark of a strict write of such a session is taken back."""
    rename = small.cache.invalidates("user:{user_id}", strict=True)(small.rename.__wrapped__)
    session = small.sessions()
    rename(session, 1, "new")
    del session
    gc.collect()
    with small.sessions() as session:
        session.execute(select(User))
    for _ in range(3):
        small.seen()
    assert small.loads <= 2


def test_savepoint_still_open_at_the_commit(bound: SqlShop) -> None:
    """What was written in a savepoint that the commit of the whole ends is delivered with it."""
    with bound.sessions() as session:
        with session.begin() as whole:
            bound.rename(session, 1, "new")
            session.begin_nested()
            bound.rename(session, 2, "new")
            assert (bound.seen(1), bound.seen(2)) == ("old", "old")
            whole.commit()
        assert (bound.seen(1), bound.seen(2)) == ("new", "new")


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(("postgresql", "redis"), marks=pytest.mark.server),
        pytest.param(("mariadb", "redis"), marks=pytest.mark.server),
    ],
    ids=str,
)
@pytest.mark.parametrize("prepare", [False, True])
def test_two_phases(bound: SqlShop, prepare: bool) -> None:
    """A commit in two phases delivers after the second; what was prepared and then rolled back is dropped."""
    bound.sessions.configure(twophase=True)
    for ending in ("rollback", "commit"):
        with bound.sessions() as session:
            bound.rename(session, 1, "new")
            assert bound.seen() == "old"
            loads = bound.loads
            if prepare:
                session.prepare()
                assert bound.seen() == "old"
            getattr(session, ending)()
        assert bound.seen() == ("new" if ending == "commit" else "old")
        assert bound.loads - loads == (1 if ending == "commit" else 0)


def test_statements_that_commit_by_themselves(bound: SqlShop) -> None:
    """Where each statement commits by itself a rollback takes nothing back: invalidations are delivered at once."""
    bound.seen()
    engine = bound.store.engine.execution_options(isolation_level="AUTOCOMMIT")
    with bound.sessions(bind=engine) as session:
        bound.rename(session, 1, "new")
        assert bound.seen() == "new"
        session.rollback()
    assert bound.seen() == "new"


# What is inside a transaction.


def test_load_that_a_snapshot_begins_with(bound: SqlShop) -> None:
    """A load by the first statement of a transaction is filled: its lease is older than the snapshot."""
    with bound.sessions() as session:
        assert bound.get_by(session, 1) == "old"
        assert bound.get_by(session, 1) == bound.seen() == "old"
        assert (bound.loads, bound.get_by.cache_info().loads) == (0, 1)


def test_load_without_a_snapshot(bound: SqlShop) -> None:
    """Where each statement sees what is committed, all loads are filled."""
    if bound.store.engine.dialect.name == "sqlite":
        engine = create_engine(bound.store.url)  # its driver begins no transaction before a write
    else:
        engine = bound.store.engine.execution_options(isolation_level="READ COMMITTED")
    with bound.sessions(bind=engine) as session:
        session.execute(select(User))
        assert bound.get_by(session, 1) == bound.seen() == "old"
        assert bound.loads == 0
    engine.dispose()


def test_session_that_only_reads(bound: SqlShop) -> None:
    """A write over another connection is told at once, while a session is open that has only read."""

    @bound.cache.invalidates("user:{user_id}")
    def rename(user_id: int, name: str) -> None:
        with bound.store.engine.begin() as connection:
            bound.rename.__wrapped__(connection, user_id, name)

    bound.seen()
    with bound.sessions() as session:
        session.execute(select(User).where(User.id == 3))
        session.commit()  # SQLite and MariaDB: else it would hold on to its snapshot
        session.execute(select(1))
        rename(1, "new")
        assert bound.seen() == "new"


def test_write_that_begins_the_transaction(bound: SqlShop) -> None:
    """A transaction that begins inside a write function, and is committed after it, holds its invalidation."""

    @bound.cache.invalidates("user:{user_id}")
    def rename(user_id: int, name: str) -> Session:
        session = bound.sessions()
        bound.rename.__wrapped__(session, user_id, name)
        return session

    with rename(1, "new") as session:
        assert bound.seen() == "old"
        session.commit()
        assert bound.seen() == "new"


def test_write_that_commits_inside(bound: SqlShop) -> None:
    """What a write is going to tell is told at a commit inside it already, though it goes on; and at its end again."""

    @bound.cache.invalidates("user:{user_id}")
    def rename(session: Session, user_id: int, name: str) -> str:
        user = session.get_one(User, user_id)
        user.name = name
        session.flush()
        assert bound.seen() == "old"
        session.commit()
        told.append(bound.seen())
        session.refresh(user)
        return user.name

    told: list[str | None] = []
    with bound.sessions() as session:
        assert rename(session, 1, "new") == "new"
        assert told == ["new"]
        assert bound.cache.stats().invalidations == 2
        assert bound.seen() == "new"


def test_transaction_begun_elsewhere(bound: SqlShop) -> None:
    """A write finds the session among its arguments, though its transaction began in another thread."""
    with bound.sessions() as session:
        elsewhere(session.execute, select(User).where(User.id == 2))
        bound.rename(session, 1, "new")
        assert bound.seen() == "old"
        assert bound.get_by(session, 1) == "new"
        session.commit()
        assert bound.seen() == "new"


def test_write_without_a_statement(small: SqlShop) -> None:
    """A write that only changes a row, of a transaction begun elsewhere, makes this context one inside of it.

    So what it reads next comes from the store, though others have the old value.
    """
    rename: Any = small.cache.invalidates("user:{user.id}")(lambda user, name: setattr(user, "name", name))
    small.seen()
    with small.sessions() as session:
        rename(elsewhere(session.get_one, User, 1), "new")
        small.get_by(session, 1)
        assert small.get_by.cache_info().hits == 0
        session.rollback()
    assert small.seen() == "old"


@pytest.mark.parametrize("by", ["statement", "flush"])
def test_context_that_uses_the_session(small: SqlShop, by: str) -> None:
    """Who executes or flushes by a session whose transaction began elsewhere is inside it, without any decorator.

    What it invalidates without naming the session may be none of its: it waits for the commit, and is told at once too.
    """
    with small.sessions() as session:
        user = elsewhere(session.get_one, User, 1)
        if by == "statement":
            session.execute(update(User).values(name="new"))
        else:
            user.name = "new"
            session.flush()
        small.cache.invalidate("user:1")
        assert small.cache.stats().invalidations == 1
        assert small.get_by(session, 1) == "new"
        assert small.seen() == "old"
        session.commit()
    assert small.cache.stats().invalidations == 2
    assert small.seen() == "new"


@pytest.mark.parametrize("nested", [False, True])
def test_write_in_a_context_that_uses_the_session(small: SqlShop, nested: bool) -> None:
    """What names the session there waits for its commit alone, and the value of an update goes in then."""
    update_name = small.cache.updates(small.get)(small.rename.__wrapped__)
    with small.sessions() as session:
        elsewhere(session.execute, select(User))
        savepoint = elsewhere(session.begin_nested) if nested else None
        session.execute(text("SELECT 1"))
        small.rename(session, 1, "new")
        update_name(session, 2, "new")
        assert small.cache.stats().invalidations == 0
        if savepoint is not None:
            savepoint.commit()
        session.commit()
    assert (small.cache.stats().invalidations, small.cache.stats().updates) == (1, 1)
    assert (small.seen(1), small.seen(2), small.loads) == ("new", "new", 1)


@pytest.mark.parametrize("joined", ["statement", "load", "write"])
def test_later_job_of_a_pool_thread(small: SqlShop, joined: str) -> None:
    """A job in a thread that has used a session, which is still open, is not held up by it: it may have none itself."""
    rows = {"one": "old"}
    get = small.cache.cached("one")(lambda: rows["one"])
    put: Any = small.cache.invalidates("one")(lambda name: rows.update(one=name))
    jobs: dict[str, Any] = {
        "statement": lambda session: session.execute(text("SELECT 1")),
        "load": lambda session: small.get_by(session, 2),
        "write": lambda session: small.rename(session, 1, "never"),
    }
    get()
    with ThreadPoolExecutor(1) as pool, small.sessions() as session:
        session.execute(update(User).values(name="never"))
        pool.submit(jobs[joined], session).result()
        pool.submit(put, "new").result()
        assert elsewhere(get) == "new"
        session.rollback()
    assert get() == "new"


class Users:
    """A service."""

    cache = Cache("memory://")

    def __init__(self, session: Any) -> None:
        self.session = session

    @cache.invalidates("user:{user_id}")
    def rename(self, user_id: int, name: str) -> None:
        """A write that has no session among its arguments."""
        self.session.get_one(User, user_id).name = name
        self.session.flush()

    @staticmethod
    @cache.invalidates("user:{user.id}")
    def upgrade(user: User) -> None:
        """A write that has a row."""


def test_session_of_a_service_or_a_row(small: SqlShop) -> None:
    """The session is found as an attribute of the object whose method the write is, and by a row of it."""
    bind(small.sessions, Users.cache)
    for by in ("service", "row"):
        with small.sessions() as session:
            user = elsewhere(session.get_one, User, 1)
            if by == "service":
                elsewhere(Users(session).rename, 1, "new")
            else:
                elsewhere(Users.upgrade, user)
            assert Users.cache._core.held.counts == {"user:1": 1}
            session.commit()
            assert Users.cache._core.held.counts == {}


def test_transaction_block_around(bound: SqlShop) -> None:
    """A session that joins the transaction of a Connection commits nothing by itself; put a block around both."""
    with bound.store.engine.connect() as connection, bound.cache.transaction():
        with (
            connection.begin(),
            bound.sessions(bind=connection, join_transaction_mode="create_savepoint") as session,
        ):
            bound.rename(session, 1, "new")
            session.commit()
            assert bound.seen() == "old"
        assert bound.stored() == "new"
        assert bound.seen() == "old"
    assert bound.seen() == "new"


def test_block_with_a_session_inside(small: SqlShop) -> None:
    """What a block has held from before a session began in it waits for the end of the block."""
    with small.cache.transaction():
        small.cache.invalidate("user:2")
        with small.sessions.begin() as session:
            small.rename(session, 1, "new")
        assert small.cache.stats().invalidations == 1  # that of the session, which is committed
    assert small.cache.stats().invalidations == 3


def test_joined_transaction_without_a_block(bound: SqlShop) -> None:
    """Without such a block it is delivered at the commit of the session, as test suites need it."""
    bound.seen()
    with bound.store.engine.connect() as connection:
        outer = connection.begin()
        with bound.sessions(bind=connection, join_transaction_mode="create_savepoint") as session:
            bound.rename(session, 1, "new")
            session.commit()
            assert bound.cache.stats().invalidations == 1
        outer.rollback()
    assert bound.seen() == "old"


def test_block_inside_another_session(bound: SqlShop) -> None:
    """What a session has committed is told, though a block around it is inside a session that rolls back."""
    with bound.sessions() as outer:
        outer.add(User(id=7, name="new"))
        with bound.cache.transaction(), bound.sessions() as session:
            bound.rename(session, 1, "new")
            assert bound.seen() == "old"
            session.commit()
            assert bound.seen() == "new"
        outer.rollback()
    assert bound.seen() == "new"


# Strict writes, and updates.


def test_strict(bound: SqlShop) -> None:
    """The guard of a strict write stands until the commit, or the rollback: readers meanwhile fill nothing."""
    rename = bound.cache.invalidates("user:{user_id}", strict=True)(bound.rename.__wrapped__)
    for ending, after in (("rollback", "old"), ("commit", "new")):
        with bound.sessions() as session:
            rename(session, 1, "new")
            loads = bound.loads
            assert (bound.seen(), bound.seen()) == ("old", "old")
            assert bound.loads == loads + 2
            getattr(session, ending)()
            assert (bound.seen(), bound.seen()) == (after, after)
            assert bound.loads == loads + 3
    assert bound.cache.stats().guards_lost == 0


def test_updates(bound: SqlShop) -> None:
    """The value of an update is put in at the commit, and not before; a rollback leaves it out."""
    rename = bound.cache.updates(bound.get)(bound.rename.__wrapped__)
    for ending, after in (("rollback", "old"), ("commit", "new")):
        with bound.sessions() as session:
            rename(session, 1, "new")
            assert bound.seen() == "old"
            loads = bound.loads
            getattr(session, ending)()
            assert bound.seen() == after
            assert bound.loads - loads == (0 if ending == "commit" else 1)


@pytest.mark.parametrize("by", ["connection", "text", "whole"])
def test_updates_rolled_back_past_the_session(bound: SqlShop, by: str) -> None:
    """What a savepoint of the connection, or SQL of one's own, has rolled back is invalidated, with no value put in.

    The session does not know of it. A value from after it is put in.
    """
    rename = bound.cache.updates(bound.get)(bound.rename.__wrapped__)
    with bound.sessions() as session:
        if by == "connection":
            savepoint = session.connection().begin_nested()
        elif by == "text":
            session.execute(text("SAVEPOINT one"))
        with session.begin_nested():
            rename(session, 1, "never")
        if by == "connection":
            savepoint.rollback()
        else:
            session.execute(text("/* by hand */ rollback to savepoint one" if by == "text" else "ROLLBACK"))
        if by != "whole":
            rename(session, 2, "new")
        session.commit()
    assert bound.seen(1) == "old"
    assert bound.seen(2) == ("new" if by != "whole" else "old")
    assert (bound.cache.stats().updates, bound.loads) == ((1, 1) if by != "whole" else (0, 2))


def test_updates_beside_a_savepoint_of_the_session(bound: SqlShop) -> None:
    """The rollback of a savepoint of the session itself leaves out its own values only."""
    rename = bound.cache.updates(bound.get)(bound.rename.__wrapped__)
    with bound.sessions() as session:
        rename(session, 1, "new")
        savepoint = session.begin_nested()
        rename(session, 2, "never")
        savepoint.rollback()
        session.commit()
    assert (bound.seen(1), bound.seen(2)) == ("new", "old")
    assert (bound.cache.stats().updates, bound.loads) == (1, 1)


def test_updates_before_a_statement_that_fails(small: SqlShop) -> None:
    """A database may roll back the transaction with a statement that fails; a session that goes on puts no value in."""
    rename = small.cache.updates(small.get)(small.rename.__wrapped__)
    with small.sessions() as session:
        rename(session, 1, "never")
        with pytest.raises(IntegrityError):
            session.execute(text("INSERT OR ROLLBACK INTO users (id, name) VALUES (1, 'twice')"))
        rename(session, 2, "new")
        session.commit()
    assert (small.seen(1), small.seen(2)) == ("old", "new")
    assert (small.cache.stats().updates, small.loads) == (1, 1)


def test_updates_of_one_of_two_sessions(small: SqlShop) -> None:
    """The value of an update goes in at the commit of its own session, though another one has begun around it."""
    rename = small.cache.updates(small.get)(small.rename.__wrapped__)
    with small.sessions() as other:
        other.execute(select(User))
        with small.sessions.begin() as session:
            rename(session, 1, "new")
        assert small.cache.stats().updates == 1
        assert small.seen() == "new"


def test_updates_that_commit_inside(bound: SqlShop) -> None:
    """A commit inside an update leaves its value to the end of the function, and that goes in."""

    @bound.cache.updates(bound.get)
    def rename(user_id: int, name: str) -> str:
        with bound.sessions.begin() as session:
            return str(bound.rename.__wrapped__(session, user_id, name))

    rename(1, "new")
    assert bound.cache.stats().updates == 1
    assert bound.seen() == "new"
    assert bound.loads == 0


def test_tags(small: SqlShop) -> None:
    """Tags wait for the commit as keys do."""
    everybody = small.cache.cached("all", tags=("users",))(lambda: small.stored(1))
    with small.sessions() as session:
        _ = elsewhere(everybody)
        small.rename(session, 1, "new")
        small.cache.invalidate(tags=["users"])
        assert elsewhere(everybody) == "old"
        session.commit()
        assert elsewhere(everybody) == "new"


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        ("SELECT update FROM users", False),
        ("  (select 1) union select 2", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a FOR UPDATE OF a", False),
        ("PRAGMA foreign_keys", False),
        ("update users set name = ''", True),
        ("/* by hand */ DELETE FROM users", True),
        ("-- name: rename\n/* by */ /* hand */ UPDATE users SET name = ''", True),
        ("-- update users\nSELECT 1", False),
        ("WITH a AS (INSERT INTO users VALUES (1) RETURNING id) SELECT * FROM a", True),
        ("CALL move(1)", True),
        ("/* a *//***/ /* b ** c / */" * 100 + "SELECT 1", False),
        ("/* a *//***/ /* b ** c / */" * 100 + "DELETE FROM users", True),
    ],
)
def test_statements_that_write(statement: str, writes: bool) -> None:
    """A statement counts as a write if its text surely is one, however many comments are before it."""
    from cacheside.integrations.sqlalchemy.engines import _ENDS, _WRITES

    assert bool(_WRITES.match(statement)) == writes
    assert not _ENDS.match(statement)


def test_raw_statements(small: SqlShop) -> None:
    """Statements on the connection of a session are seen: it has written, so an invalidation waits for it alone."""
    with small.sessions() as session:
        session.connection().exec_driver_sql("UPDATE users SET name = 'new' WHERE id = 1")
        small.cache.invalidate("user:1")
        assert small.cache.stats().invalidations == 0
        session.connection().execute(text("SELECT 1"))
        session.commit()
    assert small.cache.stats().invalidations == 1
