"""`Cache`, the default cache, and what is refused at construction."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import cacheside
from cacheside import Cache, ConfigurationError, cached, configure, default_cache
from cacheside import backends as registry
from cacheside.backends.base import AsyncBackend, Busy, Hit, Leased
from cacheside.backends.memory import MemoryBackend
from cacheside.errors import CacheUnavailable
from cacheside.health import Health


def test_bare_decorators_find_the_default_cache_at_call_time() -> None:
    """`configure` may come after the decoration, and again: each call uses the default cache of its time."""

    @cached("row:{row}")
    def get(row: int) -> int:
        return row

    first = configure("memory://", ttl=5)
    assert default_cache() is first
    get(1)
    second = configure(Cache("memory://"))
    get(1)
    get(1)
    assert (first.stats().totals[:2], second.stats().totals[:2]) == ((0, 1), (1, 1))
    assert get.cache_info()[:2] == (1, 1)
    with pytest.raises(ConfigurationError, match="namespace"):
        configure(first, namespace="x")


def test_environment() -> None:
    """Without `configure` the default cache is CACHESIDE_URL with its options, or else memory."""
    program = "import cacheside; c = cacheside.default_cache(); print(c, c._home.ttl)"
    for url, expected in (
        ("null://?namespace=shop&ttl=60", "<Cache null:// namespace='shop'> 60.0"),
        ("", "<Cache memory:// namespace='cacheside'> 300.0"),
    ):
        environment = {"CACHESIDE_URL": url, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


class Scheme:
    """A backend factory of a user's."""

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Any) -> MemoryBackend:
        return MemoryBackend(max_entries=3)


def test_registering_a_backend() -> None:
    """A scheme may be given by object or by path, once; built-in ones cannot be replaced."""
    registry.register("three", Scheme)
    registry.register("three", Scheme)
    registry.register("nothing", "cacheside.backends.null:NullBackend")
    assert repr(Cache("nothing://")._core.backend) == "null://"
    registry.register("nothing", "cacheside.backends.null:NullBackend")
    assert Cache("three://?namespace=x")._core.size().limit == 3
    with pytest.raises(ConfigurationError, match="registered already"):
        registry.register("three", MemoryBackend)
    with pytest.raises(ConfigurationError, match="registered already"):
        registry.register("redis", Scheme)
    with pytest.raises(ConfigurationError, match=r"package\.module:Attribute"):
        registry.register("four", "package.module")


def test_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """An installed package adds a scheme by an entry point in the group cacheside.backends."""
    (tmp_path / "thirdparty.py").write_text(
        "from cacheside.backends.memory import MemoryBackend\n"
        "class Third:\n"
        "    @classmethod\n"
        "    def from_url(cls, url, *, timeout, clock):\n"
        "        return MemoryBackend(max_entries=33)\n"
    )
    info = tmp_path / "thirdparty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cacheside.backends]\nthird = thirdparty:Third\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Cache("third://")._core.size().limit == 33
    with pytest.raises(ConfigurationError, match="third"):
        Cache("fourth://")


class OnlyAsync(AsyncBackend):
    """A backend of a user's that has no plain form."""

    def __init__(self) -> None:
        self._memory = MemoryBackend()

    @property
    def capabilities(self) -> Any:
        return frozenset({"objects", "clear", "stores"})

    async def lookup(self, key: str, lease: float) -> Hit | Leased | Busy:
        await asyncio.sleep(0)
        return self._memory.lookup(key, lease)

    async def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        return self._memory.replace(key, seen, lease)

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        return self._memory.fill(key, token, stored, ttl)

    async def release(self, key: str, token: Any) -> bool:
        return self._memory.release(key, token)

    async def invalidate(self, keys: Sequence[str]) -> None:
        self._memory.invalidate(keys)

    async def clear(self, prefix: str | None) -> None:
        self._memory.clear(prefix)

    async def close(self) -> None:
        self._memory.close()


class OnlyPlain(MemoryBackend):
    """A backend of a user's that may wait, and has no awaitable form."""

    @property
    def capabilities(self) -> Any:
        return frozenset({"objects", "clear", "stores"})


def test_a_missing_colour_is_an_error_with_the_cure() -> None:
    """Where a backend lacks a colour, a function of it says so at first use, and a write before it writes anything."""
    written = []
    for backend in (OnlyAsync(), OnlyPlain()):
        cache = Cache(backend)

        @cache.cached("row:{row}")
        def get(row: int) -> int:
            return row

        @cache.cached("row:{row}")
        async def aget(row: int) -> int:
            return row

        @cache.invalidates("row:{row}")
        def put(row: int) -> None:
            written.append(row)

        @cache.invalidates("row:{row}")
        async def aput(row: int) -> None:
            written.append(row)

        if isinstance(backend, OnlyAsync):
            assert asyncio.run(aget(1)) == asyncio.run(aget(1)) == 1
            assert aget.cache_info()[:4] == (1, 1, None, None)
            for call in (lambda get=get: get(1), lambda put=put: put(1), lambda cache=cache: cache.invalidate("row:1")):
                with pytest.raises(ConfigurationError, match="plain one as well"):
                    call()
        else:
            assert get(1) == get(1) == 1
            for acall in (lambda aget=aget: aget(1), lambda aput=aput: aput(1)):
                with pytest.raises(ConfigurationError, match="async one as well"):
                    asyncio.run(acall())
    assert written == []


def test_null_never_caches() -> None:
    """On null:// every call goes to the store; nothing is shared, the verbs do nothing."""
    cache = Cache("null://")

    @cache.cached
    def get(row: int) -> object:
        return object()

    @cache.cached
    async def aget(row: int) -> object:
        return object()

    async def main() -> None:
        first, second = await asyncio.gather(aget(1), aget(1))
        assert first is not second
        await aget.invalidate(1)

    assert get(1) is not get(1)
    get.invalidate(1)
    cache.clear()
    asyncio.run(main())
    info = get.cache_info()
    assert info == info._replace(hits=0, misses=2, currsize=0, maxsize=0, loads=2, bypassed=2, refused=0, coalesced=0)


def test_memory_caches_are_private() -> None:
    """Two memory caches share nothing, whatever their namespaces."""
    one, two = Cache(), Cache()
    calls = []

    def load(row: int) -> int:
        calls.append(row)
        return row

    for cache in (one, two):
        cache.cached("row:{row}")(load)(1)
    assert calls == [1, 1]


def test_clear_and_close() -> None:
    """`clear` drops everything; `close` is idempotent and not the end; a cache is a block in both colours."""
    cache = Cache()

    @cache.cached("row:{row}")
    def get(row: int) -> int:
        return row

    async def main() -> None:
        async with cache as same:
            assert same is cache
            await cache.aclear()
        await cache.aclose()

    with cache as same:
        assert same is cache
        get(1)
    cache.close()
    cache.close()
    get(1)
    assert get.cache_info()[:2] == (1, 1)
    cache.clear()
    get(1)
    asyncio.run(main())
    get(1)
    assert get.cache_info()[:2] == (1, 3)


def test_stats() -> None:
    """`stats()` has totals and a line for each function; a function that is gone goes on counting in its line."""
    cache = Cache()

    def make() -> Any:
        @cache.cached("row:{row}")
        def get(row: int) -> int:
            return row

        return get

    get = make()
    get(1)
    get(1)
    get.invalidate(1)
    cache.invalidate("row:1", "row:2")
    stats = cache.stats()
    (line,) = stats.functions.values()
    assert next(iter(stats.functions)).endswith("make.<locals>.get")
    assert (line.hits, line.misses, line.hit_rate, stats.hit_rate, stats.invalidations) == (1, 1, 0.5, 0.5, 3)
    assert line.maxsize == 10_000
    del get
    again = make()
    again(7)
    assert cache.stats().totals[:2] == (1, 2)
    assert again.cache_info()[:2] == (0, 1)
    assert Cache().stats().hit_rate == 0.0


def test_counters_lose_nothing_between_threads() -> None:
    """Every call is one hit or one miss, however many threads call at once."""
    cache = Cache()

    @cache.cached("row:{row}")
    def get(row: int) -> int:
        return row

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [get(row % 10) for row in range(2000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    info = get.cache_info()
    assert info.hits + info.misses == 16_000
    assert info.loads == 10


class Flapping(MemoryBackend):
    """A cache that fails while `broken`."""

    broken = False

    def lookup(self, key: str, lease: float) -> Any:
        if self.broken:
            raise CacheUnavailable("no answer")
        return super().lookup(key, lease)


def test_a_half_broken_cache_is_one_state(caplog: pytest.LogCaptureFixture) -> None:
    """A cache that fails and succeeds in turns (one node of several is down) does not flood the log."""
    caplog.set_level(logging.INFO, "cacheside")
    backend = Flapping()
    get = Cache(backend).cached("row:{row}")(lambda row: row)
    for turn in range(50):
        backend.broken = turn % 2 == 0
        get(1)
    assert len(caplog.records) == 1


def test_a_broken_cache_raises_nothing_and_logs_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls get the store's answer, each is counted, and each change of state is one line under our logger."""
    monkeypatch.setattr(Health, "SETTLED", 0.0)
    caplog.set_level(logging.INFO, "cacheside")
    backend = Flapping()
    cache = Cache(backend)

    @cache.cached("row:{row}")
    def get(row: int) -> int:
        return row

    for broken in (False, True, False, True):
        backend.broken = broken
        assert [get(1), get(1), get(1)] == [1, 1, 1]
    info = get.cache_info()
    assert (info.hits, info.misses, info.bypassed, info.errors) == (5, 7, 6, 6)
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("cacheside", "WARNING"),
        ("cacheside", "INFO"),
        ("cacheside", "WARNING"),
    ]
    assert not logging.getLogger("cacheside").handlers


def test_version_is_that_of_the_package() -> None:
    """`__version__` and the metadata agree."""
    from importlib.metadata import version

    assert cacheside.__version__ == version("cacheside")
