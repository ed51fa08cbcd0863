"""Strict writes and updates of all kinds of functions, and what is refused at decoration."""

from __future__ import annotations

import asyncio
import functools
import inspect
from datetime import timedelta
from typing import Any

import pytest
from wire import Wire
from write_shop import Shop

import cacheside
from cacheside import Cache, CacheUnavailable, ConfigurationError, cached, invalidates, updates
from cacheside.testing import disabled

# --- kinds of functions ---


def test_plain_function_that_returns_a_coroutine(wire: Wire) -> None:
    """Under a plain decorator a write may return a coroutine: the guard stands while that runs."""
    cache = Cache(wire)

    def traced(fn: Any) -> Any:
        return functools.wraps(fn)(lambda *args: fn(*args))

    @cache.invalidates("row:{row}", strict=True)
    @traced
    async def write(row: int) -> list[str]:
        return wire.guarded

    async def main() -> None:
        coroutine = write(1)
        assert wire.guarded == []
        assert await coroutine == [cache._core.prefix + "row:1"]
        assert (wire.guarded, cache.stats().guards_lost) == ([], 0)
        wire.breaks("guard")
        with pytest.raises(CacheUnavailable):
            await write(1)

    asyncio.run(main())
    assert cache.stats().writes_refused == 1


@pytest.mark.parametrize("decorator", [invalidates, updates])
def test_methods(decorator: Any) -> None:
    """Writes may be methods of any kind; their names, docs, signatures and colours stay."""
    wire = Wire()
    cacheside.configure(wire)

    class Service:
        @cached("user:{user_id}")
        def get(self, user_id: int) -> Any: ...

        @decorator(get, strict=True)
        def change(self, user_id: int, kind: str = "x") -> str:
            """Doc."""
            return f"{wire.guarded}{kind}"

        @decorator("user:{user_id}", strict=True)
        @classmethod
        def of_class(cls, user_id: int) -> tuple[Any, ...]:
            return cls.__name__, *wire.guarded

        @decorator("user:{user_id}", strict=True)
        @staticmethod
        def static(user_id: int) -> list[str]:
            return wire.guarded

        @decorator(get, strict=True)
        async def achange(self, user_id: int) -> list[str]:
            return wire.guarded

    service = Service()
    assert service.change(1, kind="y") == "['cacheside:user:1']y"
    assert Service.of_class(2) == service.of_class(2) == ("Service", "cacheside:user:2")
    assert service.static(user_id=3) == Service.static(3) == ["cacheside:user:3"]
    assert asyncio.run(service.achange(4)) == ["cacheside:user:4"]
    assert wire.guarded == []
    assert (Service.change.__name__, Service.change.__doc__) == ("change", "Doc.")
    assert list(inspect.signature(service.change).parameters) == ["user_id", "kind"]
    assert inspect.iscoroutinefunction(service.achange)
    assert not inspect.iscoroutinefunction(service.change)


def test_bare_decorator_finds_its_cache_at_the_call() -> None:
    """The bare decorator guards in the default cache of the moment, also of one configured after it."""

    @invalidates("row:{row}", strict=True, hold=7)
    def write(row: int) -> None: ...

    for wire in (Wire(), Wire(in_process=True)):
        cacheside.configure(wire)
        write(1)
        assert (wire.asked, wire.holds) == (["guard", "unguard"], [7])


def test_cache_of_the_other_colour(wire: Wire) -> None:
    """A strict write whose cache has no client of its colour says so before it writes."""
    if wire.aio is not None:
        cache = Cache(wire.aio)

        @cache.invalidates("row", strict=True)
        def write() -> None:
            raise AssertionError("it was called")

        with pytest.raises(ConfigurationError, match="only an async client"):
            write()
    assert wire.guarded == []


@pytest.mark.parametrize("decorator", ["invalidates", "updates"])
def test_without_a_cache(decorator: str) -> None:
    """On the null cache every strict write goes on: nobody can store anything."""
    cache = Cache("null://")
    read = cache.cached(key="row")(lambda: 1)
    assert getattr(cache, decorator)(read, strict=True)(lambda: 2)() == 2
    with cache.invalidating("row", strict=True):
        assert read() == 1
    assert (cache.stats().writes_refused, cache.stats().guards_lost, cache.stats().pending) == (0, 0, 0)


def test_disabled_still_guards(shop: Shop) -> None:
    """Caching that is off here may be on elsewhere: a strict write guards all the same."""
    with disabled():
        shop.run(shop.writer(shop.cache.invalidates(shop.read, strict=True)), 1, "new")
    assert shop.asked() == ["guard", "write", "unguard"]


# --- at decoration ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold": 5}, "hold= is for strict=True"),
        ({"hold": timedelta(seconds=5)}, "hold= is for strict=True"),
        ({"strict": 1}, "strict="),
        ({"strict": "yes"}, "strict="),
        ({"strict": None}, "strict="),
        ({"strict": True, "hold": 0}, "hold must be"),
        ({"strict": True, "hold": -1}, "hold must be"),
        ({"strict": True, "hold": float("inf")}, "hold must be"),
        ({"strict": True, "hold": float("nan")}, "hold must be"),
        ({"strict": True, "hold": True}, "hold must be"),
        ({"strict": True, "hold": None}, "hold must be"),
        ({"strict": True, "hold": "30"}, "hold must be"),
        ({"strict": True, "hold": timedelta(0)}, "hold must be"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """Options that cannot work are refused at decoration, by all that take them, with what is wrong."""
    cache = Cache()
    for decorator in (invalidates, cache.invalidates, cache.invalidating):
        with pytest.raises(ConfigurationError, match=message):
            decorator("row", **options)
    if "strict" in options:
        for decorator in (updates, cache.updates):
            with pytest.raises(ConfigurationError, match=message):
                decorator("row", **options)


@pytest.mark.parametrize("target", ["row:{result.id}", "row:{result}", lambda row, result: "row"])
def test_result_targets_are_refused(target: Any) -> None:
    """A key that only the result tells cannot be guarded before it: said at decoration, with the cure."""

    def write(row: int) -> None: ...

    cache = Cache()
    decorators = [
        invalidates("row:{row}", target, strict=True), cache.invalidates(target, strict=True), updates(target),
        cache.updates("row:{row}", target), updates(target, strict=True),
    ]  # fmt: skip
    for decorator in decorators:
        with pytest.raises(ConfigurationError, match="an @invalidates of its own"):
            decorator(write)
    invalidates(target)(write)


def test_bad_targets() -> None:
    """What is no target of a plain write is none of a strict one, nor of an update, which are named as they are."""

    def write(row: int) -> None: ...

    def generator() -> Any:
        yield 1

    for decorator, name in ((functools.partial(invalidates, strict=True), "@invalidates"), (updates, "@updates")):
        with pytest.raises(ConfigurationError, match=f"{name} needs a target"):
            decorator()(write)
        with pytest.raises(ConfigurationError, match="row"):
            decorator("row:{nothing}")(write)
        with pytest.raises(ConfigurationError, match="generator"):
            decorator("row")(generator)
        with pytest.raises(ConfigurationError, match=f"{name}.* decorates a function"):
            decorator("row")(5)
