"""Keys of any text, from arguments to the server: a key that works, or `InvalidKeyError`; nothing is smuggled in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from colours import Colour
from hypothesis import example, given, settings
from hypothesis import strategies as st
from long import scaled
from memcached_tools import say as say_memcached
from redis_tools import MakeCache
from redis_tools import say as say_redis
from servers import MemcachedServer, RedisServer

from cacheside import Cache
from cacheside.errors import ConfigurationError, InvalidKeyError

pytestmark = [pytest.mark.proof, pytest.mark.timeout(scaled(120, 7200))]

PLANES = [chr(plane * 0x10000 + 0x123) for plane in range(17)]
NASTY = [
    "", " ", "\r\n", "\0", "\n", "a b", "a\r\nflush_all\r\n", "a\r\nset evil 0 0 1\r\nx\r\n",
    "a 0 0 0\r\n\r\nflush_all", "*1\r\n$8\r\nFLUSHALL\r\n", "a\r\nFLUSHALL\r\n", "a\nFLUSHALL\n", "\0FLUSHALL",
    "a\tb", "\x7f", "\x1b[2J", "%", "%%", "%none", "%v", "%v1", "a%v1", "%0", "%0D%0A", "{}", "{0}", "{tag}", "*",
    "?", "[a-z]", "../../etc", "a:b", ":", "::", "#", "'", '"', "\\", "None", "True", "x" * 10_000, "\r\n" * 5_000,
    "\U0001f600" * 10_000, "é" * 10_000, "\u0000" * 300, "\ud800", "\udfff", "\ud83d\ude00", "a\udc80b", "\ufeff",
    "\u2028", "\u202e", "e\u0301", "\u00e9", "\u212b", "\u00c5", *PLANES, "".join(PLANES), "x" * 249, "x" * 250,
    "x" * 251,
]  # fmt: skip
"""Texts that break somebody's protocol or somebody's terminal; all of them different."""
assert len(set(NASTY)) == len(NASTY)
TEXTS = (
    st.text(st.characters(exclude_categories=()), max_size=60)
    | st.sampled_from(NASTY)
    | st.text("\r\n \0%:v1", max_size=8)
)


class Watched(Protocol):
    """A server of one's own, empty at first, and what happened to it."""

    url: str

    def entries(self) -> int:
        """How many keys it holds."""

    def commands(self) -> dict[str, int]:
        """How often it was given which command."""


class WatchedMemory:
    url = "memory://"

    def entries(self) -> int:
        return -1

    def commands(self) -> dict[str, int]:
        return {}


class WatchedRedis:
    ours = frozenset({"set", "evalsha", "eval", "get", "getrange", "unlink", "time", "select", "client"})
    mine = frozenset({"info", "dbsize", "config", "hello"})  # those of the tests themselves

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self._server = server
        say_redis(server, "CONFIG", "RESETSTAT")

    def entries(self) -> int:
        return int(say_redis(self._server, "DBSIZE"))

    def commands(self) -> dict[str, int]:
        calls: dict[str, Any] = say_redis(self._server, "INFO", "commandstats")
        counted = {name.removeprefix("cmdstat_").split("|")[0]: each["calls"] for name, each in calls.items()}
        return {name: count for name, count in counted.items() if name not in self.mine}


class WatchedMemcached:
    ours = frozenset({"cmd_get", "cmd_set", "cmd_meta", "cmd_flush", "cmd_touch"})

    def __init__(self, server: MemcachedServer) -> None:
        self.url = server.url
        self._server = server

    def _stats(self) -> dict[str, int]:
        lines = say_memcached(self._server, b"stats\r\n").decode().split("\r\n")
        pairs = [line.split(" ")[1:] for line in lines if line.startswith("STAT ")]
        return {name: int(value) for name, value in pairs if value.isdigit()}

    def entries(self) -> int:
        return self._stats()["curr_items"]

    def commands(self) -> dict[str, int]:
        return {name: count for name, count in self._stats().items() if name.startswith("cmd_") and count}


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.server),
        pytest.param("memcached", marks=pytest.mark.server),
    ]
)
def watched(request: pytest.FixtureRequest) -> Watched:
    """Each backend, on a server of its own."""
    if request.param == "memory":
        return WatchedMemory()
    server = request.getfixturevalue(f"new_{request.param}")()
    return WatchedRedis(server) if request.param == "redis" else WatchedMemcached(server)


FORMS = {
    "template": "text:{text}",
    "default": None,
    "two fields": "t:{text}:{text!a}:",
}


@pytest.mark.parametrize("form", FORMS)
def test_nasty_texts(watched: Watched, form: str, colour: Colour, make_cache: MakeCache, namespace: str) -> None:
    """Each text has an entry of its own, which is found again and can be dropped; the server saw no other command."""
    cache = make_cache(watched.url, namespace="name\r\n space \ud800", lease=10)
    key = FORMS[form]
    loads: list[str] = []

    def load(text: str) -> list[Any]:
        loads.append(text)
        return [len(text), loads.index(text)]

    get: Any = colour.decorate(named(cache.cached(key=key)), load)
    first = {text: colour.run(get, text) for text in NASTY}
    assert loads == NASTY
    assert {text: colour.run(get, text) for text in NASTY} == first
    assert loads == NASTY
    keys = {get.key(text) for text in NASTY}
    assert len(keys) == len(NASTY)
    assert all(each.isascii() and each.isprintable() and " " not in each for each in keys)
    if watched.url != "memory://":
        assert watched.entries() == len(NASTY)
    for text in NASTY[::2]:
        colour.run(get.invalidate, text)
    if watched.url != "memory://":
        assert watched.entries() == len(NASTY) // 2
        commands = watched.commands()
        assert commands.keys() <= watched.ours  # type: ignore[attr-defined]  # of a server
        assert "cmd_flush" not in commands
        assert commands.get("cmd_set", len(NASTY)) == len(NASTY)  # fills, and nothing else
    assert cache.stats().totals.errors == 0


def named(decorator: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator of what looks like a function at the top level of a module: a default key on a server needs one."""

    def decorate(fn: Any) -> Any:
        fn.__module__, fn.__qualname__ = "a.module", "load"
        return decorator(fn)

    return decorate


@pytest.fixture
def open_cache(watched: Watched) -> Iterator[Cache]:
    """A cache on it, for plain code."""
    with Cache(watched.url, namespace="n", lease=10) as cache:
        yield cache


def test_any_text(open_cache: Cache, watched: Watched) -> None:
    """The same for texts drawn by lot, and their key names them and no other."""
    loads: list[str] = []
    seen: dict[str, str] = {}

    @open_cache.cached(key="text:{text}")
    def get(text: str) -> str:
        loads.append(text)
        return f"{len(text)} {text[:20]}"

    @settings(deadline=None, max_examples=scaled(80, 4_000))
    @given(text=TEXTS)
    def check(text: str) -> None:
        before = len(loads)
        assert get(text) == f"{len(text)} {text[:20]}"
        assert len(loads) == before + (text not in seen.values())
        assert seen.setdefault(get.key(text), text) == text

    check()
    if watched.url != "memory://":
        assert watched.entries() == len(seen)
        assert watched.commands().keys() <= watched.ours  # type: ignore[attr-defined]  # of a server


def test_raw_texts(open_cache: Cache, watched: Watched) -> None:
    """A text that comes as a key itself is one that rendering can give, or `InvalidKeyError`, and nothing is sent."""
    current = [""]

    @open_cache.cached(key=lambda row: current[0])
    def get(row: int) -> str:
        return current[0]

    @settings(deadline=None, max_examples=scaled(80, 4_000))
    @given(text=TEXTS | st.text("abc:%0Dv.", max_size=300))
    @example(text="plain")
    @example(text="x" * 10_000)
    def check(text: str) -> None:
        current[0] = text
        visible = bool(text) and text.isascii() and text.isprintable() and " " not in text
        before = watched.commands()
        for call in (lambda: get(1), lambda: open_cache.invalidate(text), lambda: invalidating(open_cache, text)):
            try:
                call()
            except InvalidKeyError as refused:
                error = str(refused)
            else:
                error = ""
            assert visible or error
            if error:
                assert not visible or "%" in text
                assert len(error) < 1000
                assert watched.commands() == before

    check()
    if watched.url != "memory://":
        assert watched.commands().keys() <= watched.ours  # type: ignore[attr-defined]  # of a server


def invalidating(cache: Cache, text: str) -> None:
    with cache.invalidating(text):
        pass


def test_any_namespace_and_version(watched: Watched) -> None:
    """Namespaces and versions are any text as well; what cannot be is refused when it is given."""
    caches: list[Any] = []
    too_long: list[str] = []
    for text in NASTY:
        try:
            cache = Cache(watched.url, namespace=text or "empty", lease=10)
            caches.append(cache.cached(key="row:{row}", version=text)(lambda row, text=text: len(text)))
            assert caches[-1](1) == caches[-1](1) == len(text)
        except ConfigurationError:
            too_long.append(text)
        cache.close()
    assert too_long == [text for text in NASTY if len(text.encode(errors="surrogatepass")) > 255]
    if watched.url != "memory://":
        assert watched.entries() == len(caches)
        assert watched.commands().keys() <= watched.ours  # type: ignore[attr-defined]  # of a server


def test_every_character() -> None:
    """Every character that Python has, lone surrogates included, is a field's text of its own."""
    cache = Cache("memory://")

    @cache.cached(key="c:{text}")
    def get(text: str) -> str:
        return text

    step = scaled(97, 1)
    keys = {get.key(chr(point)) for point in range(0, sys.maxunicode + 1, step)}
    assert len(keys) == len(range(0, sys.maxunicode + 1, step))
    assert max(map(len, keys)) == len("c:") + 12
    assert all(key.isascii() and key.isprintable() for key in keys)
