"""The memcached backend, in both colours, when servers restart, hang, refuse or are none; cancellation; fork."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from adapter import COLOURS
from memcached_tools import Impostor, Open, opener, recovered, say
from servers import HOST, MemcachedServer, free_port

from cacheside.backends import create
from cacheside.backends.base import Busy, Hit, Leased
from cacheside.backends.memcached import MemcachedBackend
from cacheside.errors import CacheUnavailable, ConfigurationError

NewMemcached = Callable[..., MemcachedServer]


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(*servers, **options)`."""
    with opener(request.param) as make:
        yield make


@pytest.fixture
def impostor() -> Iterator[Callable[[bytes], Impostor]]:
    """Start a server that is none: `impostor(answer)`."""
    with ExitStack() as stack:

        def start(answer: bytes) -> Impostor:
            server = Impostor(answer)
            stack.callback(server.close)
            return server

        yield start


# --- restarts and the connection rule ---


def test_restart_reuses_cas(open_backend: Open, new_memcached: NewMemcached) -> None:
    """After a restart the CAS of a dead lease names another's lease: the old fill is not even sent."""
    server = new_memcached()
    cache, other = open_backend(server), open_backend(server)
    old = cache.lookup("k", 60)
    server.restart()
    new = other.lookup("k", 60)
    assert new.token.number == old.token.number  # the trap is set
    assert cache.lookup("elsewhere", 60)  # and there is a live connection, a new one
    assert cache.fill("k", old.token, b"old", 60) is False
    assert cache.release("k", old.token) is False
    assert cache.replace("k", old.token, 60) == Busy()
    assert other.lookup("k", 60) == Busy()
    # The control: sent over any connection, that fill would have been taken.
    assert say(server, b"ms k 3 C%d T60\r\nold\r\n" % old.token.number) == b"HD\r\n"
    assert other.lookup("k", 60).stored == b"old"


def test_close_is_not_the_end(open_backend: Open, memcached_server: MemcachedServer, namespace: str) -> None:
    """After `close` calls go on; but a lease from before is lost with its connection."""
    cache = open_backend(memcached_server)
    lease = cache.lookup(namespace, 10)
    cache.close()
    cache.close()
    assert cache.fill(namespace, lease.token, b"value", 60) is False
    assert cache.lookup(namespace, 10) == Busy()


def test_restart_is_not_noticed(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A restarted server has closed all pooled connections: the next call just works, whichever it is."""
    server = new_memcached()
    cache = open_backend(server)
    mark = "me--------------"
    calls = [("lookup", "k", 10), ("invalidate", ["k"]), ("clear", None)]
    calls += [("guard", ["k"], mark, 10), ("unguard", [("k", mark)])]
    for verb, *args in calls:
        server.freeze()  # so that every one of these needs a connection of its own
        threading.Timer(0.2, server.thaw).start()
        cache.together(8, "lookup", "k", 10)
        server.restart()
        getattr(cache, verb)(*args)


def test_lost_fill_is_not_sent_again(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A fill whose connection broke is an error, not a second attempt."""
    server = new_memcached()
    cache = open_backend(server)
    lease = cache.lookup("k", 60)
    server.restart()
    with pytest.raises(CacheUnavailable, match=server.address):
        cache.fill("k", lease.token, b"old", 60)
    assert say(server, b"mg k v\r\n") == b"EN\r\n"


# --- servers that fail ---


def test_frozen_server(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A server that does not answer is unavailable after the timeout, and its late answer reaches nobody."""
    server = new_memcached()
    cache = open_backend(server, timeout=0.5)
    for key in ("a", "b"):
        cache.store(key, key.encode())
    server.freeze()
    with pytest.raises(CacheUnavailable, match=f"{server.address}.*timed out"):
        cache.lookup("a", 10)
    server.thaw()
    assert recovered(cache.lookup, "b", 10).stored == b"b"


def test_queue_ends(open_backend: Open, new_memcached: NewMemcached, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a connection for ever, and whoever gave up has left nothing behind."""
    monkeypatch.setattr("cacheside.backends.memcached.sync.PATIENCE", 0.1)
    monkeypatch.setattr("cacheside.backends.memcached.aio.PATIENCE", 0.1)
    server = new_memcached()
    cache = open_backend(server, timeout=1, max_connections=1)
    cache.store("k", b"value")
    server.freeze()
    errors = [str(error) for error in cache.together(5, "lookup", "k", 10)]
    assert sum("timed out" in error for error in errors) == 1
    assert sum("raise max_connections" in error for error in errors) == 4
    server.thaw()
    assert recovered(cache.lookup, "k", 10).stored == b"value"


def test_cancelled_command(new_memcached: NewMemcached) -> None:
    """The answer to a cancelled command is not taken for the answer to the next one."""
    server = new_memcached()
    backend = MemcachedBackend([server.address], timeout=5)

    async def scenario() -> None:
        for key in ("a", "b"):
            lease = await backend.aio.lookup(key, 10)
            assert isinstance(lease, Leased)
            assert await backend.aio.fill(key, lease.token, key.encode(), 60)
        server.freeze()
        task = asyncio.create_task(backend.aio.lookup("a", 10))
        for _ in range(5):
            await asyncio.sleep(0)  # now it has sent, and waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.thaw()
        hit = await backend.aio.lookup("b", 10)
        assert isinstance(hit, Hit)
        assert hit.stored == b"b"
        await backend.aio.close()

    asyncio.run(scenario())


def test_cancelled_while_waiting(memcached_server: MemcachedServer, namespace: str) -> None:
    """Callers that are cancelled in the queue for a connection take none with them."""
    backend = MemcachedBackend([memcached_server.address], timeout=5, max_connections=1)

    async def scenario() -> None:
        for _ in range(3):
            tasks = [asyncio.create_task(backend.aio.lookup(namespace, 10)) for _ in range(50)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.wait(tasks)
            assert [task.cancelled() for task in tasks] == [True, False] * 25
            assert all(task.exception() is None for task in tasks[1::2])
        await backend.aio.close()

    asyncio.run(scenario())


def test_hits_leave_room(memcached_server: MemcachedServer, namespace: str) -> None:
    """A task that makes one call after another lets the others run in between, however fast the server answers."""
    backend = MemcachedBackend([memcached_server.address], timeout=5)

    async def scenario() -> None:
        await backend.aio.lookup(namespace, 10)
        turns = []
        other = asyncio.create_task(asyncio.sleep(0))
        other.add_done_callback(turns.append)
        for _ in range(3):
            await backend.aio.lookup(namespace, 10)
        assert turns == [other]
        await backend.aio.close()

    asyncio.run(scenario())


def test_one_loop_after_another(memcached_server: MemcachedServer, namespace: str) -> None:
    """Each event loop has its own connections, and one that ended without `close` leaves nothing to warn about."""
    backend = MemcachedBackend([memcached_server.address], timeout=5)
    kinds = [type(asyncio.run(backend.aio.lookup(namespace, 10))) for _ in range(3)]  # type: ignore[arg-type]  # is one
    assert kinds == [Leased, Busy, Busy]


def test_dead_server(open_backend: Open) -> None:
    """A server that is not there is unavailable, by name."""
    address = f"{HOST}:{free_port()}"
    with pytest.raises(CacheUnavailable, match=address):
        open_backend(address).lookup("k", 10)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"ERROR\r\n", ConfigurationError, "needs 1.6.10"),
        (b"SERVER_ERROR out of memory storing object\r\n", CacheUnavailable, "out of memory"),
        (b"HTTP/1.1 400 Bad Request\r\n", CacheUnavailable, "400 Bad Request"),
        (b"VA x c1 f0\r\n", CacheUnavailable, "number"),
        (b"VA 1 f0\r\nx\r\n", CacheUnavailable, "number"),
        (b"VA 1 c1 f0\r\nxyz\r\n", CacheUnavailable, "length"),
        (b"EN\r\nEN\r\n", CacheUnavailable, "more"),
        (b"x" * 5000, CacheUnavailable, "line without an end"),
        (b"", CacheUnavailable, "closed"),
    ],
)
def test_not_a_memcached(
    open_backend: Open, impostor: Callable[[bytes], Impostor], answer: bytes, error: type[Exception], text: str
) -> None:
    """Whatever a server says, the outcome is one of our errors, with its name; a new connection is not retried."""
    server = impostor(answer)
    with pytest.raises(error, match=text) as raised:
        open_backend(server.address).lookup("k", 10)
    assert server.address in str(raised.value)
    assert server.served == 1


def test_server_without_cas(open_backend: Open, new_memcached: NewMemcached) -> None:
    """Without CAS a lease cannot be checked: refused, with the cure."""
    cache = open_backend(new_memcached("-C"))
    with pytest.raises(ConfigurationError, match="start memcached without -C"):
        cache.lookup("k", 10)


# --- several servers, other addresses ---


def test_ring(open_backend: Open, memcached_ring: list[MemcachedServer], namespace: str) -> None:
    """Several servers share the keys, and both colours, in any order of the list, agree where a key is."""
    cache = open_backend(*memcached_ring)
    keys = [f"{namespace}:{number}" for number in range(60)]
    for key in keys:
        cache.store(key, key.encode())
    other = MemcachedBackend([server.address for server in reversed(memcached_ring)], timeout=5)
    for key in keys:
        hit = other.lookup(key, 10)
        assert isinstance(hit, Hit)
        assert hit.stored == key.encode()
    for server in memcached_ring:
        assert any(say(server, b"mg %b\r\n" % key.encode()) == b"HD\r\n" for key in keys)
    other.invalidate(keys)
    other.close()
    assert all(type(cache.lookup(key, 10)) is Leased for key in keys)


def test_dead_node(open_backend: Open, memcached_ring: list[MemcachedServer], namespace: str) -> None:
    """A dead server's keys are uncached, never moved; the others' go on, and are invalidated whatever happens there."""
    dead = f"{HOST}:{free_port()}"
    cache = open_backend(dead, *memcached_ring)
    keys = [f"{namespace}:{number}" for number in range(60)]
    alive = []
    for key in keys:
        with suppress(CacheUnavailable):
            cache.store(key, b"value")
            alive.append(key)
    assert 0 < len(alive) < len(keys)
    with pytest.raises(CacheUnavailable, match=dead):
        cache.invalidate(keys)
    assert all(type(cache.lookup(key, 10)) is Leased for key in alive)


@pytest.mark.parametrize("colour", COLOURS)
def test_unix_socket_by_url(new_memcached: NewMemcached, colour: str) -> None:
    """The URL of a unix socket, through the registry, reaches it."""
    backend = create(new_memcached(unix=True).url, timeout=5, clock=lambda: 0.0)
    with opener(colour) as make:
        cache = make(f"{HOST}:1")
        cache.backend = backend
        cache.store("k", b"value")
        assert cache.lookup("k", 10).stored == b"value"


def test_host_name(open_backend: Open, memcached_server: MemcachedServer, namespace: str) -> None:
    """A name is looked up, and all of its addresses are tried: this server listens on one of two."""
    cache = open_backend(f"localhost:{memcached_server.port}")
    assert type(cache.lookup(namespace, 10)) is Leased


# --- fork ---

FORK = """
    import asyncio, os, sys
    from cacheside.backends.base import Busy, Leased
    from cacheside.backends.memcached import MemcachedBackend

    backend, colour, runner = MemcachedBackend([sys.argv[1]], timeout=5), sys.argv[2], asyncio.Runner()

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
            assert call("fill", "parent", lease.token, b"child", 60) is False
            assert call("lookup", "parent", 10) == Busy()
            assert call("fill", "child", call("lookup", "child", 10).token, b"child", 60) is True
            call("close")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert call("fill", "parent", lease.token, b"parent", 60) is True
    assert call("lookup", "parent", 10).stored == b"parent"
    assert call("lookup", "child", 10).stored == b"child"
    call("close")
    runner.close()
"""


@pytest.mark.parametrize("colour", COLOURS)
def test_fork(new_memcached: NewMemcached, colour: str) -> None:
    """A child opens its own connections, cannot use its parent's leases, and disturbs nothing of its parent's."""
    command = [sys.executable, "-P", "-W", "error", "-c", textwrap.dedent(FORK), new_memcached().address, colour]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
