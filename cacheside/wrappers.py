"""What a decorated read is to its users: a callable with verbs.

A decorated function is a `functools.partial` over a plain function (or over an `async def`), so that
`inspect.iscoroutinefunction` and friends see what it is, and that a call costs no Python frame for it. Access through
an instance or class gives a bound form with the same verbs, as far as the types can say with the parameters that are
left.
"""

from __future__ import annotations

import copy
import functools
import inspect
import operator
import types
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from .errors import ConfigurationError
from .functions import Function
from .stats import CacheInfo

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")

Kind = Literal["function", "classmethod", "staticmethod"]


class _Base(functools.partial[R], Generic[P, R]):
    """What plain and async forms have in common."""

    __wrapped__: Callable[P, R]
    _function: Function
    _kind: Kind

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call with these arguments: the full text, without namespace, as `cache.invalidate` takes it.

        Raises:
            InvalidKeyError: the arguments make no safe key.
        """
        return self._function.key(*self.args, *args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Counters of this function on its cache."""
        return self._function.info()

    def __set_name__(self, owner: type, name: str) -> None:
        keys, parameters = self._function.keys, list(self._function.keys.binder.signature.parameters)
        if self._kind != "function" or not parameters or not keys.is_default or parameters[0] not in keys.needs:
            return
        if not hasattr(owner, "__cache_key__"):
            raise ConfigurationError(
                f"{self._function.name} is a method, and a key made from its arguments would hold the instance: give "
                f"it key=, or ignore=({parameters[0]!r},) if all instances read the same data, or give "
                f"{owner.__qualname__} a method __cache_key__() that tells instances apart"
            )

    def __repr__(self) -> str:
        return f"<cached {self._function.name}>"

    def __reduce__(self) -> Any:
        if self.args:
            return getattr, (self.args[0], self.__name__)
        return self.__qualname__  # pickled by name, as functions are

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        """Of a bound form, one that is bound to the copy of its instance; as with methods."""
        return _bound(self, copy.deepcopy(self.args[0], memo)) if self.args else self

    def __eq__(self, other: object) -> bool:
        """Bound forms of one function and one instance are equal, as methods are: each access makes a new one."""
        if not isinstance(other, _Base):
            return NotImplemented
        mine, theirs = self.args, other.args
        return self.func is other.func and len(mine) == len(theirs) and all(map(operator.is_, mine, theirs))

    def __hash__(self) -> int:
        return hash((id(self.func), *map(id, self.args)))

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str


class Cached(_Base[P, R]):
    """A cached plain function, or method; made by `cached`.

    A call looks in the cache and, on a miss, calls the function and stores what it returns; concurrent callers share
    one load. Thread-safe. A broken cache raises nothing here.

    Round trips to a server: a hit one, a miss two besides the load.
    """

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the entry of a call with these arguments, and the right of every load under way to fill it.

        One round trip. If the cache does not answer, this process bypasses the key until it could be delivered.
        """
        self._function.invalidate(*self.args, *args, **kwargs)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Invalidate, then call: a value that was read from the store after this call began."""
        self.invalidate(*args, **kwargs)
        return self(*args, **kwargs)

    # Type checkers show a classmethod under @cached as a function of the class, and a staticmethod as a function.
    @overload
    def __get__(self: Callable[Concatenate[type[S], Q], T], instance: None, owner: type[S], /) -> Cached[Q, T]: ...  # type: ignore[misc]  # mypy does not see that self has the type of its own __call__
    @overload
    def __get__(self, instance: None, owner: type, /) -> Cached[P, R]: ...
    @overload
    def __get__(self: Callable[Concatenate[S, Q], T], instance: S, owner: type | None = None, /) -> Cached[Q, T]: ...
    @overload
    def __get__(  # type: ignore[misc]  # mypy does not see that self has the type of its own __call__
        self: Callable[Concatenate[type[S], Q], T], instance: S, owner: type | None = None, /
    ) -> Cached[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> Cached[P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        """The form bound to an instance, or of a classmethod to the class; else this very object."""
        return _bind(self, instance, owner)


class AsyncCached(_Base[P, Coroutine[Any, Any, T]], Generic[P, T]):
    """A cached async function, or method; made by `cached`. It is a coroutine function. See `Cached`."""

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """See `Cached.invalidate`. Cancelling the caller does not stop the delivery."""
        await self._function.ainvalidate(*self.args, *args, **kwargs)

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Cached.refresh`."""
        await self.invalidate(*args, **kwargs)
        return await self(*args, **kwargs)

    # Type checkers show a classmethod under @cached as a function of the class, and a staticmethod as a function.
    @overload
    def __get__(  # type: ignore[misc]  # mypy does not see that self has the type of its own __call__
        self: Callable[Concatenate[type[S], Q], Coroutine[Any, Any, T]], instance: None, owner: type[S], /
    ) -> AsyncCached[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCached[P, T]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], Coroutine[Any, Any, T]], instance: S, owner: type | None = None, /
    ) -> AsyncCached[Q, T]: ...
    @overload
    def __get__(  # type: ignore[misc]  # mypy does not see that self has the type of its own __call__
        self: Callable[Concatenate[type[S], Q], Coroutine[Any, Any, T]], instance: S, owner: type | None = None, /
    ) -> AsyncCached[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> AsyncCached[P, T]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        """The form bound to an instance, or of a classmethod to the class; else this very object."""
        return _bind(self, instance, owner)


def wrap(function: Function, shell: Callable[..., Any], kind: Kind) -> Any:
    """The decorated form of `function`, whose calls run `shell`."""
    wrapped: Any = (AsyncCached if inspect.iscoroutinefunction(shell) else Cached)(shell)
    fn = function.fn
    for name in functools.WRAPPER_ASSIGNMENTS:
        if hasattr(fn, name):
            setattr(wrapped, name, getattr(fn, name))
    wrapped.__dict__.update({k: v for k, v in getattr(fn, "__dict__", {}).items() if k not in wrapped.__dict__})
    wrapped.__wrapped__ = fn
    wrapped._function = function
    wrapped._kind = kind
    return wrapped


def _bind(self: Any, instance: Any, owner: type | None) -> Any:
    target = instance
    if self._kind == "classmethod":
        target = type(instance) if owner is None else owner
    elif self._kind == "staticmethod" or instance is None or self.args:
        return self
    return _bound(self, target)


def _bound(self: Any, target: Any) -> Any:
    bound = type(self)(self.func, target)
    bound.__dict__.update(self.__dict__)
    bound.__wrapped__ = types.MethodType(self._function.fn, target)
    return bound
