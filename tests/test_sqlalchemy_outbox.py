"""Bound sessions with an outbox: the keys stand in the database with the write, and are gone once delivered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sql_shop import SqlShop, User, open_store
from sqlalchemy import MetaData, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from cacheside import Cache
from cacheside.integrations.sqlalchemy import bind
from cacheside.outbox import Outbox


class OutboxShop(SqlShop):
    """A bound shop with an outbox, whose rows it can show."""

    outbox: Outbox

    def rows(self) -> list[list[str]]:
        """The keys of each committed row, as texts."""
        with self.store.engine.connect() as connection:
            found = connection.execute(text("SELECT entries FROM cacheside_outbox")).scalars()
            return sorted(json.loads(each) for each in found)


@pytest.fixture(
    params=[
        pytest.param("sqlite", marks=pytest.mark.server),
        pytest.param("postgresql", marks=pytest.mark.server),
        pytest.param("mariadb", marks=pytest.mark.server),
    ]
)
def shop(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[OutboxShop]:
    """One, on Redis."""
    url = request.getfixturevalue("redis_server").url
    store = open_store(request.param, request, tmp_path)
    made = OutboxShop(store, lambda: Cache(url, namespace=namespace, timeout=5), bound=False)
    made.outbox = Outbox(made.cache, notify=False)
    metadata = MetaData()
    made.outbox.sqlalchemy_table(metadata)
    metadata.drop_all(store.engine)
    metadata.create_all(store.engine)
    bind(made.sessions, made.cache, outbox=made.outbox, tables={User: lambda user: [f"row:{user.id}"]})
    yield made
    assert made.cache._core.held.counts == {}
    made.close()
    metadata.drop_all(store.engine)
    store.close()


def at_commit(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Filled by the next commit of a session with the rows that are there before anything is delivered."""
    from cacheside import telling

    seen: list[list[str]] = []
    deliver = telling.deliver

    def look(deliveries: Any) -> Any:
        now = list(deliveries)
        if now:
            seen.extend(shop.rows())
        return deliver(now)

    monkeypatch.setattr(telling, "deliver", look)
    return seen


def test_recorded_and_removed(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between commit and delivery all keys stand in the table: of writes, of rows flushed by the commit, and tags."""
    seen = at_commit(shop, monkeypatch)
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        session.execute(update(User).where(User.id == 3).values(name="new"))
        session.get_one(User, 2).name = "new"
        shop.cache.invalidate("other")
        assert shop.rows() == seen == []
        session.commit()
    assert sorted(key for row in seen for key in row) == ["%tag:table:users", "other", "row:2", "user:1"]
    assert shop.rows() == []


def test_one_row_for_one_flush(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the flush of the commit writes makes one row."""
    seen = at_commit(shop, monkeypatch)
    with shop.sessions.begin() as session:
        session.add(User(id=8, name="new"))
        shop.cache.invalidate("other")
    assert [sorted(row) for row in seen] == [["other", "row:8"]]


def test_rolled_back(shop: OutboxShop) -> None:
    """A rollback leaves no row, of the whole or of a savepoint."""
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        with session.begin_nested() as savepoint:
            shop.rename(session, 2, "new")
            savepoint.rollback()
        session.rollback()
    assert shop.rows() == []


def test_rolled_back_savepoint(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rolled-back savepoint held is not recorded; a released one hands over what it has."""
    seen = at_commit(shop, monkeypatch)
    with shop.sessions() as session:
        with session.begin_nested() as savepoint:
            shop.rename(session, 1, "new")
            savepoint.rollback()
        with session.begin_nested():
            shop.rename(session, 2, "new")
        session.commit()
    assert seen == [["user:2"]]


def test_savepoint_that_fails(shop: OutboxShop) -> None:
    """After a savepoint whose commit failed nothing is recorded before the commit of the whole."""
    with shop.sessions() as session:
        savepoint = session.begin_nested()
        session.add(User(id=1, name="again"))
        with pytest.raises(IntegrityError):
            savepoint.commit()
        savepoint.rollback()
        shop.rename(session, 2, "new")
        session.add(User(id=8, name="new"))
        session.flush()
        assert session.scalar(text("SELECT count(*) FROM cacheside_outbox")) == 0
        session.commit()
    assert shop.rows() == []


def test_savepoint_still_open(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of the whole ends open savepoints; what they held is recorded too."""
    seen = at_commit(shop, monkeypatch)
    with shop.sessions() as session, session.begin() as whole:
        shop.rename(session, 1, "new")
        session.begin_nested()
        shop.rename(session, 2, "new")
        whole.commit()
    assert [sorted(row) for row in seen] == [["user:1", "user:2"]]


def test_commit_inside_a_write(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of a write that commits inside itself are recorded by that commit."""
    seen = at_commit(shop, monkeypatch)

    @shop.cache.invalidates("user:{user_id}")
    def rename(session: Session, user_id: int, name: str) -> None:
        session.get_one(User, user_id).name = name
        session.commit()

    with shop.sessions() as session:
        rename(session, 1, "new")
    assert [sorted(row) for row in seen] == [["row:1", "user:1"]]
    assert shop.rows() == []


def test_commit_inside_a_block(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block inside the transaction holds is recorded by a commit inside the block, and delivered with it."""
    seen = at_commit(shop, monkeypatch)
    with shop.sessions() as session:
        session.execute(select(User))
        with shop.cache.transaction():
            shop.rename(session, 1, "new")
            assert shop.seen() == "old"
            session.commit()
            assert seen == [["user:1"]]
            assert shop.seen() == "new"
    assert shop.rows() == []


@pytest.mark.server
@pytest.mark.parametrize("shop", ["postgresql", "mariadb"], indirect=True)
def test_two_phases(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """In two phases the keys are prepared with the write."""
    seen = at_commit(shop, monkeypatch)
    with shop.sessions(twophase=True) as session:
        shop.rename(session, 1, "new")
        session.prepare()
        assert shop.rows() == seen == []
        session.commit()
    assert seen == [["user:1"]]
    assert shop.rows() == []


def test_read_only(shop: OutboxShop) -> None:
    """A transaction that wrote nothing records nothing: it may be on a replica that takes no writes."""
    with shop.sessions() as session:
        session.execute(select(User))
        shop.cache.invalidate("user:1")
        session.commit()
        assert shop.cache.stats().held == 1
    assert shop.rows() == []


def test_cache_that_is_down(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the delivery fails the row stays, for a relay."""
    from cacheside.errors import CacheUnavailable

    def invalidate(keys: Any) -> None:
        raise CacheUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(shop.cache._core.backend, "invalidate", invalidate)
        with shop.sessions() as session:
            shop.rename(session, 1, "new")
            session.commit()
    assert shop.rows() == [["user:1"]]
    assert shop.cache.stats().pending == 1


def test_row_that_cannot_be_removed(
    shop: OutboxShop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be removed stays, and is logged; the write has been done."""
    monkeypatch.setattr(shop.outbox, "delete_sql", "DELETE FROM nowhere WHERE id = :id")
    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        session.commit()
    assert shop.rows() == [["user:1"]]
    assert shop.seen() == "new"
    assert "left to the relay" in caplog.text


def test_commit_whose_end_is_not_known(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the commit raised but was real its row stays: a relay sees it, and delivers once more."""
    dialect = shop.store.engine.dialect
    commit = dialect.do_commit

    def lose_the_answer(connection: Any) -> None:
        commit(connection)
        raise OperationalError("COMMIT", {}, Exception("connection lost"))

    with shop.sessions() as session:
        shop.rename(session, 1, "new")
        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", lose_the_answer)
            with pytest.raises(OperationalError):
                session.commit()
    assert shop.rows() == [["user:1"]]
    assert shop.seen() == "new"


def test_relay(shop: OutboxShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay takes what is left, whatever process left it."""
    test_cache_that_is_down(shop, monkeypatch)
    other = Cache(shop.cache._core.label, namespace=shop.cache.namespace)
    with other:
        Outbox(other, notify=False).relay(shop.store.engine, delay=0).run(once=True)
    assert shop.rows() == []


@pytest.mark.server
@pytest.mark.parametrize("shop", ["sqlite", "postgresql"], indirect=True)
def test_async(shop: OutboxShop) -> None:
    """An AsyncSession records and removes as a Session does."""

    async def main() -> None:
        engine = create_async_engine(shop.store.aurl)
        sessions = async_sessionmaker(engine)
        bind(sessions, shop.cache, outbox=shop.outbox)
        rename = shop.cache.invalidates("user:{user_id}")(_arename)
        async with sessions() as session:
            await rename(session, 1, "new")
            await session.commit()
        assert shop.rows() == []
        async with sessions() as session:
            await rename(session, 1, "newer")
            await session.rollback()
        assert shop.rows() == []
        await engine.dispose()
        await shop.cache.aclose()

    asyncio.run(main())
    assert shop.seen() == "new"


async def _arename(session: Any, user_id: int, name: str) -> None:
    await session.execute(update(User).where(User.id == user_id).values(name=name))
