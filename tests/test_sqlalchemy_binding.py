"""What can be bound, and that nothing else is affected by it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from sql_shop import User, memory_engine
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)  # fmt: skip
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from cacheside import Cache, ConfigurationError
from cacheside.backends.redis import RedisBackend
from cacheside.integrations.sqlalchemy import bind
from cacheside.integrations.sqlalchemy.ties import ties


class Own(Session):
    """A class of sessions."""


class AsyncOwn(AsyncSession):
    """A class of async sessions."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A database in memory."""
    made = memory_engine()
    yield made
    made.dispose()


@pytest.fixture
def aengine() -> Iterator[AsyncEngine]:
    """An async one, that nothing is executed on."""
    made = create_async_engine("sqlite+aiosqlite://")
    yield made
    asyncio.run(made.dispose())


def tied(session: Any) -> bool:
    """Whether a transaction of `session` is tied."""
    sync = session.sync_session if isinstance(session, AsyncSession) else session
    sync.begin()
    found = sync in ties
    sync.rollback()
    return found


def test_targets(engine: Engine) -> None:
    """A maker, a scoped session, a class and a session can be bound; others of the same classes are not."""
    maker = sessionmaker(engine)
    bind(maker, Cache())
    assert tied(maker())
    scoped = scoped_session(sessionmaker(engine))
    bind(scoped, Cache())
    assert tied(scoped())
    one = Session(engine)
    bind(one, Cache())
    assert tied(one)
    bind(Own, Cache())
    assert tied(Own(engine))
    assert tied(sessionmaker(engine, class_=Own)())
    assert not tied(Session(engine))
    assert not tied(sessionmaker(engine)())


def test_async_targets(aengine: AsyncEngine) -> None:
    """The same for async ones, though their makers share the class of their sync sessions."""
    maker = async_sessionmaker(aengine)
    before = maker()
    bind(maker, Cache())
    assert tied(maker())
    assert not tied(before)
    scoped = async_scoped_session(async_sessionmaker(aengine), scopefunc=lambda: 1)
    bind(scoped, Cache())
    assert tied(scoped())
    one = AsyncSession(aengine)
    bind(one, Cache())
    assert tied(one)
    bind(AsyncOwn, Cache())
    assert tied(AsyncOwn(aengine))
    assert not tied(AsyncSession(aengine))
    assert not tied(async_sessionmaker(aengine)())
    assert not tied(async_sessionmaker(aengine, sync_session_class=Session)())


def test_sync_class_of_an_async_maker(aengine: AsyncEngine) -> None:
    """Sessions keep the class that the maker was given, and what is bound to that class."""

    class Routing(Session):
        pass

    maker = async_sessionmaker(aengine, sync_session_class=Routing)
    bind(maker, Cache())
    assert isinstance(maker().sync_session, Routing)
    assert tied(maker())
    assert not tied(Routing())


@pytest.mark.parametrize("make", [sessionmaker, async_sessionmaker])
def test_twice(make: Any) -> None:
    """Binding the same once more changes nothing; with other tables it is refused; to another cache it goes."""
    maker, cache = make(), Cache()
    tables = {User: lambda user: "users"}
    for _ in range(2):
        bind(maker, cache, tables=tables)
    with pytest.raises(ConfigurationError, match="bind it once"):
        bind(maker, cache)
    bind(maker, Cache())
    session = maker()
    sync = getattr(session, "sync_session", session)
    with sync.begin():
        assert len(ties[sync].bindings) == 2


def test_class_and_session(engine: Engine) -> None:
    """A session of a bound class that is bound itself holds and delivers once."""
    cache = Cache()
    maker = sessionmaker(engine)
    bind(maker, cache)
    session = maker()
    bind(session, cache)
    with session:
        session.add(User(id=1, name="new"))
        assert len(ties[session].bindings) == 1
        with session.begin_nested():
            cache.invalidate("user:1")
        assert cache._core.held.counts == {"user:1": 1}
        session.commit()
    assert cache._core.held.counts == {}
    assert cache.stats().invalidations == 1


@pytest.mark.parametrize("target", [None, "session", scoped_session(lambda: 1)], ids=["none", "text", "of no session"])  # type: ignore[arg-type, return-value]  # that is the point
def test_what_cannot_be_bound(target: Any) -> None:
    """Anything else is refused, and the message says what can be."""
    with pytest.raises(ConfigurationError, match="takes a sessionmaker, async_sessionmaker"):
        bind(target, Cache())


def test_mistakes(engine: Engine) -> None:
    """A session in a transaction, what is no cache, and what is no outbox of the cache, are refused."""
    session = Session(engine)
    with session.begin(), pytest.raises(ConfigurationError, match="in a transaction already"):
        bind(session, Cache())
    with pytest.raises(ConfigurationError, match="to a Cache, not to"):
        bind(sessionmaker(), "memory://")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ConfigurationError, match="is an Outbox of this cache"):
        bind(sessionmaker(), Cache(), outbox="outbox")  # type: ignore[arg-type]  # that is the point


def test_nothing_is_imported() -> None:
    """`import cacheside` imports neither SQLAlchemy nor the integration."""
    code = "import sys, cacheside; print([name for name in sys.modules if 'sqlalchemy' in name])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_rows_for_clients_of_the_other_colour(engine: Engine) -> None:
    """A flush of rows whose keys the session could not tell at its commit fails, and nothing is written."""
    cache = Cache(RedisBackend(aclient=redis.asyncio.Redis(port=1)))
    maker = sessionmaker(engine)
    bind(maker, cache, tables={User: lambda user: f"user:{user.id}"})
    with maker() as session:
        session.add(User(id=77, name="Ada"))
        with pytest.raises(ConfigurationError, match="by which a plain Session cannot deliver"):
            session.commit()
    with maker() as session:
        assert session.get(User, 77) is None


def test_clients_of_the_other_colour(engine: Engine, tmp_path: Path) -> None:
    """A write whose cache the session could not tell at its commit is refused before it is made."""
    plain_cache = Cache(RedisBackend(client=redis.Redis(port=1)))
    async_cache = Cache(RedisBackend(aclient=redis.asyncio.Redis(port=1)))
    maker = sessionmaker(engine)
    bind(maker, plain_cache)

    @async_cache.invalidates("key")
    async def write() -> None:
        raise AssertionError

    with maker() as session:
        session.connection()
        with pytest.raises(ConfigurationError, match="by which a plain Session cannot deliver"):
            asyncio.run(write())

    async def main() -> None:
        aengine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/shop.db")
        amaker = async_sessionmaker(aengine)
        bind(amaker, async_cache)
        async with amaker() as session:
            await session.connection()
            with pytest.raises(ConfigurationError, match="by which an AsyncSession cannot deliver"):
                plain_cache.invalidates("key")(lambda: None)()
        await aengine.dispose()

    asyncio.run(main())
