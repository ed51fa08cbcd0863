"""A decorated read: its key, its options, its runtime on a cache, and the two shells that carry out a call."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from . import drivers, scopes, telling, verbs
from .backends.base import Capability
from .core import Core
from .engine import Reader
from .entries import Table
from .envelope import MISSING, Codec
from .errors import ConfigurationError
from .expiry import UNSET, OrUnset, Ttl
from .hitpath import HitPath, Switch
from .keeper import Keeper, Policy
from .keymaker import KeyMaker, is_coroutine, location_of
from .keys import Template
from .options import NO_END, Options
from .rawkeys import in_parts, types_of
from .serializers import Compress, Serializer
from .stats import CacheInfo, Counters

if TYPE_CHECKING:
    from .freshness import FreshReader
    from .limiter import Limiter


class Home:
    """What a function needs of the cache it belongs to; made by `Cache`.

    Args:
        core: the shared state.
        ttl: for functions that were given none.
        serializer: the serializer for two options of the function, `serializer` and `compress`; the cache's own where
            they were not given.
        wall: wall clock in seconds.
    """

    __slots__ = ("__weakref__", "core", "serializer", "ttl", "wall")

    def __init__(
        self,
        core: Core,
        ttl: Ttl,
        serializer: Callable[[str | Serializer | None, Compress | OrUnset | None], Serializer],
        wall: Callable[[], float],
    ) -> None:
        self.core: Core = core
        self.ttl: Ttl = ttl
        self.serializer: Callable[[str | Serializer | None, Compress | OrUnset | None], Serializer] = serializer
        self.wall: Callable[[], float] = wall

    def codec(
        self,
        serializer: str | Serializer | None = None,
        version: str = "",
        exceptions: Collection[type[BaseException]] = (),
        compress: Compress | OrUnset | None = UNSET,
        batch: bool = False,
    ) -> Codec:
        """How this cache stores the values of a function with these options."""
        # Made even where it is not used, so that its mistakes show: memory stands in for a server.
        made = self.serializer(serializer, compress)
        capabilities = self.core.capabilities
        # What is kept in this process has one clock for all that it keeps.
        clock = getattr(self.core.backend, "clock", self.wall) if self.core.in_process else self.wall
        # Not imported by a module that only decorates; and of the two a process seldom needs both.
        if "objects" in capabilities:
            from .livecodec import LiveCodec

            return LiveCodec(version, "copies" in capabilities, clock, batch)
        from .wirecodec import WireCodec

        return WireCodec(
            made, version, exceptions, self.wall if "whole_seconds" in capabilities else None, clock, batch
        )


class Runtime:
    """One function on one cache."""

    def __init__(self, function: Function, home: Home) -> None:
        core, options = home.core, function.options
        # Weak: the function keeps its runtimes by their homes, as long as those live.
        self.home: weakref.ref[Home] = weakref.ref(home)
        self.core: Core = core
        self.in_process: bool = core.in_process and "outlives" not in core.capabilities
        """Whether no other process ever sees its keys."""
        self.stores: bool = "stores" in core.capabilities
        if not self.in_process:
            function.keys.check_server()
        if options.windows and options.ttl is UNSET and home.ttl is None:
            raise ConfigurationError(f"{function.name}: {NO_END}; {core.label} has that ttl: give the function its own")
        for capability, option in {**function.requires, **options.needs()}.items():
            if capability not in core.capabilities:
                raise ConfigurationError(
                    f"{function.name}: {option} needs a backend with the capability {capability!r}, which {core.label} "
                    "does not have"
                )
        # A row says nothing of tags.
        rows = "rows" in core.capabilities and not (function.tags or function.many)
        self.table: Table | None = Table(function.keys.is_default) if rows else None
        self.counters: Counters = core.book.open(function.name, self, None if self.table is None else self.table.hits)
        codec = home.codec(
            options.serializer, function.keys.version, options.cache_exceptions, options.compress, function.many
        )
        policy = Policy(
            function.name,
            function.where,
            options.expiry(home.ttl),
            options.cache_if,
            options.cache_exceptions,
            options.windows,
        )
        keeper = Keeper(policy, codec, self.counters)
        self.reader: Reader
        if options.plain:
            self.reader = Reader(core, keeper)
        else:
            from .freshness import FreshReader  # which most functions do without

            self.reader = FreshReader(core, keeper, options.load_timeout, function.limiter)

    @property
    def caches(self) -> bool:
        """Whether anything is looked up and stored: by this cache, and in this process now."""
        return self.stores and not Switch.off

    @property
    def fresh(self) -> FreshReader:
        """The reader of a function that has tags, or limits."""
        reader: Any = self.reader  # it is one wherever more is asked for than to look, load and fill
        return reader  # type: ignore[no-any-return]  # as just said


class Function:
    """One decorated function: its key, its options, and its runtime on the cache that it belongs to now.

    Args:
        fn: the user's function; of a classmethod or staticmethod, the function inside.
        options: what the decorator was given.
        home: gives the cache at each call, since the default cache may change.
    """

    many = False
    """Whether it reads many rows at once: see `many.py`."""
    bound = False
    """Whether it always belongs to the same cache."""
    requires: Mapping[Capability, str] = {}
    """What a backend has to be able to do, and for what, besides what the options ask for."""

    def __init__(self, fn: Callable[..., Any], options: Options, home: Callable[[], Home]) -> None:
        self._name_it(fn, options)
        self.keys: KeyMaker = KeyMaker(fn, self.name, options.key, options.ignore, str(options.version))
        self.tags: tuple[Template, ...] = tuple(
            [Template(tag, list(self.keys.binder.signature.parameters), self.name) for tag in options.tags]
        )
        self.limiter: Limiter | None = options.limiter()
        """Of all its loads in this process, whatever the cache."""
        self._live_at(home)
        coroutine = is_coroutine(fn)
        slow = async_shell(self) if coroutine else sync_shell(self)
        self.path: HitPath = HitPath(self.keys.binder.signature, self.keys.determined, slow, coroutine)

    def _name_it(self, fn: Callable[..., Any], options: Options) -> None:
        self.fn = fn
        self.options = options
        qualname = getattr(fn, "__qualname__", type(fn).__qualname__)
        module = getattr(fn, "__module__", None) or "?"
        self.name: str = f"{module}.{qualname}"
        self.where: tuple[str, int, str] = location_of(fn)

    def _live_at(self, home: Callable[[], Home]) -> None:
        self._home = home
        self._runtime: Runtime | None = None
        self._runtimes: weakref.WeakKeyDictionary[Home, Runtime] = weakref.WeakKeyDictionary()

    def runtime(self) -> Runtime:
        """On the cache that the function belongs to now."""
        home = self._home()
        runtime = self._runtime
        if runtime is None or runtime.home() is not home:
            # In one step: of two threads that come together both get the same one, and count in it.
            runtime = self._runtime = self._runtimes.get(home) or self._runtimes.setdefault(home, Runtime(self, home))
        return runtime

    def locate(
        self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Callable[[Any, Any], object] | None]:
        """The key of a call, as the backend knows it, and whom to tell of a hit: found by a row the next time."""
        prefix = runtime.core.prefix
        if runtime.table is None or self.path.names is None:
            return prefix + self.keys.of_call(args, kwargs, runtime.in_process), None
        key, values = self.keys.with_values(self.keys.binder.bind(args, kwargs), runtime.in_process)
        return prefix + key, None if values is None else partial(self._attach, runtime, prefix + key, values)

    def _attach(
        self, runtime: Runtime, key: str, values: tuple[Any, ...], entry: Any, outcome: Any, until: float = inf
    ) -> None:
        """Let the next call find `entry` by a row, if that is safe."""
        backend: Any = runtime.core.backend
        table = runtime.table
        assert table is not None  # else nobody would have been told of this
        raw: Hashable = values[0] if len(values) == 1 else values
        types = types_of(values)
        if types is None:
            raw, types = in_parts(values, table.records), ()
            if raw is None:
                return
            table.apart = True
        held = runtime.core.held  # calls inside a scope that changes the key would find the row too
        backend.attach(entry, table, raw, types, outcome, until, lambda: key not in held.counts)
        pending = runtime.core.pending
        self.path.switch(table, backend.clock, lambda: self._home() is runtime.home() and not pending)

    def shorten(self, runtime: Runtime, read: Callable[..., Any]) -> None:
        """Let the next calls go to `read` at once, on this cache, unless they are to look for a row first."""
        if runtime.table is not None or self.path.names is None:
            return
        fn, reader, of_call = self.fn, runtime.reader, self.keys.of_call
        prefix, in_process = runtime.core.prefix, runtime.in_process

        def call(*args: Any, **kwargs: Any) -> Any:
            return read(reader, prefix + of_call(args, kwargs, in_process), None, partial(_load, fn, args, kwargs))

        self.path.serve(call, lambda: self._home() is runtime.home())

    def text(self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of a call, without version."""
        return self.keys.of_call(args, kwargs, runtime.in_process)

    def key(self, /, *args: Any, **kwargs: Any) -> str:
        """The full text of the key, as `.key()` shows it."""
        return self.keys.full(self.text(self.runtime(), args, kwargs))

    def texts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        """The full texts of all keys of a call."""
        return [self.key(*args, **kwargs)]

    def info(self) -> CacheInfo:
        """What `.cache_info()` shows."""
        runtime = self.runtime()
        return runtime.counters.info(runtime.core.size())

    def server_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Core, str]:
        """The cache of a call, and its key as the backend knows it."""
        runtime = self.runtime()
        return runtime.core, runtime.core.prefix + self.text(runtime, args, kwargs)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Drop the entry of a call, sync."""
        core, key = self.server_key(args, kwargs)
        telling.invalidate(core, (key,))

    async def ainvalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Drop the entry of a call, async."""
        core, key = self.server_key(args, kwargs)
        await telling.ainvalidate(core, (key,))

    def place(self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Sequence[str]]:
        """The key and the tags of a call, as the backend knows them."""
        core = runtime.core
        if not self.tags:
            return core.prefix + self.text(runtime, args, kwargs), ()
        values = self.keys.binder.bind(args, kwargs)
        tags = [core.tag_key(tag.render(values)) for tag in self.tags]
        return core.prefix + self.keys.text(values, runtime.in_process), tags

    def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        """What the cache holds for a call, sync."""
        runtime = self.runtime()
        key, tags = self.place(runtime, args, kwargs)
        return drivers.run(verbs.peek(runtime.reader, key, tags), runtime.core) if runtime.caches else MISSING

    async def apeek(self, /, *args: Any, **kwargs: Any) -> Any:
        """What the cache holds for a call, async."""
        runtime = self.runtime()
        key, tags = self.place(runtime, args, kwargs)
        return await drivers.arun(verbs.peek(runtime.reader, key, tags), runtime.core) if runtime.caches else MISSING

    def put(self, value: Any, /, *args: Any, **kwargs: Any) -> bool:
        """Put a known value in the place of what a call would load, sync."""
        scopes.join(args, kwargs)
        runtime = self.runtime()
        key, tags = self.place(runtime, args, kwargs)
        return runtime.caches and bool(drivers.run(verbs.put(runtime.reader, key, tags, value), runtime.core))

    async def aput(self, value: Any, /, *args: Any, **kwargs: Any) -> bool:
        """Put a known value in the place of what a call would load, async."""
        scopes.join(args, kwargs)
        runtime = self.runtime()
        key, tags = self.place(runtime, args, kwargs)
        return runtime.caches and bool(await drivers.arun(verbs.put(runtime.reader, key, tags, value), runtime.core))


def _load(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    scopes.join(args, kwargs)
    return fn(*args, **kwargs)


def sync_shell(function: Function) -> Callable[..., Any]:
    """What a call of a plain decorated function runs, where the hit path has not found a hit."""
    fn, limits = function.fn, function.options.limits

    def call(*args: Any, **kwargs: Any) -> Any:
        if Switch.off and not limits:
            return fn(*args, **kwargs)
        runtime = function.runtime()
        if not runtime.caches:
            if limits:
                return drivers.run(runtime.fresh.uncached(sync=True), runtime.core, lambda: fn(*args, **kwargs))
            _count_uncached(runtime)
            return fn(*args, **kwargs)
        if function.tags:
            key, tags = function.place(runtime, args, kwargs)
            return drivers.read_tagged(runtime.fresh, key, tags, partial(_load, fn, args, kwargs))
        function.shorten(runtime, drivers.read)
        key, found = function.locate(runtime, args, kwargs)
        return drivers.read(runtime.reader, key, found, partial(_load, fn, args, kwargs))

    return call


def async_shell(function: Function) -> Callable[..., Awaitable[Any]]:
    """What a call of an async decorated function awaits."""
    fn, limits = function.fn, function.options.limits

    def call(*args: Any, **kwargs: Any) -> Awaitable[Any]:
        if Switch.off and not limits:
            return fn(*args, **kwargs)  # type: ignore[no-any-return]  # it is a coroutine function
        runtime = function.runtime()
        if not runtime.caches:
            if limits:
                return drivers.arun(runtime.fresh.uncached(sync=False), runtime.core, lambda: fn(*args, **kwargs))
            _count_uncached(runtime)
            return fn(*args, **kwargs)  # type: ignore[no-any-return]  # as above
        if function.tags:
            key, tags = function.place(runtime, args, kwargs)
            return drivers.aread_tagged(runtime.fresh, key, tags, partial(_load, fn, args, kwargs))
        function.shorten(runtime, drivers.aread)
        key, found = function.locate(runtime, args, kwargs)
        return drivers.aread(runtime.reader, key, found, partial(_load, fn, args, kwargs))

    return call


def _count_uncached(runtime: Runtime) -> None:
    counters = runtime.counters
    counters.misses += 1
    counters.bypassed += 1
    counters.loads += 1
