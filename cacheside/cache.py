"""The face: `Cache`, the default cache, and the bare decorators."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import backends, drivers, forks, hitpath, serializers, telling, writes
from .backends.base import AsyncBackend, Backend
from .core import Core
from .decorators import CachedFactory, CachedManyFactory
from .errors import ConfigurationError
from .expiry import UNSET, Duration, Expiry, OrUnset, Ttl, seconds
from .functions import Home
from .keys import quote
from .serializers import Compress, Secret, Serializer
from .stats import Stats
from .targets import Entry, Terms, server_key, tag_keys
from .writes import Write

if TYPE_CHECKING:
    from .transactions import Recorder, Transaction

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, ..., Any] | staticmethod[..., Any]")

_URL_OPTIONS = ("namespace", "serializer", "compress", "ttl", "lease", "timeout")
_DEFAULTS: dict[str, Any] = {
    "namespace": "cacheside",
    "serializer": "msgpack",
    "compress": None,
    "ttl": 300.0,
    "lease": 10.0,
    "timeout": 0.25,
}


class Cache:
    """A cache, and the decorators that belong to it. One Cache serves threads, tasks and both colours.

    Args:
        backend: a URL (``memory://``, ``redis://host:6379/0``, ``memcached://host:11211``, ``null://``, ...), or an
            object that meets `backends.base.Backend` or `AsyncBackend`. A URL may carry the options `namespace`,
            `serializer`, `compress`, `ttl`, `lease` and `timeout` in its query.
        namespace: prefixes every key on a server; caches with one server and one namespace share entries. A memory
            cache is private to its object.
        serializer: a name or a `Serializer`; checked, though unused, on a memory cache.
        compress: "zlib", "zstd" (extra ``cacheside[zstd]``) or a `serializers.Compression`: payloads on a server are
            compressed from a size on; checked, though unused, on a memory cache. None: they are not.
        secret: for a serializer that signs, such as "pickle"; a list for rotation: the first signs, any verifies.
        ttl: for functions that are given none. None: no expiry.
        lease: seconds after which a load may no longer be filled, and after which every wait for another's load ends.
            Longer than a load should ever take.
        timeout: seconds that a server may take to connect and to answer; not for objects, which have their own. (On an
            event loop connecting may take four times as long: a busy loop is no dead server.)
        clock: for tests: seconds that never go back, used instead of the real clock where expiry is kept in this
            process (memory) or in the entry (memcached). A Redis server keeps time itself.

    Raises:
        ConfigurationError: any of these cannot work. Nothing is connected yet.
        MissingExtraError: the client library is not installed; the message has the pip command.
    """

    def __init__(
        self,
        backend: str | Backend | AsyncBackend = "memory://",
        *,
        namespace: str | OrUnset = UNSET,
        serializer: str | Serializer | OrUnset = UNSET,
        secret: Secret | None = None,
        compress: Compress | OrUnset | None = UNSET,
        ttl: Ttl | OrUnset = UNSET,
        lease: Duration | OrUnset = UNSET,
        timeout: Duration | OrUnset = UNSET,
        clock: Callable[[], float] | None = None,
    ) -> None:
        given = {
            "namespace": namespace, "serializer": serializer, "compress": compress, "ttl": ttl, "lease": lease,
            "timeout": timeout,
        }  # fmt: skip
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not UNSET}
        if isinstance(backend, str):
            from .backends import urls  # costly to import, and a module that decorates has no cache yet

            backend, in_url = urls.take(backend, _URL_OPTIONS)
            if both := in_url.keys() & options:
                raise ConfigurationError(f"{sorted(both)[0]} stands in the cache URL and is given as an argument too")
            options |= {name: _number(name, text) for name, text in in_url.items()}
            label = urls.masked(backend)
            limit = seconds(options.get("timeout", _DEFAULTS["timeout"]), "timeout")
            plain, aio = _forms(backends.create(backend, timeout=limit, clock=clock or time.monotonic))
        else:
            plain, aio = _forms(backend)
            label = repr(backend)
            if "timeout" in options:
                raise ConfigurationError("timeout= is for caches by URL: the backend object has time-outs of its own")
        options = {**_DEFAULTS, **options}
        self._namespace = _checked_namespace(options["namespace"])
        lease_seconds = seconds(options["lease"], "lease")
        Expiry(options["ttl"], 1, 0)
        own = serializers.create(options["serializer"], secret)
        either = plain or aio
        assert either is not None  # `_forms` has made sure of it
        kept_here = "in_process" in either.capabilities
        if clock is not None and (
            not isinstance(backend, str) if kept_here else "whole_seconds" not in either.capabilities
        ):
            raise ConfigurationError("clock= has no use here: the server, or the backend object, keeps time itself")
        prefix = "" if kept_here else f"{quote(self._namespace)}:"
        self._core = Core(label, plain, aio, prefix, lease_seconds)

        serializers.around(own, options["compress"])

        def choose(wanted: str | Serializer | None, compressed: Compress | OrUnset | None) -> Serializer:
            made = own if wanted is None or wanted == own.name else serializers.create(wanted)
            return serializers.around(made, options["compress"] if compressed is UNSET else compressed)

        self._home = Home(self._core, options["ttl"], choose, clock or time.time)
        self.cached: CachedFactory = CachedFactory(lambda: self._home, bound=True)
        """The decorator `cached`, bound to this cache."""
        self.cached_many: CachedManyFactory = CachedManyFactory(lambda: self._home, bound=True)
        """The decorator `cached_many`, bound to this cache."""

    def __repr__(self) -> str:
        return f"<Cache {self._core.label} namespace={self._namespace!r}>"

    @property
    def namespace(self) -> str:
        """What prefixes every key on a server."""
        return self._namespace

    def invalidates(
        self,
        *targets: Any,
        tags: Sequence[str] = (),
        strict: bool = False,
        hold: Duration = 30,
        stale: Duration = 0,
    ) -> Callable[[F], F]:
        """The decorator `invalidates`, bound to this cache."""
        terms = Terms(strict, hold, tags=tags, stale=stale)
        return lambda fn: writes.wrap(fn, targets, lambda: self._home, terms, bound=True)

    def updates(
        self, *targets: Any, strict: bool = False, hold: Duration = 30, ttl: Ttl | OrUnset = UNSET
    ) -> Callable[[F], F]:
        """The decorator `updates`, bound to this cache."""
        terms = Terms(strict, hold, update=True, ttl=ttl)
        return lambda fn: writes.wrap(fn, targets, lambda: self._home, terms, bound=True)

    def invalidating(
        self, *keys: str, tags: Sequence[str] = (), strict: bool = False, hold: Duration = 30, stale: Duration = 0
    ) -> Write:
        """A block that is a write: ``with`` or ``async with``. The keys are invalidated at its end, however it ends.

        Args:
            keys: full texts, as `.key()` of a cached function gives them.
            tags: tags to invalidate as well, as texts: "org:7".
            stale: as of `invalidates`.
            strict: guard the keys before the block, as `invalidates` does.
            hold: seconds that the guard lasts if this process dies in the block.

        Raises:
            ConfigurationError: options that cannot work, or that the backend cannot serve.
            InvalidKeyError: a text that can be no key; before the block runs.
            CacheUnavailable: with `strict`, the guard could not be placed; the block does not run.
        """
        entries = [Entry(self._core, key) for key in self._named(keys, tags)]
        terms = Terms(strict, hold, tags=tags, stale=stale)
        terms.require("cache.invalidating", self._core)
        return Write(lambda: self._home, "cache.invalidating", terms, [lambda values: entries])

    def transaction(self, *, outbox: Recorder | None = None) -> Transaction:
        """A block around the writes of one transaction, ``with`` or ``async with``: invalidations wait for its end.

        All that are made inside it are held: by decorated writes, by `.invalidate()`, of tags, of whatever cache. They
        are delivered when the block ends, also by an exception (which does not prove that nothing was committed),
        unless it has called `rollback()`. A block inside another one joins it. It follows the context: tasks that are
        made inside it, and threads that get a copy of the context, belong to it as well.

        Inside, a function whose key is held reads from the store, and nothing is filled. Guards of strict writes, and
        the values of `@updates`, wait for the end as well.

        Put the commit inside the block. Its end takes one round trip to each cache.

        Args:
            outbox: ``outbox.on(connection)`` of an `Outbox`: what is held is recorded by the same database transaction,
                so that it is not lost if this process dies between the commit and the delivery. Two statements more.
        """
        from .transactions import Transaction  # costly to import, and many need it not

        if outbox is not None and not hasattr(outbox, "record"):
            raise ConfigurationError(f"outbox= is outbox.on(connection), the connection of the block, not {outbox!r}")
        return Transaction(recorder=outbox)

    def invalidate(self, *keys: str, tags: Sequence[str] = ()) -> None:
        """Drop entries, and the right of every load under way to fill them.

        One round trip to each server (memcached: two). A broken cache raises nothing: the keys are bypassed in this
        process until it could be delivered.

        Args:
            keys: full texts, as `.key()` of a cached function gives them.
            tags: tags, as texts ("org:7"): all entries that have one of them are dropped, however many they are. Each
                tag costs what a key does.

        Raises:
            InvalidKeyError: a text that can be no key.
        """
        telling.invalidate(self._core, self._named(keys, tags))

    async def ainvalidate(self, *keys: str, tags: Sequence[str] = ()) -> None:
        """`invalidate`, awaitable. Cancelling the caller does not stop the delivery."""
        await telling.ainvalidate(self._core, self._named(keys, tags))

    def _named(self, keys: Sequence[str], tags: Sequence[str]) -> list[str]:
        return [server_key(self._core, key) for key in keys] + tag_keys(self._core, tags)

    def clear(self, everything: bool = False) -> None:
        """Drop all entries of this namespace. It takes many round trips on Redis: SCAN and UNLINK.

        Args:
            everything: all that the server holds, of whatever namespace and program. memcached can do nothing less,
                and refuses without it.

        Raises:
            ConfigurationError: the server cannot clear a namespace.
            CacheUnavailable: the server did not answer; some entries may be left.
        """
        drivers.drive(self._core.clear(self._what_to_clear(everything)), self._core)

    async def aclear(self, everything: bool = False) -> None:
        """`clear`, awaitable."""
        await drivers.adrive(self._core.clear(self._what_to_clear(everything)), self._core)

    def stats(self) -> Stats:
        """Counters of all functions on this cache in this process, in total and one by one."""
        return self._core.book.stats(self._core.size(), len(self._core.pending))

    def close(self) -> None:
        """Close the connections of plain code. Idempotent; the next call opens new ones."""
        if self._core.backend is not None:
            self._core.backend.close()

    async def aclose(self) -> None:
        """Close the connections of async code in the running event loop. Idempotent; the next call opens new ones.

        What is done in the background in this loop is broken off: refreshes, and loads with `load_timeout`, whose
        callers get `LoadTimeout` if they are still waiting. So end what calls cached functions first.
        """
        await self._core.stop()
        if self._core.aio is not None:
            await self._core.aio.close()
        elif self._core.in_process:
            self.close()  # the one form serves both colours

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Cache:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _what_to_clear(self, everything: bool) -> str | None:
        if everything or not self._core.prefix:
            return None
        if "clear" not in self._core.capabilities:
            raise ConfigurationError(
                f"{self._core.label} cannot clear one namespace: clear(everything=True) drops all that the server "
                "holds; another namespace= leaves the old entries to expire"
            )
        return self._core.prefix


def _number(name: str, text: str) -> object:
    """The value of a URL option."""
    if name in ("namespace", "serializer", "compress"):
        return text
    if name == "ttl" and text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{name} in the cache URL must be a number of seconds, not {text!r}") from None


def _checked_namespace(namespace: object) -> str:
    if not isinstance(namespace, str) or not namespace:
        raise ConfigurationError(f"namespace is a text and never empty, not {namespace!r}")
    return namespace


def _forms(backend: Any) -> tuple[Backend | None, AsyncBackend | None]:
    """The plain and the awaitable form of what a user gave."""
    plain: Backend | None = None
    aio: AsyncBackend | None = None
    if inspect.iscoroutinefunction(getattr(backend, "lookup", None)):
        if isinstance(backend, AsyncBackend):
            aio = backend
    elif isinstance(backend, Backend):
        plain, aio = getattr(backend, "plain", backend), backend.aio
    if plain is None and aio is None:
        raise ConfigurationError(
            f"a cache is made from a URL or from an object that meets Backend, not from {backend!r}"
        )
    return plain, aio


_default: Cache | None = None
_default_lock = forks.Lock()


def default_cache() -> Cache:
    """The cache of the bare decorators: what `configure` set, else the environment's CACHESIDE_URL, else ``memory://``."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Cache(os.environ.get("CACHESIDE_URL") or "memory://")
    return _default


def configure(cache: str | Cache | Backend | AsyncBackend, **options: Any) -> Cache:
    """Set the default cache of the bare decorators. It may come after they were used, and again.

    Args:
        cache: a URL, a backend object, or a `Cache`.
        options: as those of `Cache`; none beside a `Cache`.

    Returns:
        the cache.

    Raises:
        ConfigurationError: as `Cache` does; or options were given beside a Cache.
    """
    global _default
    if isinstance(cache, Cache):
        if options:
            raise ConfigurationError(f"a Cache has its options already: {sorted(options)}")
        made = cache
    else:
        made = Cache(cache, **options)
    with _default_lock:
        _default = made
    hitpath.reset()
    return made


def _default_home() -> Home:
    return (_default or default_cache())._home


cached: CachedFactory = CachedFactory(_default_home, bound=False)
"""Cache what a function returns, on the default cache. See `CachedFactory.__call__` for all options."""

cached_many: CachedManyFactory = CachedManyFactory(_default_home, bound=False)
"""Cache each row of what a function returns for many items. See `CachedManyFactory.__call__` for all options."""


def invalidates(
    *targets: Any, tags: Sequence[str] = (), strict: bool = False, hold: Duration = 30, stale: Duration = 0
) -> Callable[[F], F]:
    """The function is a write: drop the entries it makes stale, after it has returned, raised or been cancelled.

    The write itself has to commit; a function that leaves the commit to its caller invalidates too early. One round
    trip to each server, two on memcached; with `strict` as many more before the write.

    Args:
        targets: each a key template over the parameters and ``{result}``; or a cached function, whose key is made from
            the parameters of the same names, and whose entry is dropped in its own cache; or a callable with the same
            arguments (and `result`, as a keyword, if it has a parameter of that name) that returns a key or several.
        tags: templates like those of targets; all entries that have one of these tags are dropped.
        strict: guard the keys before the write. While the guard stands readers load from the store and fill nothing,
            so no old value outlives the write even if this process dies in it, or if the server cannot be reached
            after it. The targets then cannot depend on the result.
        hold: seconds after which the guard of a writer that died ends; longer than the write should ever take. (A
            write that outlasts it is as safe as one that is not strict.)
        stale: seconds that functions with `stale_while_revalidate` or `stale_if_error` may still return the old values,
            however long their windows are; nobody else sees them. 0: nobody does.

    Raises:
        ConfigurationError: a target that does not fit the function; at decoration.
        InvalidKeyError: a key that cannot be made from the arguments of a call; before the function is called.
        CacheUnavailable: with `strict`, the guard could not be placed; the function is not called.
    """
    terms = Terms(strict, hold, tags=tags, stale=stale)
    return lambda fn: writes.wrap(fn, targets, _default_home, terms)


def updates(*targets: Any, strict: bool = False, hold: Duration = 30, ttl: Ttl | OrUnset = UNSET) -> Callable[[F], F]:
    """The function is a write that returns the new value: put it into the entries instead of dropping them.

    The value goes in only if this writer alone was at work on the key, from before its write to after it; another
    writer, an invalidation, a lost guard or an outage make it a plain invalidation. So it is never older than any
    write that has returned. One round trip before the write and one after it (memcached: two and one).

    Args:
        targets: as those of `invalidates`, but known before the write: none may depend on the result. Best a cached
            function: the value is then kept as that function keeps what it returns. It has to be what that function
            would return.
        strict: refuse the write if the guard cannot be placed; without it the write goes on, and invalidates.
        hold: seconds after which the guard of a writer that died ends.
        ttl: of the value under targets that are no cached functions; default: the cache's.

    Raises:
        ConfigurationError: a target that does not fit the function; at decoration.
        InvalidKeyError: a key that cannot be made from the arguments of a call; before the function is called.
        CacheUnavailable: with `strict`, the guard could not be placed; the function is not called.
    """
    terms = Terms(strict, hold, update=True, ttl=ttl)
    return lambda fn: writes.wrap(fn, targets, _default_home, terms)
