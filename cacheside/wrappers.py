"""What a decorated read is to its users: a callable with verbs.

A decorated function is a function (or an `async def`) with the verbs as attributes: nothing is faster to call. A method
is a `functools.partial` over such a function, since only a class of ours can give, for an instance, a bound form with
the same verbs; `inspect.iscoroutinefunction` and friends look through it. For type checkers both are one class, with
the parameters that are left after binding.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

from .envelope import Missing
from .errors import ConfigurationError
from .functions import Function
from .stats import CacheInfo

if TYPE_CHECKING:
    from .warming import Warmed, WarmProgress

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")

Kind = Literal["function", "classmethod", "staticmethod"]


class _Form(type):
    """Decorated functions are instances of `Cached` or `AsyncCached`, though their class is another."""

    def __instancecheck__(cls, instance: object) -> bool:
        function = getattr(instance, "_function", None) if isinstance(instance, types.FunctionType) else None
        if isinstance(function, Function):
            forms = (CachedMany, AsyncCachedMany) if function.many else (Cached, AsyncCached)
            return issubclass(forms[inspect.iscoroutinefunction(instance)], cls)
        return super().__instancecheck__(instance)


class _Base(functools.partial[R], Generic[P, R], metaclass=_Form):
    """What plain and async forms have in common."""

    on_instances = False
    """Whether instances bind it, as they do functions in their class."""

    # What forms know stands on the function that they call, since a bound form is made at each access.

    @property
    def _function(self) -> Function:
        function: Function = self.func._function  # type: ignore[attr-defined]  # `wrap` has put it there
        return function

    @property
    def __wrapped__(self) -> Callable[P, R]:
        """The user's function; of a bound form, bound as well."""
        fn: Any = self._function.fn
        return types.MethodType(fn, self.args[0]) if self.args else fn

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    else:

        def __getattr__(self, name: str) -> Any:
            return getattr(self.func, name)

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call with these arguments: the full text, without namespace, as `cache.invalidate` takes it.

        Raises:
            InvalidKeyError: the arguments make no safe key.
        """
        return self._function.key(*bound_to(self), *args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Counters of this function on its cache."""
        return self._function.info()

    def __set_name__(self, owner: type, name: str) -> None:
        keys, parameters = self._function.keys, list(self._function.keys.binder.signature.parameters)
        if not self.on_instances or not parameters or not keys.is_default or parameters[0] not in keys.needs:
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
        if not self.args:
            return self
        from copy import deepcopy  # whoever asks for this has it already

        return _bound(type(self), self, deepcopy(self.args[0], memo))

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

        One round trip (memcached: two). If the cache does not answer, this process bypasses the key until it could be
        delivered.
        """
        self._function.invalidate(*bound_to(self), *args, **kwargs)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Invalidate, then call: a value that was read from the store after this call began."""
        self.invalidate(*args, **kwargs)
        return self(*args, **kwargs)

    def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> R | Literal[Missing.MISSING]:
        """What a call would be answered with from the cache; `MISSING` if it would load. It never loads.

        One round trip. It counts as no call, and takes no lease. A stored exception is raised.
        """
        found: R | Literal[Missing.MISSING] = self._function.peek(*bound_to(self), *args, **kwargs)
        return found

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Put a known value into the cache, in the place of what a call with these arguments would load.

        `value` has to be what the store holds *now*: who has read it before another's write, and calls this after that
        write, puts an old value there. Writes between the beginning and the end of this call are noticed, and leave no
        value. (To cache what you read, call the function, or `refresh`; to cache what you write, use `@updates`.)

        Returns:
            whether the value is in the cache now. If not, nothing is: a broken cache, another writer at work, or the
            function's options say that it is not cached.

        Two round trips; memcached: three.
        """
        return self._function.put(value, *bound_to(self), *args, **kwargs)

    def warm(self, items: Iterable[Any], /, *, concurrency: int = 8, progress: WarmProgress = False) -> Warmed:
        """Call the function for each of `items`, so that later calls are hits.

        Args:
            items: each a tuple of arguments, a mapping of arguments by name, or the only argument itself. They are
                taken one by one, as threads get free.
            concurrency: how many calls are made at once, in as many threads.
            progress: True: a bar on the terminal; or a callable, which gets a `Warmed` after each call.

        Returns:
            how many calls there were, how many failed, and the first error: a failure does not stop the others.

        Raises:
            Exception: what `items` or `progress` raised; nothing more is called then.
        """
        from .warming import warm

        return warm(self, items, concurrency, progress)

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
        return self


class AsyncCached(_Base[P, Coroutine[Any, Any, T]], Generic[P, T]):
    """A cached async function, or method; made by `cached`. It is a coroutine function. See `Cached`."""

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """See `Cached.invalidate`. Cancelling the caller does not stop the delivery."""
        await self._function.ainvalidate(*bound_to(self), *args, **kwargs)

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Cached.refresh`."""
        await self.invalidate(*args, **kwargs)
        return await self(*args, **kwargs)

    async def peek(self, /, *args: P.args, **kwargs: P.kwargs) -> T | Literal[Missing.MISSING]:
        """See `Cached.peek`."""
        found: T | Literal[Missing.MISSING] = await self._function.apeek(*bound_to(self), *args, **kwargs)
        return found

    async def set(self, value: T, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        """See `Cached.set`."""
        return await self._function.aput(value, *bound_to(self), *args, **kwargs)

    async def warm(
        self, items: Iterable[Any] | AsyncIterable[Any], /, *, concurrency: int = 8, progress: WarmProgress = False
    ) -> Warmed:
        """See `Cached.warm`. In tasks; `items` may be an async iterable."""
        from .warming import awarm

        return await awarm(self, items, concurrency, progress)

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
        return self


class CachedMany(_Base[P, R]):
    """A cached plain function that reads many rows at once; made by `cached_many`.

    A call looks for all rows in one round trip (to each server), calls the function once with the items that are
    missing, and stores what it returns in another. Rows that others are loading are waited for. Thread-safe.
    A broken cache raises nothing here.
    """

    def keys(self, /, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """The keys of a call with these arguments, each once: full texts, as `cache.invalidate` takes them.

        Raises:
            InvalidKeyError: the arguments make no safe key.
        """
        return self._function.texts((*bound_to(self), *args), kwargs)

    def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Drop the entries of a call with these arguments. See `Cached.invalidate`."""
        self._function.invalidate(*bound_to(self), *args, **kwargs)

    def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Invalidate, then call; the items may come from a generator. See `Cached.refresh`."""
        form: Any = self  # types do not know that these are arguments of it
        some, named = _listed(form, args, kwargs)
        form.invalidate(*some, **named)
        found: R = form(*some, **named)
        return found

    @overload
    def __get__(self: Callable[Concatenate[type[S], Q], T], instance: None, owner: type[S], /) -> CachedMany[Q, T]: ...  # type: ignore[misc]  # mypy does not see that self has the type of its own __call__
    @overload
    def __get__(self, instance: None, owner: type, /) -> CachedMany[P, R]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], T], instance: S, owner: type | None = None, /
    ) -> CachedMany[Q, T]: ...
    @overload
    def __get__(  # type: ignore[misc]  # as above
        self: Callable[Concatenate[type[S], Q], T], instance: S, owner: type | None = None, /
    ) -> CachedMany[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> CachedMany[P, R]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        """The form bound to an instance, or of a classmethod to the class; else this very object."""
        return self


class AsyncCachedMany(_Base[P, Coroutine[Any, Any, T]], Generic[P, T]):
    """A cached async function that reads many rows at once. It is a coroutine function. See `CachedMany`."""

    def keys(self, /, *args: P.args, **kwargs: P.kwargs) -> list[str]:
        """See `CachedMany.keys`."""
        return self._function.texts((*bound_to(self), *args), kwargs)

    async def invalidate(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """See `CachedMany.invalidate`. Cancelling the caller does not stop the delivery."""
        await self._function.ainvalidate(*bound_to(self), *args, **kwargs)

    async def refresh(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `CachedMany.refresh`."""
        form: Any = self  # types do not know that these are arguments of it
        some, named = _listed(form, args, kwargs)
        await form.invalidate(*some, **named)
        found: T = await form(*some, **named)
        return found

    @overload
    def __get__(  # type: ignore[misc]  # as above
        self: Callable[Concatenate[type[S], Q], Coroutine[Any, Any, T]], instance: None, owner: type[S], /
    ) -> AsyncCachedMany[Q, T]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> AsyncCachedMany[P, T]: ...
    @overload
    def __get__(
        self: Callable[Concatenate[S, Q], Coroutine[Any, Any, T]], instance: S, owner: type | None = None, /
    ) -> AsyncCachedMany[Q, T]: ...
    @overload
    def __get__(  # type: ignore[misc]  # as above
        self: Callable[Concatenate[type[S], Q], Coroutine[Any, Any, T]], instance: S, owner: type | None = None, /
    ) -> AsyncCachedMany[Q, T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None, /) -> AsyncCachedMany[P, T]: ...
    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        """The form bound to an instance, or of a classmethod to the class; else this very object."""
        return self


def _bound(kind: type[Any], form: Any, instance: Any) -> Any:
    bound = kind(form.func, instance)
    bound.__dict__ = form.__dict__  # its documentation, and what users have put there
    return bound


@functools.cache  # not at once: a program that decorates only functions needs none
def _in_classes(form: type[Any]) -> dict[Kind, type[Any]]:
    """A form as it stands in a class, for each kind of method."""

    def of_instance(self: Any, instance: Any, owner: type | None = None, /) -> Any:
        return self if instance is None else _bound(form, self, instance)

    def of_class(self: Any, instance: Any, owner: type | None = None, /) -> Any:
        return _bound(form, self, type(instance) if owner is None else owner)

    return {
        "function": type(form.__name__, (form,), {"__get__": of_instance, "on_instances": True}),
        "classmethod": type(form.__name__, (form,), {"__get__": of_class}),
        "staticmethod": form,
    }


def wrap(function: Function, call: Callable[..., Any], kind: Kind) -> Any:
    """The decorated form of `function`, whose calls run `call`."""
    coroutine = inspect.iscoroutinefunction(call)
    plain: Any = CachedMany if function.many else Cached
    form: Any = (AsyncCachedMany if function.many else AsyncCached) if coroutine else plain
    fn, of_call = function.fn, call.__dict__
    for name in functools.WRAPPER_ASSIGNMENTS:
        if hasattr(fn, name):
            setattr(call, name, getattr(fn, name))
    of_call.update(getattr(fn, "__dict__", {}))
    of_call["_function"] = function
    if kind != "function" or _in_class(function):
        made = _in_classes(form)[kind](call)
        made.__dict__.update({"__doc__": call.__doc__, "__module__": call.__module__})  # which classes have as well
        return made
    of_call["__wrapped__"] = fn
    verbs = ("key", "keys", "invalidate", "refresh", "peek", "set", "warm", "cache_info")
    of_call.update({verb: types.MethodType(getattr(form, verb), call) for verb in verbs if hasattr(form, verb)})
    return call


def bound_to(form: Any) -> tuple[Any, ...]:
    """What a form is bound to; nothing for a function."""
    args: tuple[Any, ...] = getattr(form, "args", ())
    return args


def _listed(form: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The arguments of a call for many rows, for use more than once: the items may be a generator."""
    bound = bound_to(form)
    some, named = form._function.listed((*bound, *args), kwargs)
    return some[len(bound) :], named


def _in_class(function: Function) -> bool:
    """Whether it is a method, as far as can be known before it gets its name in a class."""
    around, _, _ = getattr(function.fn, "__qualname__", "").rpartition(".")
    first = next(iter(function.keys.binder.signature.parameters), "")
    return (around != "" and not around.endswith("<locals>")) or first in ("self", "cls")
