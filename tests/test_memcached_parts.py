"""The parts of the memcached backend that do no I/O: addresses, the ring, keys, durations, the pool."""

from __future__ import annotations

import inspect
import threading
import time
from typing import Any

import pytest

from cacheside.backends.base import AsyncBackend, Backend, Size
from cacheside.backends.beyond import AsyncBatching, AsyncClaiming, Batching, Claiming
from cacheside.backends.memcached import MemcachedBackend
from cacheside.backends.memcached.replies import Inbox
from cacheside.backends.memcached.ring import Ring
from cacheside.backends.memcached.wire import whole_seconds, wire_key
from cacheside.backends.pool import GONE, OPEN, Pool, Waiter
from cacheside.errors import ConfigurationError

# --- the object and its addresses ---


def test_meets_the_protocol() -> None:
    """It is a `Backend`, its attribute `aio` an `AsyncBackend`, and it shows its servers."""
    backend = MemcachedBackend(["a", "b:1", "[::1]", "/tmp/mc.sock"])
    assert isinstance(backend, Backend)
    assert isinstance(backend.aio, AsyncBackend)
    assert isinstance(backend, Claiming)
    assert isinstance(backend, Batching)
    assert isinstance(backend.aio, AsyncClaiming)
    assert isinstance(backend.aio, AsyncBatching)
    assert backend.aio is backend.aio
    assert backend.capabilities == backend.aio.capabilities == {"whole_seconds", "stores", "claims", "batches"}
    assert backend.size() == Size(None, None)
    for text in (repr(backend), repr(backend.aio)):
        assert "['a:11211', 'b:1', '[::1]:11211', '/tmp/mc.sock']" in text


def test_colours_do_not_drift() -> None:
    """Both colours have the protocol's methods, with its parameters."""
    backend = MemcachedBackend(["a"])
    plain, awaitable = (Backend, Claiming, Batching), (AsyncBackend, AsyncClaiming, AsyncBatching)
    for protocol, ours in [(one, backend) for one in plain] + [(one, backend.aio) for one in awaitable]:
        for name, method in inspect.getmembers(protocol, inspect.isfunction):
            if not name.startswith("_"):
                expected = list(inspect.signature(method).parameters)[1:]
                assert list(inspect.signature(getattr(ours, name)).parameters) == expected, name


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("memcached://h", ["h:11211"]),
        ("memcached://H1:1,h2/", ["h1:1", "h2:11211"]),
        ("memcached://[::1]:5,[fe80::1%25eth0]", ["[::1]:5", "[fe80::1%eth0]:11211"]),
        ("memcached:///tmp/a.sock", ["/tmp/a.sock"]),
        ("memcached:///tmp/a%20b.sock,/tmp/c.sock?max_connections=3", ["/tmp/a b.sock", "/tmp/c.sock"]),
    ],
)
def test_urls(url: str, servers: list[str]) -> None:
    """Hosts with or without ports, and socket paths, one or several."""
    assert repr(servers) in repr(MemcachedBackend.from_url(url, timeout=1))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://h", "begins with memcached://"),
        ("memcached:h", "begins with memcached://"),
        ("memcached://", "names no memcached server"),
        ("memcached:///", "no path"),
        ("memcached://h1,,h2", "names no memcached server"),
        ("memcached://h:0", "from 1 to 65535"),
        ("memcached://h:65536", "from 1 to 65535"),
        ("memcached://h:x", "names no memcached server"),
        ("memcached://::1", "names no memcached server"),
        ("memcached://h..x", "names no memcached server"),
        ("memcached://h/0", "no database number"),
        ("memcached://h#x", "no database number"),
        ("memcached://h,H:11211", "given twice"),
        ("memcached://h?timeout=3", "unknown option 'timeout'"),
        ("memcached://h?password=secret", "unknown option 'password'"),
        ("memcached://h?max_connections=0", "at least 1"),
        ("memcached://h?max_connections=", "at least 1"),
        ("memcached://h?max_connections=2&max_connections=3", "at least 1"),
        ("memcached://user:secret@h:1", "no user"),
        ("memcached://user:sec/ret@h:1", "no user"),
        ("memcached://user:se?c#ret@h:1", "no user"),
        ("memcached://h1,u:secret@h2", "no user"),
    ],
)
def test_bad_urls(url: str, text: str) -> None:
    """A URL that cannot work is refused before any I/O, and no message shows a password."""
    with pytest.raises(ConfigurationError, match=text) as raised:
        MemcachedBackend.from_url(url, timeout=1)
    assert "sec" not in str(raised.value).replace("seconds", "")


@pytest.mark.parametrize(
    ("servers", "options", "text"),
    [
        ([], {}, "at least one server"),
        ("localhost", {}, "as a list"),
        ([("h", 1)], {}, "given as text"),
        (["u:secret@h"], {}, "no user"),
        (["h"], {"timeout": 0}, "positive"),
        (["h"], {"timeout": float("nan")}, "positive"),
        (["h"], {"timeout": float("inf")}, "positive"),
        (["h"], {"timeout": None}, "positive"),
        (["h"], {"max_connections": 0}, "at least 1"),
        (["h"], {"max_connections": 1.5}, "at least 1"),
        (["h"], {"max_connections": True}, "at least 1"),
    ],
)
def test_bad_arguments(servers: Any, options: dict[str, Any], text: str) -> None:
    """An argument that cannot work is refused at construction."""
    with pytest.raises(ConfigurationError, match=text):
        MemcachedBackend(servers, **options)


def test_clear_takes_no_prefix() -> None:
    """memcached cannot clear a part of its keys, and says so rather than clearing all."""
    with pytest.raises(ConfigurationError, match="everything"):
        MemcachedBackend(["h"]).clear("shop:")


# --- the ring ---

KEYS = [b"user:%d" % number for number in range(3000)]


def test_ring_is_even_and_stable() -> None:
    """Each server gets its share; a server that leaves moves its own keys and no others; the order says nothing."""
    names = ["a:1", "b:1", "c:1"]
    ring, shuffled, smaller = Ring(names), Ring(names[::-1]), Ring(names[:2])
    homes = [ring.servers[ring.index(key)].name for key in KEYS]
    assert [shuffled.servers[shuffled.index(key)].name for key in KEYS] == homes
    assert all(800 < homes.count(name) < 1200 for name in names)
    for key, home in zip(KEYS, homes, strict=True):
        if home != "c:1":
            assert smaller.servers[smaller.index(key)].name == home


def test_ring_never_changes() -> None:
    """Where keys live is the same in every release: processes of two releases share the servers."""
    ring = Ring(["a:1", "b:1", "c:1"])
    assert "".join(ring.servers[ring.index(key)].host for key in KEYS[:24]) == "bbccaaabacaacacbaabbacca"


# --- the wire ---


def test_short_keys_are_kept() -> None:
    """A key that fits is stored under its own name; one that does not keeps its beginning, and fits."""
    assert wire_key("shop:user:7") == b"shop:user:7"
    assert wire_key("k" * 250) == b"k" * 250
    assert wire_key("k" * 251).startswith(b"kkkk")
    assert len(wire_key("k" * 251)) == len(wire_key(wire_key("k" * 251).decode())) == 250


@pytest.mark.parametrize(
    ("duration", "whole"),
    [(None, 0), (0.01, 2), (1, 2), (1.5, 3), (30 * 86400 - 1, 30 * 86400), (1e300, 2**31 - 1)],
)
def test_whole_seconds(duration: float | None, whole: int) -> None:
    """Durations are never cut short, 0 is kept for "never", and no number is too large for the server."""
    assert whole_seconds(duration) == whole


def test_long_durations_are_dates() -> None:
    """From 30 days on the server wants a date."""
    assert 0 <= whole_seconds(30 * 86400) - time.time() - 30 * 86400 <= 5


def test_inbox_takes_any_pieces() -> None:
    """Replies are found however the bytes are cut up on their way."""
    stream = b"HD c1\r\nVA 4 c2 f197\r\n\r\nEN\r\nVA 0 c3 f0 W\r\n\r\nEN\r\n"
    for size in range(1, len(stream) + 1):
        inbox = Inbox(4)
        done = [inbox.feed(stream[start : start + size]) for start in range(0, len(stream), size)]
        assert done == [False] * (len(done) - 1) + [True]
        assert [reply.line[:2] for reply in inbox.replies] == [b"HD", b"VA", b"VA", b"EN"]
        assert [reply.value for reply in inbox.replies] == [b"", b"\r\nEN", b"", b""]


# --- the pool ---


class Fake:
    """A connection: nothing but its stamp."""

    def __init__(self, opened: int) -> None:
        self.opened = opened


def new_pool(limit: int, *stamps: int) -> tuple[Pool[Fake, threading.Event], list[Fake]]:
    """A pool, and connections that it has opened and that are in use."""
    pool: Pool[Fake, threading.Event] = Pool(limit, threading.Event)
    connections = [Fake(stamp) for stamp in stamps]
    for connection in connections:
        assert pool.take(None) is OPEN
        pool.opened(connection)
    return pool, connections


def waiting(pool: Pool[Fake, threading.Event], before: int | None) -> Waiter[Fake, threading.Event]:
    """Somebody who has to wait."""
    waiter = pool.take(before)
    assert isinstance(waiter, Waiter)
    return waiter


def test_pool_reuses_the_latest() -> None:
    """What was used last is used first; one with a CAS gets the latest of the older ones, or word that none is left."""
    pool, (one, two, three) = new_pool(3, 1, 2, 3)
    for connection in (one, two, three):
        assert pool.give(connection)
    assert pool.take(3) is two
    assert pool.take(None) is three
    assert pool.take(1) is GONE


def test_pool_hands_over_in_turn() -> None:
    """The limit holds; who waits gets what comes back in the order of arrival, past those who may not use it."""
    pool, (old, new) = new_pool(2, 1, 5)
    picky, first, second = waiting(pool, 3), waiting(pool, None), waiting(pool, None)
    assert pool.give(new)
    assert (picky.granted, first.granted, second.granted) == (None, new, None)
    assert pool.give(old)
    assert picky.granted is old
    assert picky.event.is_set()
    pool.drop(new)
    assert second.granted is OPEN


def test_pool_tells_when_the_last_is_gone() -> None:
    """Who waits for an old connection hears at once when the last of them broke."""
    pool, (old, older) = new_pool(3, 2, 1)
    waiter = waiting(pool, 3)
    pool.drop(old)
    assert waiter.granted is None
    pool.drop(older)
    assert waiter.granted is GONE


def test_pool_loses_no_turn() -> None:
    """A waiter that leaves passes on what it had been granted, and a failed opening lets the next one try."""
    pool, (only,) = new_pool(1, 1)
    first, second, third = (waiting(pool, None) for _ in range(3))
    assert pool.give(only)
    assert pool.leave(first) is None
    assert second.granted is only
    pool.drop(only)
    assert third.granted is OPEN
    pool.failed()
    assert pool.take(None) is OPEN


def test_retired_pool_keeps_nothing() -> None:
    """After `close` what comes back is closed, but whoever waits is still served."""
    pool, (idle, busy) = new_pool(2, 1, 2)
    assert pool.give(idle)
    assert pool.retire() == [idle]
    assert not pool.give(busy)
