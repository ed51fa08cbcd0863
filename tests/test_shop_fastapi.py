"""The example shop on FastAPI, served by uvicorn with two workers, and driven over HTTP by clients that read and write.

`CACHESIDE_LONG=1` drives it for a minute each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from apps.drive import drive
from apps.served import START_SECONDS, Killer, Served, check
from long import scaled
from servers import HOST, PostgresServer, RedisServer

pytestmark = [pytest.mark.proof, pytest.mark.alone, pytest.mark.timeout(300)]

SECONDS = scaled(5.0, 60.0)


class Shop(Served):
    """The application with two workers, on a database of its own."""

    module = "shop_fastapi"

    def __init__(self, postgres: PostgresServer, cache: str, folder: Path, **settings: str) -> None:
        super().__init__(folder, {"SHOP_CACHE": cache, **settings})
        self._server = postgres.url
        self._own = f"{postgres.url.rpartition('/')[0]}/{self.database}"
        self.environment["SHOP_DATABASE"] = self._own.replace("postgresql:", "postgresql+asyncpg:")

    def serve(self) -> list[str]:
        """See `Served.serve`."""
        return [
            "-m", "uvicorn", "shop_fastapi.app:app", "--host", HOST, "--port", str(self.port), "--workers", "2",
            "--log-level", "warning",
        ]  # fmt: skip

    def admin(self, statement: str) -> None:
        """See `Served.admin`."""
        self._ask(statement, self._server)

    def drop(self) -> str:
        """See `Served.drop`."""
        return f"{super().drop()} WITH (FORCE)"

    def ask(self, statement: str) -> Any:
        """One value out of the database, past the application."""
        return self._ask(statement, self._own)

    def _ask(self, statement: str, url: str) -> Any:
        async def run() -> Any:
            connection = await asyncpg.connect(url)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(run())


OpenShop = Callable[..., Shop]


@pytest.fixture
def open_shop(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[OpenShop]:
    """Open a shop for this test: `open_shop(redis, **settings)`."""
    with contextlib.ExitStack() as stack:

        def start(redis: RedisServer, **settings: str) -> Shop:
            url = f"{redis.url}?namespace=t{uuid.uuid4().hex}"
            return stack.enter_context(Shop(postgres_server, url, tmp_path, **settings))

        yield start


def test_no_response_is_stale(open_shop: OpenShop, redis_server: RedisServer) -> None:
    """Sixteen clients: no response is older than what was acknowledged before its request; most reads are hits."""
    shop = open_shop(redis_server)
    report = drive(shop.url, SECONDS)
    check(report, shop)
    assert report.refused == 0
    assert report.hit_rate > 0.4


def test_no_response_is_stale_however_late_the_commit(open_shop: OpenShop, redis_server: RedisServer) -> None:
    """The same where every request that has used the database waits before it commits."""
    shop = open_shop(redis_server, SHOP_PAUSE="0.02")
    report = drive(shop.url, SECONDS)
    check(report, shop)
    assert report.hit_rate > 0.4


def test_plain_invalidation_is_too_early(open_shop: OpenShop, redis_server: RedisServer) -> None:
    """The control: the same shop with nothing bound serves old rows, and so the driver finds them."""
    shop = open_shop(redis_server, SHOP_PLAIN="1", SHOP_PAUSE="0.02")
    report = drive(shop.url, SECONDS)
    print(report)
    assert report.stale
    assert report.errors == []


def test_redis_is_killed_and_restarted(open_shop: OpenShop, new_redis: Callable[..., RedisServer]) -> None:
    """The same while Redis is killed over and over: nothing is stale, and no error but strict writes to be repeated."""
    redis = new_redis()
    shop = open_shop(redis)
    kill = Killer(redis.kill, redis.start, seed=6)
    report = drive(shop.url, SECONDS, meanwhile=kill)
    print(f"{kill.kills} kills")
    check(report, shop)
    assert kill.kills >= 3
    assert report.hits > 20


def test_committed_before_the_response(open_shop: OpenShop, redis_server: RedisServer) -> None:
    """Whoever has the response of a write finds the row in the database, though the commit took a while."""
    shop = open_shop(redis_server, SHOP_PAUSE="0.3")
    for price in range(3):
        written = shop.send("PUT", "/products/1/price", {"price": price})
        assert shop.ask("SELECT version FROM products WHERE id = 1") == written["version"]


@pytest.mark.parametrize(
    ("settings", "new"), [({}, True), ({"SHOP_PLAIN": "1"}, False)], ids=["bound", "plain, the control"]
)
def test_background_task(open_shop: OpenShop, redis_server: RedisServer, settings: dict[str, str], new: bool) -> None:
    """What a task writes after the response, in a session of its own, is invalidated at its own commit.

    Not when the task has written, as without `bind`: then a read before the commit fills the old row.
    """
    shop = open_shop(redis_server, SHOP_PAUSE="0.5", **settings)

    def delivered(product: int) -> int:
        """The version that is read after a delivery has made the second one."""
        read, row = f"/products/{product}", f"SELECT version FROM products WHERE id = {product}"
        assert shop.send("GET", read)["version"] == 1
        shop.send("POST", f"{read}/deliveries", {"quantity": 5}, expected=202)
        assert shop.ask(row) == 1  # the response was not kept waiting
        end = time.monotonic() + START_SECONDS
        while shop.ask(row) == 1:
            shop.send("GET", read)
            assert time.monotonic() < end
        end = time.monotonic() + (10 if new else 2)
        while (version := shop.send("GET", read)["version"]) == 1 and time.monotonic() < end:
            time.sleep(0.05)
        return int(version)

    if new:
        assert [delivered(product) for product in (1, 2)] == [2, 2]
    else:  # on a busy machine a read may not come before the commit
        assert any(delivered(product) == 1 for product in range(1, 6))
