"""The example shop on Django, served by gunicorn with two workers, and driven over HTTP by clients that read and write.

`CACHESIDE_LONG=1` drives it for a minute each time.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest
from apps.drive import drive
from apps.served import Killer, Served, check
from long import scaled
from servers import HOST, MariaDBServer, MemcachedServer

pytestmark = [pytest.mark.proof, pytest.mark.alone, pytest.mark.timeout(300)]

SECONDS = scaled(5.0, 60.0)


class Shop(Served):
    """The application with two workers, on a database of its own."""

    module = "shop_django"

    def __init__(self, mariadb: MariaDBServer, cache: str, folder: Path, **settings: str) -> None:
        super().__init__(folder, {"SHOP_CACHE": cache, **settings})
        self._mariadb = mariadb
        self.environment["SHOP_DATABASE"] = f"mysql://root@{HOST}:{mariadb.port}/{self.database}"

    def serve(self) -> list[str]:
        """See `Served.serve`."""
        return [
            "-m", "gunicorn", "--workers", "2", "--worker-class", "gthread", "--threads", "8", "--bind",
            f"{HOST}:{self.port}", "shop_django.settings:application",
        ]  # fmt: skip

    def admin(self, statement: str) -> None:
        """See `Served.admin`."""
        with pymysql.connect(**self._mariadb.connect_args) as connection, connection.cursor() as cursor:
            cursor.execute(statement)


OpenShop = Callable[..., Shop]


@pytest.fixture
def open_shop(mariadb_server: MariaDBServer, tmp_path: Path) -> Iterator[OpenShop]:
    """Open a shop for this test: `open_shop(memcached, **settings)`."""
    with contextlib.ExitStack() as stack:

        def start(memcached: MemcachedServer, **settings: str) -> Shop:
            url = f"{memcached.url}?namespace=t{uuid.uuid4().hex}"
            return stack.enter_context(Shop(mariadb_server, url, tmp_path, **settings))

        yield start


def test_no_response_is_stale(open_shop: OpenShop, memcached_server: MemcachedServer) -> None:
    """Sixteen clients: no response is older than what was acknowledged before its request; many reads are hits."""
    shop = open_shop(memcached_server)
    report = drive(shop.url, SECONDS)
    check(report, shop)
    assert report.refused == 0
    assert report.hit_rate > 0.3


def test_memcached_is_killed_and_restarted(open_shop: OpenShop, new_memcached: Callable[..., MemcachedServer]) -> None:
    """The same while memcached is killed and comes back, over and over: only strict writes are put off."""
    memcached = new_memcached()
    shop = open_shop(memcached)
    kill = Killer(memcached.kill, memcached.start, seed=7)
    report = drive(shop.url, SECONDS, meanwhile=kill)
    print(f"{kill.kills} kills")
    check(report, shop)
    assert kill.kills >= 3
    assert report.hits > 20


def test_plain_invalidation_is_too_early(open_shop: OpenShop, memcached_server: MemcachedServer) -> None:
    """The control: invalidated before the commit, the same shop gives stale responses."""
    report = drive(open_shop(memcached_server, SHOP_PLAIN="1").url, SECONDS)
    print(report)
    assert report.errors == []
    assert report.stale
