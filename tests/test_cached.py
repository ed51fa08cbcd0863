"""The decorator `cached`: call forms, kinds of functions, verbs; on memory, where nothing else is in the way."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from datetime import timedelta
from typing import Any

import pytest

import cacheside
from cacheside import Cache, cached
from cacheside.testing import FakeClock


@pytest.fixture(autouse=True)
def cache() -> Cache:
    """A fresh default cache for each test."""
    return cacheside.configure("memory://", clock=FakeClock())


@pytest.mark.parametrize(
    "decorate",
    [
        cached,
        cached(),
        cached(ttl=60),
        cached("user:{user_id}", 60),
        cached("user:{user_id}"),
        cached(key="user:{user_id}", ttl=timedelta(minutes=1)),
        cached(key=lambda user_id: f"user:{user_id}"),
        lambda fn: cacheside.default_cache().cached(key="user:{user_id}")(fn),
        lambda fn: cacheside.default_cache().cached(fn),
    ],
)
def test_call_forms(decorate: Any) -> None:
    """Bare, called, with options, with a positional template, with a callable, bound to a cache: all cache."""
    calls = []

    @decorate
    def get(user_id: int) -> int:
        calls.append(user_id)
        return user_id * 2

    assert [get(3), get(3), get(user_id=3), get(4)] == [6, 6, 6, 8]
    assert calls == [3, 4]
    assert get.cache_info()[:4] == (2, 2, 10_000, 2)


@pytest.mark.parametrize("value", [None, 0, False, "", [], ()])
def test_none_and_falsy_values_hit(value: Any) -> None:
    """None is a value like any other, and so are 0, False and what is empty."""
    calls = []

    @cached
    def get() -> Any:
        calls.append(1)
        return value

    assert [get(), get()] == [value, value]
    assert len(calls) == 1


class Repository:
    """Kinds of methods."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Any] = []

    def __cache_key__(self) -> str:
        return self.name

    @cached(key="row:{self.name}:{row}")
    def get(self, row: int) -> tuple[str, int]:
        """The row."""
        self.calls.append(row)
        return self.name, row

    @cached
    def by_default_key(self, row: int, *, deep: bool = False) -> tuple[str, int]:
        self.calls.append((row, deep))
        return self.name, row

    @cached(ignore=("self",))
    def shared(self, row: int) -> int:
        self.calls.append(row)
        return row

    @cached
    async def aget(self, row: int) -> tuple[str, int]:
        self.calls.append(row)
        return self.name, row

    @cached
    @classmethod
    def which(cls, row: int) -> tuple[type, int]:
        return cls, row

    @cached
    @classmethod
    async def awhich(cls, row: int) -> tuple[type, int]:
        return cls, row

    @cached
    @staticmethod
    def twice(row: int) -> int:
        return row * 2


class Special(Repository):
    """A subclass: another class in the keys of its classmethods."""


def test_methods_of_two_instances_do_not_mix() -> None:
    """Keys hold what tells instances apart, never their addresses; without it all instances share."""
    a, b = Repository("a"), Repository("b")
    for name in ("get", "by_default_key"):
        method_a, method_b = getattr(a, name), getattr(b, name)
        assert [method_a(1), method_a(1), method_b(1), method_b(1)] == [("a", 1), ("a", 1), ("b", 1), ("b", 1)]
    assert a.calls == [1, (1, False)]
    assert [a.shared(7), b.shared(7)] == [7, 7]
    assert b.calls == [1, (1, False)]


def test_verbs_through_an_instance() -> None:
    """`.key`, `.invalidate`, `.refresh` and `.cache_info` work bound, with the parameters that are left."""
    repo = Repository("verbs")
    assert repo.get.key(1) == "row:verbs:1"
    assert Repository.get.key(repo, 1) == "row:verbs:1"
    repo.get(1)
    repo.get.invalidate(1)
    repo.get(1)
    assert repo.get.refresh(1) == ("verbs", 1)
    assert repo.calls == [1, 1, 1]
    assert repo.get.cache_info().loads == Repository.get.cache_info().loads
    assert repo.get.__wrapped__(1) == ("verbs", 1)
    assert Repository.get.__wrapped__(repo, 1) == ("verbs", 1)
    assert len(repo.calls) == 5


def test_classmethods_and_staticmethods() -> None:
    """A classmethod's key holds its class, through the class, an instance or a subclass; a staticmethod's does not."""
    repo = Repository("x")
    assert [Repository.which(1), repo.which(1), Special.which(1)] == [(Repository, 1), (Repository, 1), (Special, 1)]
    assert Repository.which.key(1) != Special.which.key(1)
    assert [Repository.twice(4), repo.twice(4), Special.twice(4)] == [8, 8, 8]
    assert Repository.twice.cache_info()[:2] == (2, 1)
    assert asyncio.run(Special.awhich(1)) == (Special, 1)
    Special.which.invalidate(1)
    assert Special.which(1) == (Special, 1)


def test_async_functions_are_coroutine_functions() -> None:
    """inspect and asyncio see a coroutine function, also bound; create_task, gather and run take what it returns."""
    repo = Repository("async")

    @cached
    async def fetch(row: int) -> int:
        return row

    for fn in (fetch, repo.aget, Repository.aget, Special.awhich):
        assert inspect.iscoroutinefunction(fn)
    assert not inspect.iscoroutinefunction(repo.get)

    async def main() -> list[Any]:
        task = asyncio.create_task(repo.aget(1))
        return [await task, *await asyncio.gather(fetch(1), fetch(1), repo.aget(1)), await repo.aget.refresh(1)]

    assert asyncio.run(main()) == [("async", 1), 1, 1, ("async", 1), ("async", 1)]
    assert repo.calls == [1, 1]


def test_bound_forms_are_equal_as_methods_are() -> None:
    """Each access makes a new bound form; they are equal, hash alike, and a copied object has one bound to itself."""
    a, b = Repository("a"), Repository("b")
    assert a.get == a.get != b.get
    assert a.get != a.aget
    assert len({a.get, a.get, b.get, Repository.get, Repository.get}) == 3
    assert a.get != "a"
    a.callback = a.get  # type: ignore[attr-defined]  # an attribute of this test's
    copied = copy.deepcopy(a)
    copied.name = "copied"
    assert copied.callback(1) == ("copied", 1)  # type: ignore[attr-defined]  # as above


def test_a_parameter_may_be_called_self() -> None:
    """The verbs take whatever keywords the function does."""

    @cached(key="{self}:{args}")
    def get(self: int, **args: int) -> int:
        return self

    assert get(self=1) == get.refresh(self=1) == 1
    get.invalidate(self=1)
    assert get.key(self=1) == "1:%7B%7D"


def test_counters_survive_a_change_of_the_default_cache() -> None:
    """Back on a cache that it was on before, a function goes on counting there."""
    first, second = Cache(), Cache()

    @cached("row:{row}")
    def get(row: int) -> int:
        return row

    for cache in (first, second, first):
        cacheside.configure(cache)
        get(1)
    assert get.cache_info()[:2] == (1, 1)


def test_a_hit_awaits_nothing() -> None:
    """Over memory an async hit finishes in its first step, without going through the event loop."""

    @cached
    async def fetch(row: int) -> int:
        return row

    asyncio.run(fetch(1))
    with pytest.raises(StopIteration) as end:
        fetch(1).send(None)
    assert end.value.value == 1


@cached
def module_level(row: int, /, name: str = "x", *rest: int, flag: bool = False, **others: str) -> str:
    """Doc of the function."""
    return f"{row}{name}{rest}{flag}{others}"


def test_what_survives() -> None:
    """Name, doc, signature, annotations, pickling by name and copying are those of the function."""
    assert module_level.__name__ == "module_level"
    assert module_level.__doc__ == "Doc of the function."
    assert module_level.__module__ == __name__
    assert inspect.signature(module_level) == inspect.signature(module_level.__wrapped__)
    assert list(inspect.signature(Repository("x").get).parameters) == ["row"]
    assert Repository.get.__doc__ == "The row."
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert pickle.loads(pickle.dumps(Repository.get)) is Repository.get
    assert copy.deepcopy(module_level) is copy.copy(module_level) is module_level
    assert "module_level" in repr(module_level)


def test_keywords_positions_and_defaults_share() -> None:
    """However an argument came, and whether a default was written out, the key is the same; everything else differs."""
    same = [module_level.key(1), module_level.key(1, "x"), module_level.key(1, name="x", flag=False)]
    assert len(set(same)) == 1
    other = [
        module_level.key(2),
        module_level.key("1"),  # type: ignore[arg-type]  # on purpose
        module_level.key(True),
        module_level.key(1.0),  # type: ignore[arg-type]  # on purpose
        module_level.key(1, "x", 1),
        module_level.key(1, flag=True),
        module_level.key(1, a="b"),
        module_level.key(1, a="b", c="d"),
    ]
    assert len({*same, *other}) == 1 + len(other)
    assert module_level.key(1, c="d", a="b") == other[-1]


def test_a_wrong_call_raises_what_the_function_would() -> None:
    """Missing and unknown arguments are a TypeError before anything is looked up."""
    with pytest.raises(TypeError, match="row"):
        module_level()  # type: ignore[call-arg]  # on purpose
    assert module_level.cache_info().misses == 0


def test_closures_do_not_share() -> None:
    """Functions made by one `def` in a loop have one name, but in memory entries of their own."""

    def make(factor: int) -> Any:
        @cached
        def times(x: int) -> int:
            return x * factor

        return times

    two, three = make(2), make(3)
    assert [two(5), three(5), two(5)] == [10, 15, 10]


def test_a_template_shares_on_purpose() -> None:
    """`get(1)` and `get("1")`, and two functions with one template, are one entry."""

    @cached("user:{user_id}")
    def get(user_id: Any) -> Any:
        return ("get", user_id)

    @cached("user:{user_id}")
    async def aget(user_id: Any) -> Any:
        return ("aget", user_id)

    assert get(1) == ("get", 1)
    assert get("1") == ("get", 1)
    assert asyncio.run(aget(1)) == ("get", 1)
