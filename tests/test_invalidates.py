"""Decorated writes: targets, when they are delivered, and what happens when a write fails or is cancelled."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from recorder import Recorder

import cacheside
from cacheside import Cache, ConfigurationError, InvalidKeyError, cached, invalidates


@pytest.fixture(autouse=True)
def backend() -> Recorder:
    """The backend of a fresh default cache."""
    made = Recorder()
    cacheside.configure(made)
    return made


@dataclass
class User:
    """A row."""

    id: int
    email: str = ""


@cached("user:{user_id}")
def get_user(user_id: int) -> dict[str, int]:
    return {"id": user_id}


@cached("user:{user_id}")
async def aget_user(user_id: int) -> dict[str, int]:
    return {"id": user_id}


def test_template_target(backend: Recorder) -> None:
    """A template over the parameters, however they were passed."""

    @invalidates("user:{user_id}", "users:all")
    def rename(user_id: int, name: str = "x") -> str:
        return name

    assert rename(7) == "x"
    assert rename(user_id=8, name="y") == "y"
    assert backend.dropped == ["user:7", "users:all", "user:8", "users:all"]


@pytest.mark.parametrize("target", [get_user, aget_user])
def test_function_target(backend: Recorder, target: Any) -> None:
    """A cached function of either colour is a target of writes of both, by the parameters of the same names."""

    @invalidates(target)
    def rename(name: str, user_id: int) -> None: ...

    @invalidates(target)
    async def arename(user_id: int) -> None: ...

    rename("x", 7)
    asyncio.run(arename(8))
    assert backend.dropped == ["user:7", "user:8"]


def test_function_target_in_its_own_cache(backend: Recorder) -> None:
    """A cached function is invalidated in the cache it belongs to, not in that of the write."""
    elsewhere = Recorder()
    other = Cache(elsewhere)

    @other.cached("item:{item}")
    def get_item(item: int) -> int:
        return item

    @invalidates(get_item, "items")
    def change(item: int) -> None: ...

    change(1)
    assert (elsewhere.dropped, backend.dropped) == (["item:1"], ["items"])


def test_function_target_with_a_default_key() -> None:
    """A default key is made from the write's parameters, with the read's types and defaults."""

    @cached
    def search(word: str, page: int) -> str:
        return f"{word}{page}"

    @invalidates(search)
    def index(word: str, page: int, text: str) -> None: ...

    search("a", 1)
    index("a", 1, "text")
    search("a", 1)
    assert search.cache_info().loads == 2


def test_callable_target(backend: Recorder) -> None:
    """A callable gets the arguments, and the result as a keyword if it asks for it; it returns a key or several."""

    @invalidates(
        lambda user_id, name: f"user:{user_id}",
        lambda user_id, name, result: [f"row:{row}" for row in result],
        lambda *args: (),
    )
    def change(user_id: int, name: str = "") -> list[int]:
        return [4, 5]

    change(1)
    assert backend.dropped == ["user:1", "row:4", "row:5"]


def test_result_target(backend: Recorder) -> None:
    """`{result}` is what the write returned."""

    @invalidates("user:{result.id}", "names:{name}")
    def create(name: str) -> User:
        return User(9)

    create("x")
    assert sorted(backend.dropped) == ["names:x", "user:9"]


def test_mutated_argument(backend: Recorder) -> None:
    """A write that changes what its key is made of drops the entries under the old text and under the new one."""

    @invalidates("user:{user.email}")
    def change(user: User, email: str) -> None:
        user.email = email

    change(User(1, "old"), "new")
    assert backend.dropped == ["user:old", "user:new"]


def test_invalidates_after_the_write_not_before() -> None:
    """A read between the start of a write and its end fills the old value; the invalidation comes after it."""
    row = {"value": "old"}

    @cached("row:{row_id}")
    def get(row_id: int) -> str:
        return row["value"]

    @invalidates("row:{row_id}")
    def put(row_id: int, value: str) -> None:
        assert get(row_id) == "old"
        row["value"] = value

    put(1, "new")
    assert get(1) == "new"


def test_invalidates_when_the_write_raises(backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """An error does not prove that nothing was written: what can be known is dropped, the rest counted and logged."""

    @invalidates("user:{user_id}", "row:{result.id}")
    def fail(user_id: int) -> User:
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        fail(7)
    assert backend.dropped == ["user:7"]
    assert cacheside.default_cache().stats().unknown_targets == 1
    assert "not known" in caplog.text


def test_unknown_result_is_logged_not_raised(backend: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """A result without the field that a target needs does not hide that the write was done."""

    @invalidates("user:{result.id}", "users")
    def create() -> User | None:
        return None

    assert create() is None
    assert backend.dropped == ["users"]
    assert cacheside.default_cache().stats().unknown_targets == 1
    assert "result.id" in caplog.text


def test_bad_arguments_raise_before_the_write() -> None:
    """Keys that cannot be made are an error before anything is written."""
    written = []

    @invalidates("user:{user.id}")
    def change(user: Any) -> None:
        written.append(user)

    @invalidates(lambda user: "two words")
    def change_too(user: Any) -> None:
        written.append(user)

    for write, argument in ((change, None), (change_too, None)):
        with pytest.raises(InvalidKeyError):
            write(argument)
    with pytest.raises(TypeError):
        change()  # type: ignore[call-arg]  # on purpose
    assert not written


def test_bad_targets() -> None:
    """Targets that do not fit the write are refused at decoration, with what is missing."""

    def write(user_id: int) -> None: ...

    def result_parameter(result: int) -> None: ...

    def generator() -> Any:
        yield 1

    @cached
    def search(word: str, page: int) -> str:
        return ""

    cases: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (write, (), "needs a target"),
        (write, ("user:{name}",), "user_id"),
        (write, (search,), "page"),
        (write, (5,), "key template"),
        (result_parameter, ("user",), "rename"),
        (generator, ("user",), "generator"),
        (5, ("user",), "decorates a function"),  # type: ignore[list-item]  # on purpose
    ]
    for fn, targets, cure in cases:
        with pytest.raises(ConfigurationError, match=cure):
            invalidates(*targets)(fn)


class Service:
    """Stacked decorators and kinds of methods."""

    @cached("user:{user_id}")
    def get(self, user_id: int) -> int:
        return user_id

    @invalidates(get)
    @invalidates("users:{kind}")
    def change(self, user_id: int, kind: str) -> str:
        """Doc."""
        return kind

    @invalidates("user:{user_id}")
    @classmethod
    def of_class(cls, user_id: int) -> type:
        return cls

    @invalidates("user:{user_id}")
    @staticmethod
    def static(user_id: int) -> int:
        return user_id

    @invalidates("user:{user_id}")
    async def achange(self, user_id: int) -> int:
        return user_id


def test_methods_and_stacking(backend: Recorder) -> None:
    """Writes may be methods of any kind, and may stand under several decorators."""
    service = Service()
    assert service.change(1, kind="x") == "x"
    assert service.change.__doc__ == "Doc."
    assert Service.of_class(2) is service.of_class(2) is Service
    assert service.static(3) == 3
    assert inspect.iscoroutinefunction(service.achange)
    assert asyncio.run(service.achange(4)) == 4
    assert backend.dropped == ["users:x", "user:1", "user:2", "user:2", "user:3", "user:4"]


def test_bound_method_as_a_target(backend: Recorder) -> None:
    """A cached method bound to an instance is a target as well."""

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        @cached("{self.name}:{row}")
        def get(self, row: int) -> int:
            return row

    @invalidates(Named("n").get)
    def write(row: int) -> None: ...

    write(3)
    assert backend.dropped == ["n:3"]


def test_invalidating_block(backend: Recorder) -> None:
    """`cache.invalidating` makes any block a write, plain and async, also when it raises."""
    cache = cacheside.default_cache()

    async def main() -> None:
        async with cache.invalidating("user:3"):
            assert "user:3" not in backend.dropped

    with cache.invalidating("user:1", "user:2"):
        assert not backend.dropped
    with pytest.raises(OSError, match="lost"), cache.invalidating("user:9"):
        raise OSError("lost")
    asyncio.run(main())
    assert backend.dropped == ["user:1", "user:2", "user:9", "user:3"]
    with pytest.raises(InvalidKeyError, match=r"\.key\(\)"):
        cache.invalidating("user:a b")
