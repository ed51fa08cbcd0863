"""The servers of the tests themselves: they answer, keep their port, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import redis
import server_process
from pymemcache.client.base import Client as MemcachedClient
from servers import MariaDBServer, MemcachedServer, PostgresServer, RedisServer, Server, ServerFailed, ValkeyServer

pytestmark = pytest.mark.server


def ask_redis(url: str, **options: Any) -> object:
    with redis.Redis.from_url(url, **options) as client:
        return client.ping()


def ask_memcached(server: MemcachedServer) -> object:
    with contextlib.closing(MemcachedClient(server.address, timeout=1, connect_timeout=1)) as client:
        return client.version() != b""


def ask_postgres(server: PostgresServer) -> object:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT true").fetchone()
        return row is not None and row[0]


def ask_mariadb(server: MariaDBServer) -> object:
    with pymysql.connect(**server.connect_args) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


KINDS: dict[type[Server], Callable[[Any], object]] = {
    RedisServer: lambda server: ask_redis(server.url),
    ValkeyServer: lambda server: ask_redis(server.url),
    MemcachedServer: ask_memcached,
    PostgresServer: ask_postgres,
    MariaDBServer: ask_mariadb,
}


def refuses(server: Server) -> bool:
    try:
        socket.create_connection((server_process.HOST, server.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc/self").exists() else True


@pytest.mark.parametrize("kind", KINDS)
def test_life(kind: type[Server]) -> None:
    """Each server answers, comes back on its port after a restart and after SIGKILL, and is gone when closed."""
    ask = KINDS[kind]
    server = kind()
    with server:
        port, first = server.port, server.pid
        assert ask(server)
        server.restart()
        assert server.port == port
        assert server.pid != first
        assert ask(server)
        server.kill()
        assert not server.running
        assert refuses(server)
        server.start()
        assert server.port == port
        assert ask(server)
        folder, last = server.folder, server.pid
    assert not folder.exists()
    assert not alive(last)
    assert refuses(server)


def test_frozen(new_redis: Callable[..., RedisServer]) -> None:
    """A frozen server takes connections and answers nothing; thawed it answers; it can be stopped while frozen."""
    server = new_redis()
    server.freeze()
    with pytest.raises(redis.TimeoutError):
        ask_redis(server.url, socket_timeout=0.2)
    server.thaw()
    assert ask_redis(server.url)
    server.freeze()
    server.stop()
    assert not server.running


def test_other_ways_in(new_redis: Callable[..., RedisServer], new_memcached: Callable[..., MemcachedServer]) -> None:
    """TLS and unix sockets are served, and a certificate that is not trusted is refused."""
    server = new_redis("--maxmemory", "3mb", tls=True)
    assert ask_redis(server.tls_url)
    assert ask_redis(server.unix_url)
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE"):
        ask_redis(server.tls_url.partition("?")[0])
    assert ask_memcached(new_memcached(unix=True))


def test_shared(redis_server: RedisServer, memcached_ring: list[MemcachedServer], namespace: str) -> None:
    """The servers of the session serve, each on a port of its own, and a namespace is new."""
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.set(namespace, "1", nx=True)
    assert len({redis_server.port, *(server.port for server in memcached_ring)}) == 4
    assert all(ask_memcached(server) for server in memcached_ring)


def test_taken_port(monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer) -> None:
    """A stranger on the port we chose is never taken for our server: we choose another."""
    ports = iter([redis_server.port, server_process.free_port()])
    monkeypatch.setattr(server_process, "free_port", lambda: next(ports))
    with RedisServer() as server:
        assert server.port != redis_server.port
        assert ask_redis(server.url)


def test_bad_option() -> None:
    """A server that will not start says why, and leaves no folder."""
    server = RedisServer("--no-such-option", "1")
    with pytest.raises(ServerFailed, match="no-such-option"):
        server.start()
    with pytest.raises(RuntimeError, match="not been started"):
        _ = server.folder


def test_ended_tests() -> None:
    """SIGKILL of the tests takes their servers along; on systems other than Linux, an interrupt does."""
    code = (
        "import time, servers\n"
        "for kind in (servers.RedisServer, servers.MemcachedServer):\n"
        "    server = kind().start()\n"
        "    print(server.pid, server.folder, flush=True)\n"
        "time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as tests:
        assert tests.stdout is not None
        started = [tests.stdout.readline().split() for _ in range(2)]
        assert all(alive(int(pid)) for pid, _ in started)
        tests.send_signal(signal.SIGKILL if sys.platform == "linux" else signal.SIGINT)
    while any(alive(int(pid)) for pid, _ in started):  # soon, not at once; the test's timeout is the bound
        time.sleep(0.01)
    for _, folder in started:
        shutil.rmtree(folder, ignore_errors=True)
