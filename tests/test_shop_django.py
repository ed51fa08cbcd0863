"""The example shop on Django, served by gunicorn with two workers, and driven over HTTP by clients that read and write.

`CACHESIDE_LONG=1` drives it for a minute each time.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pymysql
import pytest
from apps.drive import Http, Report, drive
from long import scaled
from servers import HOST, MariaDBServer, MemcachedServer, free_port

pytestmark = [pytest.mark.proof, pytest.mark.alone, pytest.mark.timeout(300)]

SECONDS = scaled(8.0, 60.0)
START_SECONDS = 30.0


class Shop:
    """The application with two workers, on a database of its own.

    Args:
        settings: more of its environment.
    """

    def __init__(self, mariadb: MariaDBServer, cache: str, folder: Path, **settings: str) -> None:
        self._mariadb = mariadb
        self._database = f"shop_{uuid.uuid4().hex}"
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}"
        self._log = folder / "log"
        paths = [str(Path(__file__).parent / "apps"), *(entry for entry in sys.path if entry)]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "SHOP_DATABASE": f"mysql://root@{HOST}:{mariadb.port}/{self._database}",
            "SHOP_CACHE": cache,
            **settings,
        }

    def __enter__(self) -> Self:
        self._execute(f"CREATE DATABASE {self._database}")
        assert self._python("-m", "shop_django").wait(START_SECONDS) == 0, self.log()
        self.process = self._python(
            "-m", "gunicorn", "--workers", "2", "--worker-class", "gthread", "--threads", "8", "--bind",
            f"{HOST}:{self._port}", "shop_django.settings:application",
        )  # fmt: skip
        try:
            end = time.monotonic() + START_SECONDS
            while not self._answers():
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._execute(f"DROP DATABASE {self._database}")

    def send(self, method: str, path: str, body: Any = None, expected: int = 200) -> Any:
        """The answer to one request, on a connection of its own."""
        http = Http(self.url)
        try:
            return http(method, path, body, expected)
        finally:
            http.close()

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.send("GET", "/stats"))
        return False

    def _python(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _execute(self, statement: str) -> None:
        with pymysql.connect(**self._mariadb.connect_args) as connection, connection.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture
def open_shop(mariadb_server: MariaDBServer, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Open a shop for this test: `open_shop(memcached, **settings)`."""
    with contextlib.ExitStack() as stack:

        def start(memcached: MemcachedServer, **settings: str) -> Shop:
            url = f"{memcached.url}?namespace=t{uuid.uuid4().hex}"
            return stack.enter_context(Shop(mariadb_server, url, tmp_path, **settings))

        yield start


def check(report: Report, shop: Shop) -> None:
    """Nothing stale, no error, and there was much to do."""
    print(report)
    assert report.errors == [], shop.log()
    assert report.stale == []
    assert report.torn == []
    assert report.workers == 2
    assert report.reads > 20 * report.seconds
    assert report.writes > 2 * report.seconds
    assert report.rolled_back > 0
    assert "Traceback" not in shop.log()


def test_no_response_is_stale(open_shop: Callable[..., Shop], memcached_server: MemcachedServer) -> None:
    """Sixteen clients: no response is older than what was acknowledged before its request; many reads are hits."""
    shop = open_shop(memcached_server)
    report = drive(shop.url, SECONDS)
    check(report, shop)
    assert report.refused == 0
    assert report.hit_rate > 0.3


def test_memcached_killed_and_restarted(
    open_shop: Callable[..., Shop], new_memcached: Callable[..., MemcachedServer]
) -> None:
    """The same while memcached is killed and comes back, over and over: only strict writes are put off."""
    memcached = new_memcached()
    shop = open_shop(memcached)
    chance = random.Random(7)

    def meanwhile() -> None:
        time.sleep(chance.uniform(0.5, 2.0))
        memcached.stop()
        time.sleep(chance.uniform(0.1, 1.0))
        memcached.start()

    report = drive(shop.url, SECONDS, meanwhile=meanwhile)
    check(report, shop)
    assert report.hits > 0


def test_without_the_integration(open_shop: Callable[..., Shop], memcached_server: MemcachedServer) -> None:
    """The control: invalidated before the commit, the same shop gives stale responses."""
    report = drive(open_shop(memcached_server, SHOP_PLAIN="1").url, SECONDS)
    print(report)
    assert report.errors == []
    assert report.stale
