"""What goes wrong with plain invalidation in transactions of a real database, and does not with `cache.transaction()`.

Each test is run both ways, and the plain way has to go wrong. Writers and readers have a connection each; a load inside
the transaction goes by the writer's, as it does where a session is handed on. Scenarios are coroutines; in plain code
they never suspend.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import psycopg
import pytest
from servers import PostgresServer

from cacheside import Cache

pytestmark = pytest.mark.proof


class Shop:
    """Prices, in a table of its own: 1 and 2 cost 10. Its functions do not commit: their callers do.

    Args:
        scope: whether transactions are inside a `cache.transaction()`; else invalidations are sent as writes return.
    """

    def __init__(self, cache: Cache, scope: bool, plain: bool, table: str) -> None:
        self._cache, self._scope, self._plain, self._table = cache, scope, plain, table
        self.writer: Any = None
        self.reader: Any = None

        def query(connection: Any, product: int) -> Any:
            return connection.execute(f"SELECT price FROM {table} WHERE id = %s", (product,))

        def change(connection: Any, product: int, price: int) -> Any:
            return connection.execute(f"UPDATE {table} SET price = %s WHERE id = %s", (price, product))

        self.price: Any
        self.set_price: Any
        if plain:

            @cache.cached("price:{product}")
            def price(connection: Any, product: int) -> int:
                return int(query(connection, product).fetchone()[0])

            @cache.invalidates("price:{product}")
            def set_price(connection: Any, product: int, price: int) -> None:
                change(connection, product, price)

            self.price, self.set_price = price, set_price
        else:

            @cache.cached("price:{product}")
            async def aprice(connection: Any, product: int) -> int:
                return int((await (await query(connection, product)).fetchone())[0])

            @cache.invalidates("price:{product}")
            async def aset_price(connection: Any, product: int, price: int) -> None:
                await change(connection, product, price)

            self.price, self.set_price = aprice, aset_price

    async def open(self, url: str) -> None:
        """Connect, and make the table."""
        kind: Any = psycopg.Connection if self._plain else psycopg.AsyncConnection
        self.writer = await done(kind.connect(url))
        self.reader = await done(kind.connect(url, autocommit=True))
        await done(self.reader.execute(f"CREATE TABLE {self._table} (id int PRIMARY KEY, price int)"))
        await done(self.reader.execute(f"INSERT INTO {self._table} VALUES (1, 10), (2, 10)"))

    async def close(self) -> None:
        """Drop the table, and the connections."""
        for connection in (self.writer, self.reader):
            if connection is not None:
                await done(connection.rollback())
        await done(self.reader.execute(f"DROP TABLE {self._table}"))
        for connection in (self.writer, self.reader):
            await done(connection.close())
        if self._plain:
            self._cache.close()
        else:
            await self._cache.aclose()

    async def inside(self, product: int) -> int:
        """What the transaction reads."""
        return int(await done(self.price(self.writer, product)))

    async def write(self, product: int, price: int) -> None:
        """A write in the transaction."""
        await done(self.set_price(self.writer, product, price))

    async def outside(self, product: int) -> int:
        """What everybody else reads."""
        context = contextvars.Context()
        if self._plain:
            return int(context.run(self.price, self.reader, product))
        return int(await asyncio.create_task(self.price(self.reader, product), context=context))

    @contextlib.asynccontextmanager
    async def block(self) -> AsyncIterator[Any]:
        """The transaction's scope, or none."""
        if not self._scope:
            yield None
        elif self._plain:
            with self._cache.transaction() as transaction:
                yield transaction
        else:
            async with self._cache.transaction() as transaction:
                yield transaction

    async def roll_back(self, block: Any, savepoint: bool = False) -> None:
        """Roll the database back, and tell the scope."""
        await done(self.writer.execute("ROLLBACK TO SAVEPOINT s") if savepoint else self.writer.rollback())
        if block is not None:
            block.rollback()


async def done(answer: Any) -> Any:
    """What plain code returned, or async code returns."""
    return await answer if inspect.isawaitable(answer) else answer


Play: TypeAlias = Callable[[Callable[[Shop], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest) -> str:
    """Of the cache."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("redis_server").url)


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def plain(request: pytest.FixtureRequest) -> bool:
    """Whether it is in plain code."""
    return bool(request.param)


@pytest.fixture(params=[True, False], ids=["scope", "control"])
def scope(request: pytest.FixtureRequest) -> bool:
    """Whether with the scope."""
    return bool(request.param)


@pytest.fixture
def play(url: str, plain: bool, scope: bool, namespace: str, postgres_server: PostgresServer) -> Play:
    """Play a scenario, and give what it returns."""

    def play(scenario: Callable[[Shop], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            shop = Shop(Cache(url, namespace=namespace), scope, plain, f"prices_{uuid.uuid4().hex}")
            await shop.open(postgres_server.url)
            try:
                return await scenario(shop)
            finally:
                await shop.close()

        if not plain:
            return asyncio.run(main())
        steps = main()
        with pytest.raises(StopIteration) as end:
            steps.send(None)
        return end.value.value

    return play


def test_invalidated_before_the_commit(play: Play, scope: bool) -> None:
    """A reader between the write and its commit does not leave the old row behind."""

    async def scenario(shop: Shop) -> int:
        async with shop.block():
            await shop.write(1, 20)
            assert await shop.outside(1) == 10
            await done(shop.writer.commit())
        return await shop.outside(1)

    assert play(scenario) == (20 if scope else 10)


def test_read_inside_the_transaction(play: Play, scope: bool) -> None:
    """What the transaction reads of its own writes nobody else sees before the commit; it does itself."""

    async def scenario(shop: Shop) -> int:
        async with shop.block():
            await shop.write(1, 20)
            assert await shop.inside(1) == 20
            seen = await shop.outside(1)
            await done(shop.writer.commit())
        assert await shop.outside(1) == 20
        return seen

    assert play(scenario) == (10 if scope else 20)


def test_rollback(play: Play, scope: bool) -> None:
    """What was read inside a transaction that is rolled back is not left behind; the old entry is."""

    async def scenario(shop: Shop) -> int:
        assert await shop.outside(1) == 10
        async with shop.block() as block:
            await shop.write(1, 20)
            assert await shop.inside(1) == 20
            await shop.roll_back(block)
        return await shop.outside(1)

    assert play(scenario) == (10 if scope else 20)


def test_rollback_to_a_savepoint(play: Play, scope: bool) -> None:
    """What was read of a part that is rolled back is not left behind, and the rest is invalidated at the commit."""

    async def scenario(shop: Shop) -> list[int]:
        async with shop.block():
            await shop.write(2, 20)
            await done(shop.writer.execute("SAVEPOINT s"))
            async with shop.block() as part:
                await shop.write(1, 20)
                assert await shop.inside(1) == 20
                await shop.roll_back(part, savepoint=True)
            assert await shop.outside(2) == 10
            await done(shop.writer.commit())
        return [await shop.outside(product) for product in (1, 2)]

    assert play(scenario) == ([10, 20] if scope else [20, 10])


def test_exception_after_the_commit(play: Play, scope: bool) -> None:
    """An error behind the commit, on the way out of the block, keeps nobody from seeing what was committed."""

    async def scenario(shop: Shop) -> int:
        with contextlib.suppress(LookupError):
            async with shop.block():
                await shop.write(1, 20)
                assert await shop.outside(1) == 10
                await done(shop.writer.commit())
                raise LookupError("rendering the response")
        return await shop.outside(1)

    assert play(scenario) == (20 if scope else 10)


def test_exception_after_the_write(play: Play, scope: bool) -> None:
    """A block that raises before its commit leaves nothing uncommitted behind, though nobody says `rollback()`."""

    async def scenario(shop: Shop) -> int:
        with contextlib.suppress(LookupError):
            async with shop.block():
                await shop.write(1, 20)
                assert await shop.inside(1) == 20
                raise LookupError("rendering the response")
        await done(shop.writer.rollback())
        return await shop.outside(1)

    assert play(scenario) == (10 if scope else 20)


@pytest.mark.parametrize("plain", [False], ids=["async"], indirect=True)
def test_background_task_after_the_response(play: Play, scope: bool) -> None:
    """A task that was made in the block, and writes in a transaction of its own when it is over, is in time too."""

    async def scenario(shop: Shop) -> int:
        responded = asyncio.Event()

        async def background() -> None:
            await responded.wait()
            async with shop.block():
                await shop.write(1, 20)
                assert await shop.outside(1) == 10
                await done(shop.writer.commit())

        async with shop.block():
            task = asyncio.create_task(background())
            await shop.write(2, 20)
            await done(shop.writer.commit())
        responded.set()
        await task
        assert await shop.outside(2) == 20
        return await shop.outside(1)

    assert play(scenario) == (20 if scope else 10)


@pytest.mark.parametrize("plain", [False], ids=["async"], indirect=True)
@pytest.mark.parametrize("scope", [True], ids=["scope"], indirect=True)
def test_background_write_after_the_response(play: Play) -> None:
    """A write of such a task that commits by itself is not held by a block that is over."""

    async def scenario(shop: Shop) -> int:
        responded = asyncio.Event()

        async def background() -> None:
            await responded.wait()
            await done(shop.set_price(shop.reader, 1, 20))  # each statement is committed at once there

        assert await shop.outside(1) == 10
        async with shop.block():
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        responded.set()
        await task
        return await shop.outside(1)

    assert play(scenario) == 20
