"""Async sessions that are bound, over each async driver: they deliver as plain ones do, and block no loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from sql_app import application
from sql_shop import SqlShop, User, open_store
from sqlalchemy import event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

from cacheside import Cache
from cacheside.backends.redis import RedisBackend
from cacheside.integrations.sqlalchemy import bind

Scenario = Callable[["AsyncShop"], Awaitable[None]]


class AsyncShop(SqlShop):
    """A shop whose writes go over async sessions. Reads stay as they are: each in a thread of its own."""

    asessions: async_sessionmaker[AsyncSession]

    @asynccontextmanager
    async def opened(self, cache: Cache | None = None) -> AsyncIterator[None]:
        """In the block there are async sessions on an engine of this loop, and an async cache."""
        engine = create_async_engine(self.store.aurl)
        self.acache = cache or self.cache
        self.asessions = async_sessionmaker(engine)
        if self.bound:
            bind(self.asessions, self.acache)
        self.arename = self.acache.invalidates("user:{user_id}")(_arename)
        self.aget_by = self.acache.cached("user:{user_id}")(_aname)
        try:
            yield
        finally:
            await engine.dispose()
            await self.acache.aclose()

    async def aseen(self, user_id: int = 1) -> str | None:
        """`seen`, without blocking the loop."""
        return await asyncio.to_thread(self.seen, user_id)


async def _arename(session: Any, user_id: int, name: str) -> str:
    await session.execute(text("UPDATE users SET name = :name WHERE id = :id"), {"id": user_id, "name": name})
    return name


async def _aname(session: Any, user_id: int) -> str | None:
    name: str | None = await session.scalar(text("SELECT name FROM users WHERE id = :id"), {"id": user_id})
    return name


def open_shop(place: tuple[str, str], bound: bool, request: Any, folder: Path, namespace: str) -> Iterator[AsyncShop]:
    """A shop in a place."""
    database, kind = place
    store = open_store(database, request, folder)
    memory = Cache("memory://")

    def make() -> Cache:
        if kind == "memory":
            return memory
        return Cache(request.getfixturevalue("redis_server").url, namespace=namespace, timeout=5)

    made = AsyncShop(store, make, False)
    made.bound = bound
    yield made
    assert made.cache._core.held.counts == {}
    made.close()
    store.close()


@pytest.fixture(
    params=[
        pytest.param(("sqlite", "memory"), id="aiosqlite-memory"),
        pytest.param(("postgresql", "redis"), id="asyncpg-redis", marks=pytest.mark.server),
        pytest.param(("postgresql+psycopg", "redis"), id="psycopg-redis", marks=pytest.mark.server),
    ]
)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database by a driver, and a cache."""
    return request.param  # type: ignore[no-any-return]  # pytest types it as Any


@pytest.fixture(params=["bound", "plain"])
def shop(place: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[AsyncShop]:
    """A shop, bound and not."""
    yield from open_shop(place, request.param == "bound", request, tmp_path, namespace)


@pytest.fixture
def bound(
    place: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path, namespace: str
) -> Iterator[AsyncShop]:
    """A bound shop."""
    yield from open_shop(place, True, request, tmp_path, namespace)


def run(shop: AsyncShop, scenario: Scenario) -> None:
    """The scenario, in a loop of its own."""

    async def main() -> None:
        async with shop.opened():
            await scenario(shop)

    asyncio.run(main())


def test_invalidated_before_the_commit(shop: AsyncShop) -> None:
    """A reader between the write and the commit leaves no old value behind; with plain invalidation it does."""

    async def scenario(shop: AsyncShop) -> None:
        async with shop.asessions() as session:
            await shop.arename(session, 1, "new")
            assert await shop.aseen() == "old"
            await session.commit()
            assert await shop.aseen() == ("new" if shop.bound else "old")

    run(shop, scenario)


def test_rollback_of_what_was_read(shop: AsyncShop) -> None:
    """What a transaction reads of its own writes is not cached: the task is inside it, and tasks made by it."""

    async def scenario(shop: AsyncShop) -> None:
        async with shop.asessions() as session:
            await shop.arename(session, 1, "new")
            assert await asyncio.create_task(shop.aget_by(session, 1)) == "new"
            await session.rollback()
        assert await shop.aseen() == ("old" if shop.bound else "new")

    run(shop, scenario)


@pytest.mark.parametrize("way", ["task", "gather", "batch"])
def test_rows_changed_in_a_task(bound: AsyncShop, way: str) -> None:
    """What a task has changed in a session is not cached by who waited for it, and reads it without a statement.

    (As `asyncio.wait_for` makes a task, before Python 3.12.)
    """

    async def scenario(shop: AsyncShop) -> None:
        async def change(session: AsyncSession) -> User:
            row = await session.get_one(User, 1)
            row.name = "new"
            await session.flush()
            return row

        async def by_identity(session: AsyncSession, user_id: int) -> str:
            return (await session.get_one(User, user_id)).name

        async def names(session: AsyncSession, user_ids: list[int]) -> dict[int, str]:
            return {user_id: await by_identity(session, user_id) for user_id in user_ids}

        get: Any = shop.acache.cached("user:{user_id}")(by_identity)
        get_many: Any = shop.acache.cached_many("user:{user_id}", ignore=("session",))(names)
        async with shop.asessions() as session:
            if way == "gather":
                (row,) = await asyncio.gather(change(session))
            else:
                row = await asyncio.create_task(change(session))
            found = (await get_many(session, [1]))[1] if way == "batch" else await get(session, 1)
            assert found == row.name == "new"
            await session.rollback()
        assert await shop.aseen() == "old"

    run(bound, scenario)


def test_savepoints(bound: AsyncShop) -> None:
    """A savepoint that is rolled back drops its own, by an exception too."""

    async def scenario(shop: AsyncShop) -> None:
        for user_id in (1, 2):
            assert await shop.aseen(user_id) == "old"
        async with shop.asessions.begin() as session:
            await shop.arename(session, 1, "new")
            with suppress(ZeroDivisionError):
                async with session.begin_nested():
                    await shop.arename(session, 2, "new")
                    raise ZeroDivisionError
        assert (await shop.aseen(1), await shop.aseen(2)) == ("new", "old")
        assert shop.loads == 3
        assert shop.cache.stats().rolled_back == 1

    run(bound, scenario)


def test_updates_rolled_back_past_the_session(bound: AsyncShop) -> None:
    """What a savepoint of the connection has rolled back is invalidated, with no value put in."""

    async def scenario(shop: AsyncShop) -> None:
        rename = shop.acache.updates(shop.aget_by)(_arename)
        async with shop.asessions() as session:
            await rename(session, 2, "new")
            async with session.begin_nested() as own:
                await rename(session, 3, "never")
                await own.rollback()
            savepoint = await (await session.connection()).begin_nested()
            await rename(session, 1, "never")
            await savepoint.rollback()
            await session.commit()
        assert [await shop.aseen(number) for number in (1, 2, 3)] == ["old", "new", "old"]

    run(bound, scenario)


def test_close_without_commit(bound: AsyncShop) -> None:
    """An AsyncSession closes in a task of its own, shielded: that is a rollback all the same."""

    async def scenario(shop: AsyncShop) -> None:
        assert await shop.aseen() == "old"
        async with shop.asessions() as session:
            await shop.arename(session, 1, "new")
        assert await shop.aseen() == "old"
        assert shop.loads == 1

    run(bound, scenario)


@pytest.mark.server
@pytest.mark.parametrize("place", [("postgresql", "redis"), ("postgresql+psycopg", "redis")], indirect=True, ids=str)
@pytest.mark.parametrize("ending", ["rollback", "commit", "refused"])
def test_two_phases(bound: AsyncShop, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """A commit in two phases delivers after the second; a rollback drops; a second phase that failed may be real."""

    async def scenario(shop: AsyncShop) -> None:
        update_name = shop.acache.updates(shop.aget_by)(_arename)
        shop.asessions.configure(twophase=True)
        assert [await shop.aseen(1), await shop.aseen(2)] == ["old", "old"]
        async with shop.asessions() as session:
            await shop.arename(session, 1, "new")
            await update_name(session, 2, "new")
            if ending == "refused":
                dialect = session.get_bind().dialect

                def refuse(connection: Any, *rest: Any, **options: Any) -> None:
                    dialect.do_rollback_twophase(connection, *rest, **options)
                    raise OperationalError("COMMIT PREPARED", {}, Exception("refused"))

                with monkeypatch.context() as patch:
                    patch.setattr(dialect, "do_commit_twophase", refuse)
                    with pytest.raises(OperationalError):
                        await session.commit()
            else:
                await getattr(session, ending)()
        after = "new" if ending == "commit" else "old"
        assert [await shop.aseen(1), await shop.aseen(2)] == [after, after]
        assert shop.acache.stats().updates == (1 if ending == "commit" else 0)
        assert shop.loads == {"rollback": 3, "commit": 3, "refused": 4}[ending]

    run(bound, scenario)


def test_many_tasks(bound: AsyncShop) -> None:
    """Sessions of many tasks at once hold each its own."""

    async def scenario(shop: AsyncShop) -> None:
        async def rename(number: int) -> None:
            async with shop.asessions() as session:
                await shop.arename(session, 1 + number % 3, f"new {number}")
                if number % 2:
                    await session.commit()
                else:
                    await session.rollback()

        for number in range(30):  # one after the other: SQLite lets only one write
            await asyncio.create_task(rename(number))
        assert [await shop.aseen(number) for number in (1, 2, 3)] == ["new 27", "new 25", "new 29"]
        assert shop.cache.stats().rolled_back == 15

    run(bound, scenario)


def test_update_whose_commit_fails(bound: AsyncShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of an update is not put in if the commit raised: the database may have refused it."""

    async def scenario(shop: AsyncShop) -> None:
        rename = shop.acache.updates(shop.aget_by)(_arename)
        async with shop.asessions() as session:
            dialect = session.get_bind().dialect

            def refuse(connection: Any) -> None:
                dialect.do_rollback(connection)
                raise OperationalError("COMMIT", {}, Exception("could not serialize access"))

            await rename(session, 1, "new")
            with monkeypatch.context() as patch:
                patch.setattr(dialect, "do_commit", refuse)
                with pytest.raises(OperationalError):
                    await session.commit()
        assert await shop.aseen() == "old"
        assert shop.acache.stats().updates == 0

    run(bound, scenario)


def test_cancelled_in_the_commit(bound: AsyncShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is cancelled may be real: what it holds is delivered when the session is closed."""

    async def scenario(shop: AsyncShop) -> None:
        async def write() -> None:
            async with shop.asessions() as session:
                dialect = session.get_bind().dialect
                commit = dialect.do_commit

                def commit_slowly(connection: Any) -> None:
                    commit(connection)
                    committed.set()
                    await_only(asyncio.sleep(20))

                await shop.arename(session, 1, "new")
                assert await shop.aseen() == "old"
                monkeypatch.setattr(dialect, "do_commit", commit_slowly)
                try:
                    await session.commit()
                finally:
                    monkeypatch.undo()

        committed = asyncio.Event()
        task = asyncio.create_task(write())
        await committed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await shop.aseen() == "new"

    run(bound, scenario)


@pytest.mark.parametrize("commits", [True, False])
def test_cancelled_after_the_end(bound: AsyncShop, commits: bool) -> None:
    """A task that is cancelled while its session gives the connection back: SQLAlchemy tells no end, its own does."""

    async def scenario(shop: AsyncShop) -> None:
        kept = []  # as by a greenlet that is never resumed: the session is not collected

        def cancel(*details: object) -> None:
            raise asyncio.CancelledError

        async def work() -> None:
            async with shop.asessions() as session:
                kept.append(session)
                await shop.arename(session, 1, "new")
                pool = session.get_bind().pool
                event.listen(pool, "reset", cancel)
                try:
                    await (session.commit() if commits else session.rollback())
                finally:
                    event.remove(pool, "reset", cancel)

        assert await shop.aseen() == "old"
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work())
        await asyncio.sleep(0)
        async with shop.asessions() as session:
            assert await shop.aget_by(session, 1) == ("new" if commits else "old")
        assert await shop.aseen() == ("new" if commits else "old")
        assert shop.acache.stats().pending == 0

    run(bound, scenario)


@pytest.mark.server
@pytest.mark.parametrize("place", [("postgresql", "redis")], indirect=True, ids=str)
def test_cancelled_in_the_delivery(bound: AsyncShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is cancelled in the delivery leaves its keys pending: here they are bypassed until they are told."""

    async def scenario(shop: AsyncShop) -> None:
        async def write() -> None:
            async with shop.asessions() as session:
                await shop.arename(session, 1, "new")
                await session.commit()

        async def invalidate(keys: Any) -> None:
            asked.set()
            await asyncio.sleep(20)

        assert await asyncio.to_thread(shop.get, 1) == "old"
        asked = asyncio.Event()
        with monkeypatch.context() as patch:
            patch.setattr(shop.cache._core.aio, "invalidate", invalidate)
            task = asyncio.create_task(write())
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert shop.cache.stats().pending == 1
        assert await asyncio.to_thread(shop.get, 1) == "new"

    run(bound, scenario)


def test_delivery_is_awaited(bound: AsyncShop, request: pytest.FixtureRequest, namespace: str) -> None:
    """The delivery goes over the async client: a cache that has no other can be told."""

    async def main() -> None:
        client = redis.asyncio.Redis.from_url(request.getfixturevalue("redis_server").url)
        cache = Cache(RedisBackend(aclient=client), namespace=namespace)
        async with bound.opened(cache):
            async with bound.asessions() as session:
                await bound.arename(session, 1, "new")
                await session.commit()
            assert cache.stats().invalidations == 1
        await client.aclose()

    asyncio.run(main())


def test_scoped_session(bound: AsyncShop) -> None:
    """A session of an async_scoped_session is found as an argument, though its transaction began in another task."""

    async def scenario(shop: AsyncShop) -> None:
        scoped = async_scoped_session(shop.asessions, scopefunc=lambda: 1)
        await asyncio.create_task(scoped.execute(select(User)))
        await shop.arename(scoped, 1, "new")
        assert await shop.aseen() == "old"
        await scoped.commit()
        assert await shop.aseen() == "new"
        await scoped.remove()

    run(bound, scenario)


def test_other_makers(bound: AsyncShop) -> None:
    """A maker that is not bound invalidates as before, though both make plain AsyncSessions."""

    async def scenario(shop: AsyncShop) -> None:
        async with shop.asessions() as session:
            engine = session.bind
        async with async_sessionmaker(engine)() as session:
            await shop.arename(session, 1, "new")
            assert shop.cache.stats().invalidations == 1
            await session.rollback()

    run(bound, scenario)


# As web applications do it.


def put(shop: AsyncShop, colour: str, commits: bool) -> None:
    """A request that renames user 1 and reads it; a background task reads it after the response."""
    if shop.bound:
        bind(shop.sessions, shop.cache)

    async def scenario(shop: AsyncShop) -> None:
        transport = httpx.ASGITransport(application(shop, commits))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            response = await client.put(f"/{colour}/1", params={"name": "new"})
        assert response.status_code == 200
        assert response.json() == (None if commits else "new")

    run(shop, scenario)


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_read_in_the_endpoint(shop: AsyncShop, colour: str) -> None:
    """What an endpoint reads after its write is not cached before the commit, though the dependency began elsewhere.

    If it is, and nothing is ever committed, others get it all the same.
    """
    put(shop, colour, commits=False)
    assert shop.stored() == "old"
    assert shop.seen() == ("old" if shop.bound else "new")


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_background_task_after_the_response(shop: AsyncShop, colour: str) -> None:
    """A background task that reads before the session commits leaves no old value; with plain invalidation it does.

    FastAPI ends the dependency, and so commits, after the background tasks.
    """
    put(shop, colour, commits=True)
    assert shop.stored() == "new"
    assert shop.seen() == ("new" if shop.bound else "old")


def test_events_of_the_application(bound: AsyncShop) -> None:
    """A listener that reads in after_commit is inside still: it gets what the database has."""

    async def scenario(shop: AsyncShop) -> None:
        read: list[str | None] = []
        async with shop.asessions() as session:
            event.listen(session.sync_session, "after_commit", lambda session: read.append(shop.get(1)))
            assert await shop.aseen() == "old"
            await shop.arename(session, 1, "new")
            await session.commit()
        assert read == ["new"]

    run(bound, scenario)
