"""`updates` on all kinds of functions, and what is refused at decoration."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from wire import Wire
from write_shop import Shop

import cacheside
from cacheside import Cache, ConfigurationError, InvalidKeyError, cached, updates

# --- kinds of functions ---


def test_plain_function_that_returns_a_coroutine(wire: Wire) -> None:
    """Under a plain decorator a write may return a coroutine: what that returns is put in, and not the coroutine."""
    cache = Cache(wire)

    @cache.cached(key="row")
    async def read() -> str:
        return "loaded"

    def traced(fn: Any) -> Any:
        return functools.wraps(fn)(lambda *args: fn(*args))

    @cache.updates(read)
    @traced
    async def write() -> str:
        return "new"

    async def main() -> list[str]:
        return [await write(), await read()]

    assert asyncio.run(main()) == ["new", "new"]
    assert cache.stats().updates == 1


def test_methods() -> None:
    """A cached method is the target of writes in its class, by the instance that writes, and bound to an instance."""
    cacheside.configure(Wire())

    class Shelf:
        def __init__(self, name: str) -> None:
            self.name = name

        @cached("{self.name}:{row}")
        def get(self, row: int) -> str:
            return "loaded"

        @updates(get)
        def put(self, row: int, value: str) -> str:
            return value

        @updates(get)
        async def aput(self, row: int, value: str) -> str:
            return value

    a, b = Shelf("a"), Shelf("b")
    bound = updates(b.get)(lambda row, value: value)
    assert (a.put(1, "new"), asyncio.run(a.aput(2, "newer")), bound(3, "bound")) == ("new", "newer", "bound")
    assert [a.get(row) for row in (1, 2, 3)] == ["new", "newer", "loaded"]
    assert [b.get(row) for row in (1, 2, 3)] == ["loaded", "loaded", "bound"]


def test_default_keys() -> None:
    """A target whose key is made of its arguments gets the value under those of the write, with its own defaults."""
    cacheside.configure("memory://")

    @cached
    def search(word: str, page: int = 1) -> str:
        return "loaded"

    @updates(search)
    def index(word: str, page: int, text: str) -> str:
        return text

    index("a", 1, text="new")
    assert (search("a"), search(word="a", page=2)) == ("new", "loaded")


def test_bare_decorator_finds_its_cache_at_the_call() -> None:
    """The bare decorator puts the value into the default cache of the moment, by the ttl and serializer of that one."""

    @cached("row:{row}")
    def read(row: int) -> Any:
        return "loaded"

    @updates("row:{row}", hold=7)
    def write(row: int) -> Any:
        return (row,)

    for wire in (Wire(), Wire(in_process=True), Wire()):
        cacheside.configure(wire)
        write(1)
        assert read(1) == (1,)
        assert wire.holds == [7]


def test_bad_keys_come_before_the_write(shop: Shop) -> None:
    """A key that cannot be made is an error before anything is guarded or written."""
    with pytest.raises(InvalidKeyError):
        shop.run(shop.writer(shop.cache.updates(shop.read, lambda row, value: "two words")), 1, "new")
    assert shop.asked() == []


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "soon", True])
def test_bad_ttl(ttl: Any) -> None:
    """A ttl that cannot work is refused at decoration; so is one that has nothing to work on."""
    with pytest.raises(ConfigurationError, match="ttl"):
        updates("row", ttl=ttl)
    with pytest.raises(ConfigurationError, match="ttl"):
        Cache().updates("row", ttl=ttl)


def test_ttl_without_use() -> None:
    """ttl= beside targets that all have their own is refused; beside a text it is taken."""
    read = Cache().cached(key="row")(lambda: None)
    with pytest.raises(ConfigurationError, match="ttl= is for targets"):
        updates(read, ttl=5)(lambda: None)
    updates(read, "row", ttl=5)(lambda: None)
