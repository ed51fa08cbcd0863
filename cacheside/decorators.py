"""The decorator of reads in all its call forms, typed so that a decorated function keeps its signature."""

# An async function is a function too: the overloads for it overlap with those for any function, and stand first.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from .errors import ConfigurationError
from .expiry import UNSET, Duration, OrUnset, Ttl
from .functions import Function, Home
from .keymaker import is_generator
from .options import Options
from .serializers import Compress, Serializer
from .wrappers import AsyncCached, AsyncCachedMany, Cached, CachedMany, Kind, wrap

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class CachedDecorator(Protocol):
    """What ``cached(...)`` with options gives: a decorator that keeps the signature."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncCached[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Cached[P, R]: ...
    def __call__(self, fn: Any, /) -> Any:
        """The cached form of `fn`."""


class CachedFactory:
    """The decorator `cached`, of the default cache or of one `Cache`.

    ``@cached``, ``@cached()``, ``@cached(ttl=60)``, ``@cached("user:{user_id}", 60)``; on functions, methods,
    classmethods and staticmethods (over those two, not under), plain and async.
    """

    def __init__(self, home: Callable[[], Home], bound: bool) -> None:
        self._home = home
        self._bound = bound

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncCached[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def __call__(
        self,
        key: str,
        /,
        ttl: Ttl | OrUnset = UNSET,
        *,
        jitter: float = 0.0,
        cache_if: Callable[[Any], object] | None = None,
        cache_exceptions: tuple[type[Exception], ...] = (),
        negative_ttl: Duration = 30,
        version: str | int = "",
        serializer: str | Serializer | None = None,
        compress: Compress | OrUnset | None = UNSET,
        tags: Sequence[str] = (),
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        early_refresh: float = 0,
        load_timeout: Duration | None = None,
        max_loads: int | None = None,
        max_loads_wait: Duration | None = None,
    ) -> CachedDecorator: ...
    @overload
    def __call__(
        self,
        /,
        *,
        key: str | Callable[..., str] | None = None,
        ttl: Ttl | OrUnset = UNSET,
        jitter: float = 0.0,
        cache_if: Callable[[Any], object] | None = None,
        cache_exceptions: tuple[type[Exception], ...] = (),
        negative_ttl: Duration = 30,
        ignore: Collection[str] = (),
        version: str | int = "",
        serializer: str | Serializer | None = None,
        compress: Compress | OrUnset | None = UNSET,
        tags: Sequence[str] = (),
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        early_refresh: float = 0,
        load_timeout: Duration | None = None,
        max_loads: int | None = None,
        max_loads_wait: Duration | None = None,
    ) -> CachedDecorator: ...
    def __call__(
        self,
        target: Any = None,
        /,
        ttl: Ttl | OrUnset = UNSET,
        *,
        key: str | Callable[..., str] | None = None,
        jitter: float = 0.0,
        cache_if: Callable[[Any], object] | None = None,
        cache_exceptions: tuple[type[Exception], ...] = (),
        negative_ttl: Duration = 30,
        ignore: Collection[str] = (),
        version: str | int = "",
        serializer: str | Serializer | None = None,
        compress: Compress | OrUnset | None = UNSET,
        tags: Sequence[str] = (),
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        early_refresh: float = 0,
        load_timeout: Duration | None = None,
        max_loads: int | None = None,
        max_loads_wait: Duration | None = None,
    ) -> Any:
        """Cache what a function returns.

        A call looks in the cache first; on a miss it calls the function and stores the result. Concurrent callers of
        one key share one load, in this process and, while its lease lives, across processes. What was loaded before an
        invalidation is never stored after it.

        Args:
            key: a template over the parameters (``"user:{user_id}"``, ``"user:{user.id}:{day:%Y-%m}"``), or, only as
                ``key=``, a callable with the same arguments that returns the key. Without it the key is the
                function's name and all arguments, typed.
            ttl: how long a result is kept: seconds, a timedelta, None for ever, or a callable of the result that
                returns one of these (0 or less: not stored). Default: the cache's `ttl`.
            jitter: a fraction; each ttl is shortened by a random part of up to this much.
            cache_if: a callable of the result; a result for which it is false is returned, not stored.
            cache_exceptions: exactly these exceptions are stored, and raised again on hits. Others never are.
            negative_ttl: how long a stored exception is kept.
            ignore: parameters left out of a key made from the arguments.
            version: of the value's shape. A value stored under another version is a miss, and is replaced.
            serializer: a name or a `Serializer`, for this function; checked, though unused, on a memory cache.
            compress: as of `Cache`, for this function; None: its values are not compressed.
            tags: templates over the parameters, such as ``("org:{org_id}",)``. A value is good as long as none of its
                tags has been invalidated since its load began. A hit still takes one round trip to each server.
            stale_while_revalidate: seconds past its ttl (RFC 5861) in which a value is returned at once, while one
                caller in the whole fleet loads it again in the background; for values marked stale too.
            stale_if_error: seconds past its ttl in which a value is returned if loading it again raises.
            early_refresh: 1.0 and the like: values are loaded again in the background by chance, the likelier the
                nearer their ttl is to its end and the longer their load takes (XFetch: Vattani, Chierichetti,
                Lowenstein, VLDB 2015). 0: not.
            load_timeout: seconds that a caller waits for a load, which then runs in the background, and goes on there
                if it takes longer. The caller gets an old value that `stale_if_error` would allow, or LoadTimeout.
                Each load has a thread or task of its own, also while it waits for its turn by `max_loads`.
            max_loads: so many loads of this function run at once in this process, at most; others wait for their turn.
            max_loads_wait: seconds until one that waits is refused, with TooManyLoads; default: the cache's `lease`.

        Raises:
            ConfigurationError: an option that cannot work, or that the cache's backend cannot serve, a template that
                does not fit, a generator function.
        """
        if isinstance(target, str):
            if key is not None:
                raise ConfigurationError(f"the key was given twice: {target!r} and key={key!r}")
            key, target = target, None
        options = Options(
            key=key,
            ttl=ttl,
            jitter=jitter,
            cache_if=cache_if,
            cache_exceptions=cache_exceptions,
            negative_ttl=negative_ttl,
            ignore=ignore,
            version=version,
            serializer=serializer,
            compress=compress,
            tags=tags,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            early_refresh=early_refresh,
            load_timeout=load_timeout,
            max_loads=max_loads,
            max_loads_wait=max_loads_wait,
        )
        if target is None:
            return lambda fn: self._decorate(fn, options)
        return self._decorate(target, options)

    def _decorate(self, target: Any, options: Options) -> Any:
        return decorate(target, options, self._home, self._bound, Function)


class CachedManyDecorator(Protocol):
    """What ``cached_many(...)`` gives: a decorator that keeps the signature."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, T]], /) -> AsyncCachedMany[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> CachedMany[P, R]: ...
    def __call__(self, fn: Any, /) -> Any:
        """The cached form of `fn`."""


class CachedManyFactory:
    """The decorator `cached_many`, of the default cache or of one `Cache`."""

    def __init__(self, home: Callable[[], Home], bound: bool) -> None:
        self._home = home
        self._bound = bound

    def __call__(
        self,
        key: str,
        ttl: Ttl | OrUnset = UNSET,
        *,
        jitter: float = 0.0,
        cache_if: Callable[[Any], object] | None = None,
        negative_ttl: Duration = 30,
        ignore: Collection[str] = (),
        version: str | int = "",
        serializer: str | Serializer | None = None,
        compress: Compress | OrUnset | None = UNSET,
        tags: Sequence[str] = (),
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        early_refresh: float = 0,
        load_timeout: Duration | None = None,
    ) -> CachedManyDecorator:
        """Cache each row of what a function returns for many items: ``def get_users(user_ids) -> {user_id: user}``.

        A call looks for all rows at once, calls the function once with the items that are missing, each once and in
        order, and stores all that it returns at once: one call, and two round trips to each server, three where tags
        are new (on Redis for each 1,200 rows and tags). Items that the function leaves out are cached as absent; unless
        it returns nothing but others than it was asked for: then a CacheWarning says so. An entry is that of a function
        under `cached` with the same template: they share values, leases and invalidation.

        The function returns a mapping from items to values; a call of the decorated one returns a dict, in the order
        of its items, without those that are absent. If loading raises, so does the call; rows that were loaded before
        are in the cache then.

        Args:
            key: the template of one row's key. One of its fields names no parameter: it stands for an item of the one
                parameter that no field names. (`self` and `cls` are no such parameter.)
            negative_ttl: seconds that an item is known to be absent. (A function under `cached` asks the store.)
            ignore: parameters that neither are in the key nor hold the items.
            ttl, jitter, cache_if, version, serializer, compress, tags, stale_while_revalidate, stale_if_error,
                early_refresh, load_timeout: as of `cached`, for each row; tags may have the field of the item.

        Raises:
            ConfigurationError: an option that cannot work, a template that does not fit; at decoration.
        """
        options = Options(
            key=key,
            ttl=ttl,
            jitter=jitter,
            cache_if=cache_if,
            cache_exceptions=(),
            negative_ttl=negative_ttl,
            ignore=ignore,
            version=version,
            serializer=serializer,
            compress=compress,
            tags=tags,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            early_refresh=early_refresh,
            load_timeout=load_timeout,
        )
        if not isinstance(key, str):
            raise ConfigurationError("cached_many needs the template of one row's key, such as 'user:{user_id}'")
        from .many import ManyFunction  # which few programs need

        return lambda fn: decorate(fn, options, self._home, self._bound, ManyFunction)


def decorate(target: Any, options: Options, home: Callable[[], Home], bound: bool, make: type[Function]) -> Any:
    """The decorated form of a function, classmethod or staticmethod.

    Raises:
        ConfigurationError: it is none, or a generator; or the options do not fit.
    """
    fn: Any = target
    kind: Kind = "function"
    if isinstance(target, (classmethod, staticmethod)):
        fn, kind = target.__func__, "classmethod" if isinstance(target, classmethod) else "staticmethod"
    if not callable(fn) or inspect.isclass(fn):
        raise ConfigurationError(f"@cached decorates a function, not {fn!r}")
    if is_generator(fn):
        raise ConfigurationError(
            f"{getattr(fn, '__qualname__', fn)!r} is a generator, which can be consumed only once: return a list"
        )
    function = make(fn, options, home)
    if bound:
        function.bound = True
        function.runtime()  # what cannot work on this very cache is said now
    return wrap(function, function.path.call, kind)
