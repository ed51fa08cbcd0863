"""Decorated functions in front of a Redis that restarts, dies, hangs, is full, or holds what is not ours."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest
from adapter import COLOURS
from colours import Colour, until
from redis_tools import MakeCache, Proxy, ask_again, say
from servers import HOST, RedisServer, free_port

from cacheside import Cache
from cacheside.backends.base import Busy, Hit, Leased
from cacheside.backends.redis import RedisBackend
from cacheside.health import Health

NewRedis = Callable[..., RedisServer]


class Store:
    """A store of one row, read and written through a cache."""

    def __init__(self, colour: Colour, cache: Cache) -> None:
        self.row = "old"
        self.cache = cache
        self._colour = colour

        def read() -> str:
            return self.row

        def write(row: str) -> None:
            self.row = row

        self._read = colour.decorate(cache.cached(key="row"), read)
        self._write = colour.decorate(cache.invalidates("row"), write)

    def read(self) -> str:
        """What the cached function says."""
        row: str = self._colour.run(self._read)
        return row

    def write(self, row: str) -> None:
        """A write that invalidates."""
        self._colour.run(self._write, row)

    @property
    def counts(self) -> Any:
        """The counters so far."""
        return self.cache.stats().totals


# --- a server that goes away ---


def test_restart_is_not_noticed(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """A restarted server has closed all pooled connections: the next call just works, whichever it is."""
    server = new_redis()
    store = Store(colour, make_cache(server.url, timeout=5))
    slow = colour.decorate(store.cache.cached(key="slow:{number}"), lambda number: time.sleep(0.05) or number)
    clear = store.cache.clear if colour.name == "sync" else store.cache.aclear
    for call in (store.read, lambda: store.write("new"), lambda: colour.run(clear)):
        for each in [colour.call(slow, number) for number in range(10)]:  # so that there are many connections
            each.result(20)
        server.restart()
        call()
    store.read()
    store.read()
    assert store.counts.hits == 1
    stats = store.cache.stats()
    assert (stats.totals.errors, stats.totals.bypassed, stats.undelivered) == (0, 0, 0)


def test_dead_server(
    colour: Colour,
    make_cache: MakeCache,
    new_redis: NewRedis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the server is dead the store answers; that is counted, and logged once, and once more when it is back."""
    monkeypatch.setattr(Health, "SETTLED", 0.0)
    caplog.set_level(logging.INFO, "cacheside")
    server = new_redis()
    store = Store(colour, make_cache(server.url, timeout=5))
    assert [store.read(), store.read()] == ["old", "old"]
    server.kill()
    store.row = "new"
    assert [store.read() for _ in range(3)] == ["new"] * 3
    assert (store.counts.errors, store.counts.bypassed, store.counts.loads) == (3, 3, 4)
    server.start()
    ask_again(store.cache._core.backend)
    assert [store.read(), store.read()] == ["new", "new"]
    assert (store.counts.errors, store.counts.hits) == (3, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert all(f"redis://{HOST}:{server.port}/0" in record.getMessage() for record in caplog.records)


def test_never_there(colour: Colour, make_cache: MakeCache) -> None:
    """A server that nobody has started yet is no reason to fail, neither at construction nor at a call."""
    store = Store(colour, make_cache(f"redis://{HOST}:{free_port()}/0", timeout=5))
    assert store.read() == "old"
    store.write("new")
    assert store.read() == "new"
    assert store.cache.stats().pending == 1


def test_frozen_server(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """A server that hangs delays the calls under way by about the timeout, and is used again when it goes on."""
    server = new_redis()
    store = Store(colour, make_cache(server.url, timeout=0.2))
    assert [store.read(), store.read()] == ["old", "old"]
    server.freeze()
    store.row = "new"
    calls = [colour.call(store._read) for _ in range(3)]
    assert [call.result(5) for call in calls] == ["new"] * 3
    assert (store.counts.errors, store.counts.bypassed) == (3, 3)
    server.thaw()
    say(server, "PING")  # answered after all that had piled up
    ask_again(store.cache._core.backend)
    assert store.read() == "old"  # the entry was never invalidated
    assert store.counts.hits == 2


# --- invalidations that cannot be delivered ---


def test_pending_invalidation(colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str) -> None:
    """A write whose invalidation did not arrive returns; until it has arrived, nobody here gets the old value."""
    with Proxy(redis_server) as proxy:
        store = Store(colour, make_cache(proxy.url, namespace=namespace, timeout=5))
        assert [store.read(), store.read()] == ["old", "old"]
        proxy.down = True
        store.write("new")
        assert store.cache.stats().pending == 1
        for row in ("new", "newer", "newest"):
            store.row = row
            assert store.read() == row
        assert say(redis_server, "EXISTS", f"{namespace}:row") == 1  # the old value is still there to be had
        proxy.down = False

        def delivered() -> bool:
            assert store.read() == "newest"
            return store.cache.stats().pending == 0

        until(delivered)
        assert [store.read(), store.read()] == ["newest", "newest"]
        assert store.counts.hits >= 2
        assert store.counts.refused == 0
    stats = store.cache.stats()
    assert stats.undelivered >= 1
    assert stats.invalidations == 1


@pytest.mark.parametrize("outage", ["frozen", "killed"])
def test_write_during_an_outage(colour: Colour, make_cache: MakeCache, new_redis: NewRedis, outage: str) -> None:
    """Whatever way a server is out of order, writes return, reads are right, and afterwards all is as before."""
    server = new_redis()
    store = Store(colour, make_cache(server.url, timeout=0.2))
    assert [store.read(), store.read()] == ["old", "old"]
    server.freeze() if outage == "frozen" else server.kill()
    store.write("new")
    assert store.cache.stats().pending == 1
    assert store.read() == "new"
    server.thaw() if outage == "frozen" else server.start()

    def delivered() -> bool:
        assert store.read() == "new"
        return store.cache.stats().pending == 0

    until(delivered)
    hits = store.counts.hits
    until(lambda: store.read() == "new" and store.counts.hits > hits)


# --- a server that takes no writes ---


def test_full_server(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """On a full server hits go on, a miss is answered by the store and counted, and a write still invalidates."""
    server = new_redis("--maxmemory-policy", "noeviction")
    store = Store(colour, make_cache(server.url, timeout=5))
    store.read()
    say(server, "CONFIG", "SET", "maxmemory", "1mb")
    assert store.read() == "old"
    assert (store.counts.hits, store.counts.errors) == (1, 0)
    store.write("new")
    assert store.cache.stats().pending == 0
    assert [store.read(), store.read()] == ["new", "new"]
    assert (store.counts.errors, store.counts.bypassed, store.counts.loads) == (2, 2, 3)
    say(server, "CONFIG", "SET", "maxmemory", "0")
    assert [store.read(), store.read()] == ["new", "new"]
    assert store.counts.hits == 2


def test_replica_cannot_be_written(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """What a replica refuses to drop is bypassed here, so that the old value is not returned."""
    server = new_redis()
    store = Store(colour, make_cache(server.url, timeout=5))
    assert [store.read(), store.read()] == ["old", "old"]
    say(server, "REPLICAOF", HOST, free_port())
    assert store.read() == "old"
    assert store.counts.hits == 2
    store.write("new")
    assert store.read() == "new"
    assert store.cache.stats().pending == 1
    assert say(server, "EXISTS", "cacheside:row") == 1


# --- what is not ours ---


@pytest.mark.parametrize("kind", ["text", "empty", "list", "hash", "newer format", "broken header"])
def test_foreign_value(
    colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str, kind: str
) -> None:
    """What is not ours, or not of this version, is a miss: loaded, replaced, and then a hit."""
    store = Store(colour, make_cache(redis_server.url, namespace=namespace, timeout=5))
    key = f"{namespace}:row"
    header = b"V" + b"t" * 16 + b"0" * 26
    command: tuple[Any, ...] = {
        "text": ("SET", key, "hello"),
        "empty": ("SET", key, ""),
        "list": ("RPUSH", key, "a"),
        "hash": ("HSET", key, "field", "value"),
        "newer format": ("SET", key, header + b"cs\xffv\x07msgpack\x00" + bytes(8) + b"\xa3bad"),
        "broken header": ("SET", key, header[:30]),
    }[kind]
    say(redis_server, *command)
    assert [store.read(), store.read()] == ["old", "old"]
    assert (store.counts.loads, store.counts.hits, store.counts.undecodable) == (1, 1, 1)
    assert (store.counts.errors, store.counts.bypassed, store.counts.refused) == (0, 0, 0)


# --- cancellation ---


def test_cancelled_call(new_redis: NewRedis) -> None:
    """A call that is cancelled in its lookup gives the lease back, and its answer is not taken for another's."""
    server = new_redis()
    cache = Cache(server.url, timeout=20, lease=600)
    other = RedisBackend.from_url(server.url, timeout=20, clock=lambda: 0.0)

    @cache.cached(key="number:{number}")
    async def times_ten(number: int) -> int:
        return number * 10

    async def scenario() -> None:
        assert await asyncio.gather(*map(times_ten, range(5))) == [0, 10, 20, 30, 40]
        server.freeze()
        tasks = [asyncio.create_task(times_ten(number)) for number in range(100, 110)]
        await asyncio.sleep(0.05)  # now they have sent, and wait
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        server.thaw()
        assert [await times_ten(number) for number in range(5)] == [0, 10, 20, 30, 40]
        for number in range(100, 110):
            async with asyncio.timeout(20):  # far less than the lease lasts
                while await other.aio.lookup(f"cacheside:number:{number}", 600) == Busy():
                    await asyncio.sleep(0.01)
        await cache.aclose()
        await other.aio.close()

    asyncio.run(scenario())
    assert cache.stats().totals.errors == 0


@pytest.mark.parametrize("connections", [1, 16])
def test_cancelled_command(new_redis: NewRedis, connections: int) -> None:
    """Below the engine: the reply to a cancelled lookup reaches nobody else, and the lease that it won is released."""
    server = new_redis()
    url = f"{server.url}?max_connections={connections}"
    backend = RedisBackend.from_url(url, timeout=20, clock=lambda: 0.0)

    async def scenario() -> None:
        lease = await backend.aio.lookup("a", 10)
        assert isinstance(lease, Leased)
        assert await backend.aio.fill("a", lease.token, b"value", 60)
        assert isinstance(await backend.aio.lookup("a", 10), Hit)
        server.freeze()
        task = asyncio.create_task(backend.aio.lookup("b", 600))
        await asyncio.sleep(0.05)  # now it has sent, and waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.thaw()
        hit = await backend.aio.lookup("a", 10)
        assert isinstance(hit, Hit)
        assert hit.stored == b"value"
        async with asyncio.timeout(20):
            while not isinstance(await backend.aio.lookup("b", 600), Leased):
                await asyncio.sleep(0.01)
        assert await backend.aio.lookup("b", 600) == Busy()
        await backend.aio.close()

    asyncio.run(scenario())


def test_cancelled_in_the_queue(redis_server: RedisServer, namespace: str) -> None:
    """Callers that are cancelled while they wait for a connection take none with them."""
    url = f"{redis_server.url}?max_connections=2"
    backend = RedisBackend.from_url(url, timeout=20, clock=lambda: 0.0)

    async def scenario() -> None:
        for _ in range(5):
            tasks = [asyncio.create_task(backend.aio.lookup(namespace, 10)) for _ in range(50)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.wait(tasks)
            assert all(task.exception() is None for task in tasks[1::2])
        await backend.aio.close()

    asyncio.run(scenario())


# --- fork ---

FORK = """
    import asyncio, os, sys
    from cacheside.backends.base import Busy
    from cacheside.backends.redis import RedisBackend

    url, colour, runner = sys.argv[1], sys.argv[2], asyncio.Runner()
    backend = RedisBackend.from_url(url, timeout=20, clock=lambda: 0.0)

    def call(verb, *args):
        if colour == "sync":
            return getattr(backend, verb)(*args)
        return runner.run(in_task(verb, args))

    async def in_task(verb, args):
        return await getattr(backend.aio, verb)(*args)

    lease = call("lookup", "parent", 10)
    pid = os.fork()
    if pid == 0:
        runner = asyncio.Runner()
        try:
            for number in range(50):
                assert call("lookup", "parent", 10) == Busy()
            assert call("fill", "child", call("lookup", "child", 10).token, b"child", 60) is True
            call("close")
            os._exit(0)
        finally:
            os._exit(1)
    for number in range(50):
        assert call("fill", f"{number}", call("lookup", f"{number}", 10).token, b"%d" % number, 60) is True
        assert call("lookup", f"{number}", 10).stored == b"%d" % number
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert call("fill", "parent", lease.token, b"parent", 60) is True
    assert call("lookup", "child", 10).stored == b"child"
    call("close")
    runner.close()
"""


@pytest.mark.parametrize("name", COLOURS)
def test_fork(new_redis: NewRedis, name: str) -> None:
    """A child opens its own connections, and disturbs nothing of its parent's."""
    command = [sys.executable, "-P", "-W", "error", "-c", textwrap.dedent(FORK), new_redis().url, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
