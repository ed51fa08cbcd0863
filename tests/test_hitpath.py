"""The hit without a lock: the same answers as by the slow path, and never of a dead entry, whatever happens to it."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import random
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import cacheside
from cacheside import Cache, InvalidKeyError, cached, configure, hitpath
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock, disabled


@pytest.fixture
def clock() -> FakeClock:
    """The time of `cache`."""
    return FakeClock()


@pytest.fixture
def cache(clock: FakeClock) -> Cache:
    """A memory cache whose functions have rows."""
    return Cache("memory://", clock=clock)


def by_row(function: Any) -> int:
    """How many rows the function has: calls that the slow path will not see."""
    table = function._function.runtime().table
    return 0 if table is None else len(table.rows)


def slow_calls(function: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of the calls that come to the slow path from now on."""
    seen: list[tuple[Any, ...]] = []
    of_function = function._function
    real = of_function.locate

    def locate(runtime: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.append(args)
        return real(runtime, args, kwargs)

    monkeypatch.setattr(of_function, "locate", locate)
    return seen


def numbered(decorate: Callable[..., Any]) -> Any:
    """A decorated function of one argument; what it returns is the number of its load."""
    loads: list[object] = []

    def get(a: int) -> int:
        loads.append(a)
        return len(loads)

    return decorate(get)


@dataclass(frozen=True)
class Point:
    """A dataclass that may be taken apart."""

    x: object
    y: object


CALLS = [(1, "a"), ("1", "a"), (True, None), (b"1", ""), (1.5, "x"), ((1, 2), "t"), ([1, 2], "l"), (Point(1, "a"), 0)]


@pytest.mark.parametrize("args", CALLS, ids=repr)
def test_third_call_is_by_a_row(cache: Cache, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call loads, the second finds the entry by its key, then a row is enough; all are counted."""

    @cache.cached
    def get(one: object, two: object) -> object:
        return [one, two]

    first = get(*args)
    assert get(*args) is first
    seen = slow_calls(get, monkeypatch)
    assert all(get(*args) is first for _ in range(10))
    assert seen == []
    assert (get.cache_info().hits, get.cache_info().misses) == (11, 1)
    assert cache.stats().totals.hits == 11


class Account:
    """Has attributes and items, some of which change."""

    def __init__(self, number: object) -> None:
        self.id = number
        self.__dict__["class"] = number
        self.reads = 0

    def __getitem__(self, name: object) -> object:
        return self.id

    @property
    def restless(self) -> int:
        """Another one each time."""
        self.reads += 1
        return self.reads

    @property
    def list(self) -> list[object]:
        """Something that has no hash."""
        return [self.id]


@pytest.mark.parametrize("field", ["a.id", "a[name]", "a[0]", "a.id:>8", "a.id!r", "a.list", "a.id.real"])
def test_by_what_an_argument_has(cache: Cache, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key made from attributes or items is found by them: another object that has the same is the same call."""

    @cache.cached(key=f"k:{{{field}}}:{{b}}")
    def get(a: Account, b: int) -> object:
        return [a.id]

    one, two = Account(1), Account(2)
    first = get(one, 0)
    assert get(one, 0) is first
    seen = slow_calls(get, monkeypatch)
    assert get(one, 0) is get(Account(1), 0) is first
    assert seen == []
    assert get(two, 0) == [2]
    one.id = 2
    assert get(one, 0) is get(two, 0)
    one.id = True
    if field not in ("a.id.real", "a.id:>8"):  # True.real is 1 itself, and so it is in eight columns
        assert get(one, 0) is not first


def test_attribute_that_changes_while_it_is_read(cache: Cache) -> None:
    """A row stands under the very value that its key was made from, or there is none."""

    @cache.cached(key="k:{a.restless}")
    def get(a: Account) -> int:
        return a.reads

    @cache.cached(key="twice:{a.restless}:{a.restless}")
    def get_twice(a: Account) -> int:
        return a.reads

    account = Account(1)
    for _ in range(4):
        for reads in range(20):
            for function in (get, get_twice):
                account.reads = reads
                assert function(account) == account.reads  # the number that was read last: not one that came before
    assert get.cache_info().hits > 0
    assert by_row(get_twice) == 0


def test_attribute_that_is_no_name(cache: Cache) -> None:
    """What cannot be written in Python is found by its key."""

    @cache.cached(key="k:{a.class}")
    def get(a: Account) -> object:
        return [a.id]

    assert get(Account(1)) is get(Account(1)) is not get(Account(2))
    with pytest.raises(InvalidKeyError, match=r"\{a\.class\} cannot be rendered"):
        get(1)  # type: ignore[arg-type]  # that is the test


EQUAL = [
    (1, True, 1.0), (0, False, 0.0, -0.0), ("1", b"1"), ((1, 2), (True, 2), (1.0, 2)), ([1], [True], (1,)),
    ((0.0,), (-0.0,), (0,)), (Point(1, 0.0), Point(1, -0.0), Point(True, 0)), (((1,),), ([1],), [(1,)]),
]  # fmt: skip


@pytest.mark.parametrize("values", EQUAL, ids=repr)
def test_equal_arguments_of_other_types(cache: Cache, values: tuple[object, ...]) -> None:
    """What equals an argument, or looks like it, is another key for all that; in any order, for ever."""

    @cache.cached
    def get(value: object) -> str:
        return repr(value)

    for _ in range(20):
        for value in random.sample(values, len(values)):
            assert get(value) == repr(value)
    assert get.cache_info().loads == len(values)


def test_template_shares_entries(cache: Cache) -> None:
    """`user:1` is one entry, whether asked for by 1 or "1"; each has its row, and both die together."""
    loads: list[object] = []

    @cache.cached(key="user:{user_id}")
    def get(user_id: object, session: object = None) -> int:
        loads.append(user_id)
        return len(loads)

    for _ in range(3):
        assert [get(1), get("1"), get("1", object())] == [1, 1, 1]
    get.invalidate("1")
    assert [get(1), get("1")] == [2, 2]
    assert loads == [1, 1]


def test_one_row_for_an_entry(cache: Cache) -> None:
    """A table never holds more than the cache: an entry has one row in it, the latest, however it is asked for."""

    @cache.cached(key="k:{value!s}")
    def get(value: object) -> object:
        return "x"

    for _ in range(3):
        get(1), get("1"), get(b"1".decode()), get(1.5), get("1.5")
    assert by_row(get) == 2
    small = Cache("memory://?max_entries=5")
    few = small.cached(get.__wrapped__)
    for number in range(100):
        few(number), few(number)
        assert by_row(few) <= 5


SIGNATURES = [
    "a, b", "a, /, b", "a, *, b", "a, b=2", "a=1, /, b=2", "a=1, *, b=2", "a, *, b=2", "a, b, c=3, d=4, e=5",
    "type, clock", "rows, row, slow", "parts, Exception", "row_, row", "self, hits",
]  # fmt: skip


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_signatures(cache: Cache, signature: str, colour: str) -> None:
    """A function is called as before, whatever its parameters are, and is refused what it was refused before."""
    names = [name.partition("=")[0].strip() for name in signature.split(",") if name.strip() not in ("/", "*")]
    made: dict[str, Any] = {}
    exec(f"{'async ' if colour == 'async' else ''}def fn({signature}): return [{', '.join(names)}]", made)
    fn = made["fn"]
    decorated = cache.cached(key="k" + "".join(f":{{{name}}}" for name in names))(fn)
    assert inspect.signature(decorated) == inspect.signature(fn)

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            return await function(*args, **kwargs)

        return asyncio.run(run()) if colour == "async" else function(*args, **kwargs)

    given = [((), {}), (("x",), {}), (("x", "y"), {}), ((), {name: name for name in names}), (("x",), {names[1]: 7})]
    for args, kwargs in given:
        try:
            expected = call(fn, *args, **kwargs)
        except TypeError as error:
            words = re.escape(str(error).partition("(")[2])
            for _ in range(3):
                with pytest.raises(TypeError, match=words):
                    call(decorated, *args, **kwargs)
        else:
            assert [call(decorated, *args, **kwargs) for _ in range(4)] == [expected] * 4
    assert by_row(decorated) > 0


def test_functions_without_rows(cache: Cache) -> None:
    """A key callable, variadic parameters, policies that follow each hit, and copies: found by the key, every time."""
    functions = [
        cache.cached(key=lambda a: f"k:{a}")(lambda a: [a]),
        cache.cached(lambda *a: [a]),
        cache.cached(lambda **a: [a]),
        Cache("memory://?policy=lru").cached(lambda a: [a]),
        Cache("memory://?copy=true").cached(lambda a: [a]),
    ]
    for function in functions:
        argument: dict[str, Any] = {"a": 1}
        results = [function(**argument) if "**" in str(inspect.signature(function)) else function(1) for _ in range(4)]
        assert results == [results[0]] * 4
        assert by_row(function) == 0
        assert function.cache_info()[:2] == (3, 1)


def test_exceptions_have_no_rows(cache: Cache) -> None:
    """A stored exception is raised anew on each hit."""

    @cache.cached(cache_exceptions=(LookupError,))
    def get(a: int) -> int:
        raise LookupError(a)

    for _ in range(4):
        with pytest.raises(LookupError):
            get(1)
    assert get.cache_info()[:2] == (3, 1)
    assert by_row(get) == 0


def test_nasty_arguments(cache: Cache) -> None:
    """An argument whose hash or equality fails, or lies, is for the slow path to refuse."""

    class Failing:
        def __hash__(self) -> int:
            raise RuntimeError("no hash")

    class Lying:
        def __hash__(self) -> int:
            return hash(1)

        def __eq__(self, other: object) -> bool:
            return True

    @cache.cached
    def get(a: object) -> object:
        return a

    get(1), get(1)
    for nasty in (Failing(), Lying()):
        with pytest.raises(cacheside.InvalidKeyError):
            get(nasty)
    assert get(1) == 1


def test_ttl(cache: Cache, clock: FakeClock) -> None:
    """A row is good until the entry's ttl is over, and not for a moment longer."""
    get = numbered(cache.cached(ttl=10))
    get(1), get(1)
    clock.advance(9.99)
    assert get(1) == 1
    clock.advance(0.01)
    assert get(1) == 2


def drop_by_key(cache: Cache, get: Any) -> None:
    cache.invalidate("k:1")


def drop_by_function(cache: Cache, get: Any) -> None:
    get.invalidate(1)


def drop_all(cache: Cache, get: Any) -> None:
    cache.clear()


def refill(cache: Cache, get: Any) -> None:
    """By `@updates`: the entry is replaced."""
    cache.updates("k:{a}")(lambda a: [a])(1)


def evict(cache: Cache, get: Any) -> None:
    other = cache.cached(key="other:{a}")(lambda a: a)
    for number in range(100):  # hot ones: others would not stay for long beside one that was hit often
        for _ in range(4):
            other(number)


@pytest.mark.parametrize("drop", [drop_by_key, drop_by_function, drop_all, refill, evict])
def test_rows_die_with_their_entry(drop: Callable[[Cache, Any], None]) -> None:
    """However an entry goes, no row leads to it any more; the row is gone, the value is free, the hits are kept."""
    cache = Cache("memory://?max_entries=4")

    class Value:
        pass

    get = cache.cached(key="k:{a}")(lambda a: Value())
    for _ in range(5):
        old = get(1)
    there = weakref.ref(old)
    drop(cache, get)
    assert by_row(get) == 0
    assert get.cache_info().hits == 4
    assert get(1) is not old
    del old
    gc.collect()
    assert there() is None


def test_guard(cache: Cache) -> None:
    """While a strict writer is at work, a call goes to the store: no row leads to the old value."""
    rows = ["old"]
    get = cache.cached(key="k:{a}")(lambda a: rows[-1])
    assert [get(1) for _ in range(4)] == ["old"] * 4
    with cache.invalidating("k:1", strict=True):
        rows.append("new")
        assert [get(1) for _ in range(4)] == ["new"] * 4
        assert by_row(get) == 0
    assert [get(1) for _ in range(4)] == ["new"] * 4
    assert by_row(get) == 1


def test_configure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare decorated function is on the new default cache from the very next call, and back again."""
    monkeypatch.setattr("cacheside.cache._default", None)
    get = numbered(cached(key="k:{a}"))
    first, second = Cache(), Cache("memory://?policy=lru")
    expected = {first: 1, second: 2}
    for cache in (first, second, first, second, first):
        configure(cache)
        assert [get(1) for _ in range(4)] == [expected[cache]] * 4


def test_disabled(cache: Cache) -> None:
    """Inside `disabled()` every call is a call of the function, though it had a row; after it the row is used again."""
    get = numbered(cache.cached)
    assert [get(1) for _ in range(3)] == [1, 1, 1]
    with disabled():
        assert [get(1) for _ in range(3)] == [2, 3, 4]
        with disabled():
            assert get(1) == 5
        assert get(1) == 6
    assert [get(1) for _ in range(3)] == [1, 1, 1]


def test_row_that_comes_too_late(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader has found an entry, which is invalidated before the reader has made its row: there is none then.

    Without the look at the entry in `attach` the row would serve the old value for a whole ttl.
    """
    rows = ["old"]
    get = cache.cached(key="k:{a}")(lambda a: rows[-1])
    get(1)
    real = MemoryBackend.attach

    def attach(self: MemoryBackend, *args: Any) -> None:
        rows.append("new")
        cache.invalidate("k:1")
        real(self, *args)

    monkeypatch.setattr(MemoryBackend, "attach", attach)
    assert get(1) == "old"  # the call began before the write
    monkeypatch.setattr(MemoryBackend, "attach", real)
    assert [get(1) for _ in range(3)] == ["new"] * 3


def test_table_that_comes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default cache is changed while a call on the old one makes its row: the function does not go back to it."""
    monkeypatch.setattr("cacheside.cache._default", None)
    get = numbered(cached(key="k:{a}"))
    configure(Cache())
    get(1)
    real = MemoryBackend.attach

    def attach(self: MemoryBackend, *args: Any) -> None:
        real(self, *args)
        configure(Cache())

    monkeypatch.setattr(MemoryBackend, "attach", attach)
    assert get(1) == 1
    monkeypatch.setattr(MemoryBackend, "attach", real)
    assert [get(1) for _ in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_threads(colour: str) -> None:
    """Readers by rows, and writers: no read is older than a write that was over before it, and all are counted."""
    cache = Cache("memory://?max_entries=40")
    version = [0] * 50
    done = [0] * 50
    stop = threading.Event()
    calls = [0] * 4

    def load(key: int) -> int:
        return version[key]

    async def aload(key: int) -> int:
        return version[key]

    get: Any = cache.cached(key="k:{key}")(aload if colour == "async" else load)

    @cache.invalidates("k:{key}")
    def write(key: int) -> None:
        version[key] += 1

    def reads(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            key = int(chance.paretovariate(1)) % 50
            oldest = done[key]
            calls[number] += 1
            assert (asyncio.run(get(key)) if colour == "async" else get(key)) >= oldest

    def writes(keys: range) -> None:
        chance = random.Random(keys.start)
        for _ in range(1500):
            key = chance.choice(keys)
            write(key)
            done[key] = version[key]
            if chance.random() < 0.1:
                stop.wait(0.001)

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(reads, number) for number in range(4)]
        writers = [pool.submit(writes, range(0, 25)), pool.submit(writes, range(25, 50))]
        try:
            for writer in writers:
                writer.result()
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    info = get.cache_info()
    assert info.hits + info.misses == sum(calls)
    assert info.hits > info.misses


def test_async_hit_awaits_nothing(cache: Cache) -> None:
    """A hit by a row ends at the first step of the coroutine."""

    @cache.cached
    async def get(a: int) -> int:
        return a

    asyncio.run(get(1)), asyncio.run(get(1))
    with pytest.raises(StopIteration) as ended:
        get(1).send(None)
    assert ended.value.value == 1


def test_source_can_be_printed(cache: Cache) -> None:
    """What was generated is there to be read, and is a function of this signature."""

    @cache.cached(key="k:{a}")
    def get(a: int, *, b: int = 2) -> int:
        return a

    source = get._function.path.source(hitpath.Way.ROWS)  # type: ignore[attr-defined]  # every form has it
    assert "def call(a, *, b):" in source
    assert "rows[a]" in source
    compile(source, "get", "exec")


def test_functions_do_not_share_code(cache: Cache) -> None:
    """Two functions of one signature have a code object each: the interpreter specializes it for each one's globals."""
    one, two = (cache.cached(functools.partial(lambda n, a: a, n)) for n in (1, 2))
    assert one.__code__ is not two.__code__  # type: ignore[attr-defined]  # at run time it is a function
    assert hitpath._compiled.cache_info().hits > 0


def test_collected_under_the_lock() -> None:
    """Functions that are thrown away are collected whenever Python likes, also while the cache has its lock taken."""
    cache = Cache()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(200):
            get = cache.cached(key="k:{a}")(lambda a: [a])
            assert [get(number % 10) for _ in range(3)] == [[number % 10]] * 3
    finally:
        gc.set_threshold(*threshold)
    del get
    gc.collect()
    assert cache.stats().totals[:2] == (590, 10)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_interrupted_invalidation(cache: Cache, colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a write invalidates: it is pending, and no row answers for the key before it has been delivered."""
    rows = ["old"]
    other = cache.cached(key="other")(lambda: "other")
    get = cache.cached(key="k:{a}")(lambda a: rows[-1])
    assert [get(1) for _ in range(4)] == ["old"] * 4
    assert [other() for _ in range(4)] == ["other"] * 4
    real = MemoryBackend.invalidate

    def interrupted(self: MemoryBackend, keys: Any) -> None:
        monkeypatch.setattr(MemoryBackend, "invalidate", unreachable)
        raise KeyboardInterrupt

    def unreachable(self: MemoryBackend, keys: Any) -> None:
        raise OSError

    monkeypatch.setattr(MemoryBackend, "invalidate", interrupted)
    if colour == "sync":
        with pytest.raises(KeyboardInterrupt):
            cache.invalidates("k:1")(lambda: rows.append("new"))()
    else:

        @cache.invalidates("k:1")
        async def write() -> None:
            rows.append("new")

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(write())
    assert cache.stats().pending == 1
    assert [get(1) for _ in range(4)] == ["new"] * 4
    assert [other() for _ in range(4)] == ["other"] * 4
    assert cache.stats().pending == 1
    monkeypatch.setattr(MemoryBackend, "invalidate", real)
    assert [get(1) for _ in range(4)] == ["new"] * 4


def test_arguments_that_cannot_be_taken_apart(cache: Cache) -> None:
    """A list that holds itself is refused with the cure, also by a function that finds others by their parts."""

    @cache.cached
    def get(a: object) -> object:
        return a

    assert [get([1]) for _ in range(3)] == [[1]] * 3
    endless: list[object] = []
    endless.append(endless)
    for _ in range(2):
        with pytest.raises(cacheside.InvalidKeyError, match="refers to itself"):
            get(endless)
