"""Bound sessions under concurrency: threads and tasks that write, roll back and read the same rows."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sql_shop import SqlShop, open_store
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from cacheside import Cache
from cacheside.integrations.sqlalchemy import bind
from cacheside.integrations.sqlalchemy.ties import clean

pytestmark = [pytest.mark.proof, pytest.mark.server]

WORKERS, TURNS = 6, 120
READ = text("SELECT name FROM users WHERE id = :id")
WRITE = text("UPDATE users SET name = :name WHERE id = :id")
LOCK = text("SELECT name FROM users WHERE id = :id FOR UPDATE")


class Book:
    """What is committed: names are "<number>" of the last write that was, or "<number>!" of one to be rolled back."""

    def __init__(self) -> None:
        self.acknowledged = dict.fromkeys((1, 2, 3), 0)
        self.wrong: list[str] = []
        self.reads = 0
        self._lock = threading.Lock()

    def committed(self, row: int, number: int) -> None:
        """A commit has returned."""
        with self._lock:
            self.acknowledged[row] = max(self.acknowledged[row], number)

    def check(self, row: int, floor: int, name: str) -> None:
        """A read outside of any transaction, that began when `floor` had been acknowledged."""
        self.reads += 1
        if name.endswith("!") or int(name) < floor:
            self.wrong.append(f"row {row}: {name} after {floor}")


def plan(seed: int) -> Iterator[tuple[str, int]]:
    """What one worker does, turn by turn, and with which row."""
    chance = random.Random(seed)
    for _ in range(TURNS):
        yield chance.choice(["commit", "rollback", "savepoint", *["read"] * 5, "snapshot"]), chance.choice((1, 2, 3))


@pytest.fixture(params=["postgresql", "mariadb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Iterator[SqlShop]:
    """A shop whose rows are numbers."""
    store = open_store(request.param, request, tmp_path)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE users SET name = '0'"))
    url = request.getfixturevalue("redis_server").url
    made = SqlShop(store, lambda: Cache(url, namespace=namespace, timeout=5), bound=False)
    yield made
    assert made.cache._core.held.counts == {}
    made.close()
    store.close()


def race_in_threads(shop: SqlShop) -> Book:
    """Let the workers run."""
    book = Book()

    def write(session: Any, row: int, suffix: str) -> int:
        number = int(session.execute(LOCK, {"id": row}).scalar()) + 1
        renamed(session, row, f"{number}{suffix}")
        assert shop.get_by(session, row) == f"{number}{suffix}" or not shop.bound
        return number

    renamed = shop.cache.invalidates("user:{user_id}")(
        lambda session, user_id, name: session.execute(WRITE, {"id": user_id, "name": name})
    )

    def work(seed: int) -> None:
        for what, row in plan(seed):
            floor = book.acknowledged[row]
            if what == "read":
                book.check(row, floor, shop.get(row))
                continue
            with shop.sessions() as session:
                if what == "snapshot":  # what it reads may be old; what it leaves behind may not
                    session.execute(READ, {"id": row % 3 + 1})
                    threading.Event().wait(0.001)
                    shop.get_by(session, row)
                elif what == "rollback":
                    write(session, row, "!")
                    session.rollback()
                else:
                    if what == "savepoint":
                        with session.begin_nested() as savepoint:
                            write(session, row, "!")
                            savepoint.rollback()
                    number = write(session, row, "")
                    session.commit()
                    book.committed(row, number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return book


def test_threads(shop: SqlShop) -> None:
    """No read is older than the last write that was acknowledged before it, and none is of what was rolled back."""
    bind(shop.sessions, shop.cache)
    shop.bound = True
    book = race_in_threads(shop)
    assert book.wrong == []
    assert book.reads > WORKERS * TURNS / 4
    assert all(shop.seen(row) == shop.stored(row) for row in (1, 2, 3))


def test_threads_unbound(shop: SqlShop) -> None:
    """The same race finds the holes where sessions are not bound."""
    assert race_in_threads(shop).wrong


# psycopg and SQLAlchemy 2.0 may lose sight of a connection while they are cancelled in opening it
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("shop", ["postgresql", "postgresql+psycopg"], indirect=True)
def test_tasks(shop: SqlShop) -> None:
    """The same in tasks of one loop, some of which are cancelled at any moment."""
    book = Book()

    async def main() -> None:
        engine = create_async_engine(shop.store.aurl)
        sessions = async_sessionmaker(engine)
        bind(sessions, shop.cache)

        @shop.cache.cached("user:{user_id}")
        async def get(user_id: int) -> str:
            async with engine.connect() as connection:
                return str(await connection.scalar(READ, {"id": user_id}))

        @shop.cache.invalidates("user:{user_id}")
        async def rename(session: Any, user_id: int, name: str) -> None:
            await session.execute(WRITE, {"id": user_id, "name": name})

        async def turn(what: str, row: int) -> None:
            floor = book.acknowledged[row]
            if what in ("read", "snapshot"):
                book.check(row, floor, await get(row))
                return
            async with sessions() as session:
                number = int((await session.scalar(LOCK, {"id": row})).rstrip("!")) + 1
                await rename(session, row, str(number) if what != "rollback" else f"{number}!")
                if what == "rollback":
                    await session.rollback()
                else:
                    await session.commit()
                    book.committed(row, number)

        async def work(seed: int) -> None:
            chance = random.Random(seed)
            for what, row in plan(seed):
                task = asyncio.create_task(turn(what, row))
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() * 0.01)
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                except DBAPIError:  # how drivers tell that they were cancelled
                    pass

        await asyncio.gather(*(work(seed) for seed in range(WORKERS)))
        for row in (1, 2, 3):
            assert await get(row) == shop.stored(row)
        await engine.dispose()
        await shop.cache.aclose()

    asyncio.run(main())
    gc.collect()  # connections that were lost sight of: here, where that is expected
    clean()  # sessions whose rollback was cancelled, so that nobody told their end
    assert book.wrong == []
    assert book.reads > WORKERS * TURNS / 4
