"""The options of `cached`: what is refused, ttl, jitter, predicates, stored exceptions, versions, kinds of results."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest

import cacheside
from cacheside import Cache, CacheWarning, ConfigurationError, InvalidKeyError, cached
from cacheside.testing import FakeClock


@pytest.fixture(autouse=True)
def cache() -> Cache:
    """A fresh default cache for each test."""
    return cacheside.configure("memory://", clock=FakeClock())


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), True, "60", timedelta(0), timedelta(seconds=-5)])
def test_bad_ttl(ttl: Any) -> None:
    """A ttl that cannot be is refused at decoration."""
    with pytest.raises(ConfigurationError, match="ttl"):
        cached(ttl=ttl)
    with pytest.raises(ConfigurationError, match="ttl"):
        Cache(ttl=ttl)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"jitter": 1}, "0.1 spreads"),
        ({"jitter": -0.1}, "fraction"),
        ({"negative_ttl": 0}, "negative_ttl"),
        ({"cache_if": 5}, "callable of the result"),
        ({"cache_exceptions": (5,)}, "classes of exceptions"),
        ({"cache_exceptions": KeyError}, "tuple of classes"),
        ({"ignore": 5}, "tuple of parameter names"),
        ({"ttl": 10**400}, "None means for ever"),
        ({"cache_exceptions": (KeyboardInterrupt,)}, "classes of exceptions"),
        ({"ignore": "session"}, r"ignore=\('session',\)"),
        ({"key": 5}, "user:{user_id}"),
        ({"version": 1.5}, "text or an integer"),
        ({"serializer": "xml"}, "msgpack"),
    ],
)
def test_bad_options(options: dict[str, Any], cure: str) -> None:
    """Each mistake is refused at decoration, and the message says what to write instead."""
    with pytest.raises(ConfigurationError, match=cure):
        cached(**options)


def test_bad_functions() -> None:
    """What cannot be cached is refused at decoration: generators, classes, templates that do not fit."""

    def generator() -> Iterator[int]:
        yield 1

    async def agenerator() -> Any:
        yield 1

    def plain(user_id: int, session: object = None) -> int:
        return user_id

    for fn in (generator, agenerator):
        with pytest.raises(ConfigurationError, match="return a list"):
            cached(fn)
    with pytest.raises(ConfigurationError, match="decorates a function"):
        cached(int)
    with pytest.raises(ConfigurationError, match="decorates a function"):
        cached()(None)  # type: ignore[call-overload]  # on purpose
    with pytest.raises(ConfigurationError, match="user_id"):
        cached("user:{name}")(plain)
    with pytest.raises(ConfigurationError, match="beside key="):
        cached(key="user:{user_id}", ignore=("session",))(plain)
    with pytest.raises(ConfigurationError, match="nobody"):
        cached(ignore=("nobody",))(plain)

    async def akey(user_id: int) -> str:
        return ""

    with pytest.raises(ConfigurationError, match="plain function"):
        cached(key=akey)(plain)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError, match="does not tell its parameters"):
        cached(key="x")(max)
    with pytest.raises(ConfigurationError, match="twice"):
        cached("user:{user_id}", key="user:{user_id}")(plain)  # type: ignore[call-overload]  # on purpose


def test_default_key_on_a_method_is_refused() -> None:
    """A key made from arguments would hold the instance: refused as the class is made, with three cures."""
    with pytest.raises((ConfigurationError, RuntimeError)) as caught:  # Python 3.11 wraps what __set_name__ raises

        class Service:
            @cached
            def get(self, row: int) -> int:
                return row

    error = caught.value if isinstance(caught.value, ConfigurationError) else caught.value.__cause__
    assert isinstance(error, ConfigurationError)
    assert all(cure in str(error) for cure in ("key=", "ignore=('self',)", "__cache_key__"))


def test_unknown_arguments_in_a_default_key() -> None:
    """An object that has no spelling raises, and names the cures; it never gets a key of its address."""

    class Session:
        pass

    @cached
    def get(row: int, session: object) -> int:
        return row

    @cached(ignore=("session",))
    def good(row: int, session: object) -> int:
        return row

    with pytest.raises(InvalidKeyError, match=r"key=.*ignore="):
        get(1, Session())
    assert good(1, Session()) == good(1, Session()) == 1
    assert good.cache_info()[:2] == (1, 1)


def test_key_callable() -> None:
    """A callable gets the arguments with defaults applied; what it returns has to be a possible key."""

    @cached(key=lambda user_id, kind: f"user:{user_id}:{kind}")
    def get(user_id: int, kind: str = "full") -> int:
        return user_id

    assert get.key(1) == get.key(1, "full") == get.key(user_id=1) == "user:1:full"
    with pytest.raises(InvalidKeyError, match=r"\.key\(\)"):
        get(1, "two words")


def test_ttl_and_its_callable(cache: Cache) -> None:
    """Values expire after their ttl: a number, a timedelta, the cache's own, or what a callable makes of the result."""
    clock: Any = cache._home.wall
    for option, lives in ((5, 5), (timedelta(seconds=5), 5), (lambda value: value, 5), (None, 10**9)):

        @cached(ttl=option)
        def get(seconds: int) -> int:
            return seconds

        get(5)
        clock.advance(lives - 0.01)
        get(5)
        assert get.cache_info()[:2] == (1, 1)
        if option is not None:
            clock.advance(0.02)
            get(5)
            assert get.cache_info()[:2] == (1, 2)


def test_ttl_callable_that_says_no() -> None:
    """A ttl callable that returns 0 or less means: do not store; one that returns nonsense is the program's error."""

    @cached(ttl=lambda value: value)
    def get(value: Any) -> Any:
        return value

    assert [get(0), get(0), get(-3)] == [0, 0, -3]
    assert get.cache_info().uncacheable == 3
    with pytest.raises(ConfigurationError, match="ttl"):
        get("soon")


def test_jitter_spreads_downward_only(cache: Cache) -> None:
    """With jitter no entry lives longer than its ttl, none shorter than the fraction allows, and they differ."""
    clock: Any = cache._home.wall

    @cached(ttl=100, jitter=0.5)
    def get(row: int) -> int:
        return row

    for row in range(200):
        get(row)
    clock.advance(49.9)
    assert sum(get(row) >= 0 for row in range(200)) == get.cache_info().hits == 200
    clock.advance(25)
    before = get.cache_info().hits
    for row in range(200):
        get(row)
    survivors = get.cache_info().hits - before
    assert 40 < survivors < 160


def test_cache_if() -> None:
    """A result that the predicate does not want is returned, and loaded again the next time."""

    @cached(cache_if=lambda value: value is not None)
    def get(row: int) -> int | None:
        return row or None

    assert [get(0), get(0), get(1), get(1)] == [None, None, 1, 1]
    info = get.cache_info()
    assert (info.hits, info.loads, info.uncacheable) == (1, 3, 2)


def test_errors_in_the_users_callables_reach_the_caller() -> None:
    """An exception in cache_if= or ttl= is the program's own; it is raised, and strands nobody."""
    broken = [True]

    @cached(cache_if=lambda value: 1 / 0 if broken else True)
    def get(row: int) -> int:
        return row

    with pytest.raises(ZeroDivisionError):
        get(1)
    broken.clear()
    assert [get(1), get(1)] == [1, 1]


def test_versions_never_read_each_other() -> None:
    """Another version= is a miss and replaces the entry; the key shows it; a write drops whatever is there."""

    def make(version: int | str) -> Any:
        @cached("user:{user_id}", version=version)
        def get(user_id: int) -> Any:
            return version

        return get

    old, new = make(1), make(2)
    assert [old(1), old(1), new(1), new(1), old(1)] == [1, 1, 2, 2, 1]
    assert old.key(1) != new.key(1)
    cacheside.default_cache().invalidate("user:1")
    assert old.cache_info().loads == 2
    old(1)
    assert old.cache_info().loads == 3
    cacheside.default_cache().invalidate(new.key(1))
    old(1)
    assert old.cache_info().loads == 4


def test_results_that_are_used_up_are_not_cached() -> None:
    """An iterator or a coroutine can be consumed once: every caller gets one of its own, and a warning says so."""

    @cached
    def numbers(n: int) -> Any:
        return iter(range(n))

    with pytest.warns(CacheWarning, match="only once"):
        assert list(numbers(3)) == [0, 1, 2]
    assert list(numbers(3)) == [0, 1, 2]
    assert numbers.cache_info().loads == 2


def test_stacked_caches() -> None:
    """A cached function may be cached again, in another cache: two levels."""
    near, far = Cache(), Cache()
    calls = []

    @near.cached(key="row:{row}")
    @far.cached(key="row:{row}")
    def get(row: int) -> int:
        calls.append(row)
        return row

    assert [get(1), get(1)] == [1, 1]
    near.invalidate("row:1")
    assert get(1) == 1
    assert calls == [1]
    assert far.stats().totals.hits == 1


def counted(fn: Any) -> Any:
    """`fn`, counting its calls."""

    @functools.wraps(fn)
    def count(*args: Any, **kwargs: Any) -> Any:
        count.calls += 1  # type: ignore[attr-defined]  # an attribute of ours
        return fn(*args, **kwargs)

    count.calls = 0  # type: ignore[attr-defined]  # an attribute of ours
    return count


def test_stacked_under_another_decorator() -> None:
    """Other decorators that keep `__wrapped__` may stand between."""

    @cached(key="row:{row}")
    @counted
    def get(row: int) -> int:
        return row

    assert [get(1), get(row=1)] == [1, 1]
    assert get.__wrapped__.calls == 1  # type: ignore[attr-defined]  # counted's


def test_callable_objects_and_partials() -> None:
    """Objects with __call__ and partials are cached under a key= (they have no name that a key could hold)."""

    class Loader:
        async def __call__(self, row: int) -> int:
            return row

    assert asyncio.run(cached(key="row:{row}")(Loader())(5)) == 5
    add = functools.partial(lambda a, b: a + b, 1)
    assert cached(key="sum:{b}")(add)(2) == 3


def test_memory_hands_out_the_object_itself() -> None:
    """A hit returns the very object, as functools.lru_cache does; with copy=true everybody gets a copy of their own."""

    def load(row: int) -> list[int]:
        return [row]

    live = Cache().cached(key="row:{row}")(load)
    assert live(1) is live(1)
    copied = Cache("memory://?copy=true").cached(key="row:{row}")(load)
    first = copied(1)
    first.append(2)
    assert copied(1) == [1]
    assert copied(1) is not copied(1)


def test_memory_is_bounded(cache: Cache) -> None:
    """More keys than max_entries push out others, as the policy says; expired ones give their memory back."""
    clock = FakeClock()
    small = Cache("memory://?max_entries=3&policy=lru", clock=clock)

    @small.cached(ttl=10)
    def get(row: int) -> int:
        return row

    for row in (1, 2, 3, 1, 4):
        get(row)
    info = get.cache_info()
    assert (info.maxsize, info.currsize) == (3, 3)
    get(1)
    get(2)
    assert get.cache_info().loads == 5
    clock.advance(11)
    assert get.cache_info().currsize == 0


def test_copying_what_cannot_be_copied() -> None:
    """With copy=true a result that cannot be copied is returned, not cached, and a warning says so."""

    @Cache("memory://?copy=true").cached(key="x")
    def get() -> Any:
        return threading.Lock()

    with pytest.warns(CacheWarning, match="cannot copy"):
        first = get()
    assert get() is not first


def test_mocks_are_cached() -> None:
    """A MagicMock has every method there is; it is not taken for an iterator."""
    mock = MagicMock()

    @cached
    def get() -> Any:
        return mock

    assert get() is get() is mock
    assert get.cache_info().loads == 1


@pytest.mark.parametrize(
    "place",
    [
        "memory",
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ],
)
def test_long_tags(request: pytest.FixtureRequest, place: str, namespace: str) -> None:
    """A tag may be as long as it likes, on every backend, and two that differ in the last character are two tags."""
    url = "memory://" if place == "memory" else request.getfixturevalue(place).url
    with Cache(url, namespace=namespace, timeout=20) as cache:
        loads: list[str] = []

        @cache.cached("row:{row}", tags=("tag:{text}",))
        def read(row: int, text: str) -> str:
            loads.append(text[-1])
            return text[-1]

        for size in (60_000, 70_000):
            first, second = size * "x" + "1", size * "x" + "2"
            for _ in range(2):
                assert (read(size + 1, first), read(size + 2, second)) == ("1", "2")
            cache.invalidate(tags=[f"tag:{first}"])
            assert (read(size + 1, first), read(size + 2, second)) == ("1", "2")
            assert loads == ["1", "2", "1"]
            loads.clear()
        assert read.cache_info().errors == 0
