"""Stored exceptions: `cache_exceptions=` and `negative_ttl=`."""

from __future__ import annotations

from typing import Any

import pytest

import cacheside
from cacheside import Cache, CacheWarning, cached
from cacheside.testing import FakeClock


@pytest.fixture(autouse=True)
def cache() -> Cache:
    """A fresh default cache for each test."""
    return cacheside.configure("memory://", clock=FakeClock())


class NotFoundError(Exception):
    """A negative answer, with an attribute and an __init__ that takes something else than args."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row}")
        self.row = row


class VerySpecialError(NotFoundError):
    """A subclass."""


def test_cached_exceptions(cache: Cache) -> None:
    """A declared exception is stored for negative_ttl and raised again, each time a new one, rebuilt as it was."""
    clock: Any = cache._home.wall

    @cached(cache_exceptions=(NotFoundError,), negative_ttl=5, ttl=1000)
    def get(row: int) -> int:
        raise NotFoundError(row)

    errors = []
    for _ in range(3):
        with pytest.raises(NotFoundError) as caught:
            get(7)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert [(str(error), error.row, error.args) for error in errors] == [("row 7", 7, ("row 7",))] * 3
    assert get.cache_info()[:2] == (2, 1)
    clock.advance(5.1)
    with pytest.raises(NotFoundError):
        get(7)
    assert get.cache_info().loads == 2


def test_other_exceptions_are_never_stored() -> None:
    """Only the very classes that were declared are stored: a subclass could not be rebuilt as what it was."""

    @cached(cache_exceptions=(NotFoundError,))
    def get(row: int) -> int:
        raise VerySpecialError(row) if row else ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            get(0)
    with pytest.warns(CacheWarning, match="VerySpecialError is a subclass"), pytest.raises(VerySpecialError):
        get(1)
    with pytest.raises(VerySpecialError):
        get(1)
    assert get.cache_info()[:2] == (0, 4)


@pytest.mark.parametrize("url", ["memory://", "memory://?copy=true"])
def test_hits_of_an_exception_share_nothing(url: str) -> None:
    """A note added to one does not show on the next; with copy=true neither does a change of its args."""

    @Cache(url).cached(key="x", cache_exceptions=(KeyError,))
    def get() -> int:
        raise KeyError([1])

    seen = []
    for _ in range(3):
        with pytest.raises(KeyError) as caught:
            get()
        seen.append((list(getattr(caught.value, "__notes__", ())), list(caught.value.args[0])))
        caught.value.add_note("seen")
        if "copy" in url:
            caught.value.args[0].append(2)
    assert seen == [([], [1])] * 3


def test_an_exception_that_cannot_be_rebuilt_is_not_stored() -> None:
    """An exception whose text does not come from its args would come back different: it is raised, and a warning says
    why it is not cached."""

    class OddError(Exception):
        def __init__(self, a: int) -> None:
            super().__init__()
            self.__class__.last = a  # type: ignore[attr-defined]  # state outside the object

        def __str__(self) -> str:
            return f"odd {id(self)}"

    @cached(cache_exceptions=(OddError,))
    def get(row: int) -> int:
        raise OddError(row)

    with pytest.warns(CacheWarning, match="OddError"), pytest.raises(OddError):
        get(1)
    with pytest.raises(OddError):
        get(1)
    assert get.cache_info().loads == 2
