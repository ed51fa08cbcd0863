"""The two ways to cache the store: the decorators of this library, and get, set and delete by hand."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..backends import urls
from ..cache import _URL_OPTIONS, Cache
from ..errors import CacheUnavailable, ConfigurationError
from ..stats import Counters
from .clients import open_clients
from .store import Store

if TYPE_CHECKING:
    from .worker import Settings

TTL = 60  # seconds: far longer than a race, and the end of whatever could not be removed
PATIENCE = 3.0  # seconds that a server may take, unless the URL says: the machine is kept busy by the check itself
OPTIONS: dict[str, float] = {"timeout": PATIENCE, "ttl": TTL}


class Way(Protocol):
    """Reads and writes of rows through a cache, for threads and for tasks."""

    name: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, settings: Settings, store: Store) -> None: ...

    def probe(self) -> None:
        """Talk to the server.

        Raises:
            CachesideError: it does not answer, or cannot be checked.
        """

    def read(self, row: int) -> int:
        """The version of a row, perhaps from the cache."""
        ...

    def write(self, row: int) -> int:
        """Commit a new version of a row; returns it."""
        ...

    async def aread(self, row: int) -> int:
        """See `read`."""
        ...

    async def awrite(self, row: int) -> int:
        """See `write`."""
        ...

    def counts(self) -> dict[str, int]:
        """What this process has counted."""
        ...

    def trouble(self) -> str:
        """What the cache first failed of in this process; empty if it has not."""
        ...

    def remove(self) -> bool:
        """Remove from the server what was put there; whether that could be done."""
        ...

    def close(self) -> None:
        """Close the connections of threads."""

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""


class Ours:
    """This library, as an application would use it: plain and async functions with the same keys."""

    name: ClassVar[str] = "cacheside"
    title: ClassVar[str] = "cacheside"

    def __init__(self, settings: Settings, store: Store) -> None:
        given = urls.split(settings.url)[1]
        if "namespace" in given:
            raise ConfigurationError("the check makes a namespace of its own: leave that option out of the URL")
        options: dict[str, Any] = {name: value for name, value in OPTIONS.items() if name not in given}
        self.cache: Cache = Cache(settings.url, namespace=settings.namespace, **options)
        cache = self.cache
        self._rows = [f"row:{row}" for row in range(settings.rows)]
        self._heard = Heard()
        cached = cache.cached("row:{row}")
        self._read, self._aread = cached(store.load), cached(store.aload)
        invalidates = cache.invalidates("row:{row}", strict=settings.strict)
        self._write, self._awrite = invalidates(store.write), invalidates(store.awrite)

    def read(self, row: int) -> int:
        """See `Way.read`."""
        return self._read(row)

    def write(self, row: int) -> int:
        """See `Way.write`."""
        return self._write(row)

    async def aread(self, row: int) -> int:
        """See `Way.aread`."""
        return await self._aread(row)

    async def awrite(self, row: int) -> int:
        """See `Way.awrite`."""
        return await self._awrite(row)

    def probe(self) -> None:
        """See `Way.probe`."""
        core = self.cache._core
        if "stores" not in core.capabilities:
            raise ConfigurationError(f"{core.label} keeps nothing, so there is nothing to check")
        if "in_process" in core.capabilities:
            raise ConfigurationError(
                f"{core.label} is private to one process, and this check races several: 'cacheside demo' checks what "
                "the threads and tasks of one process see"
            )
        core.require(sync=True)
        core.require(sync=False)
        assert core.backend is not None
        try:  # not through the Cache, which would count the error and raise nothing
            core.backend.lookup(f"{core.prefix}probe", core.lease)
            core.backend.invalidate([f"{core.prefix}probe"])
        except CacheUnavailable as error:
            raise CacheUnavailable(f"the cache {core.label} does not answer: {error}") from error

    def counts(self) -> dict[str, int]:
        """See `Way.counts`."""
        stats = self.cache.stats()
        return {name: getattr(stats.totals, name) for name in Counters.NAMES} | {"undelivered": stats.undelivered}

    def trouble(self) -> str:
        """See `Way.trouble`: the first line of the log."""
        return self._heard.first

    def remove(self) -> bool:
        """See `Way.remove`. One round trip to each server."""
        before = self.cache.stats().undelivered
        self.cache.invalidate(*self._rows)
        return self.cache.stats().undelivered == before

    def close(self) -> None:
        """See `Way.close`."""
        self.cache.close()
        self._heard.close()

    async def aclose(self) -> None:
        """See `Way.aclose`."""
        await self.cache.aclose()


class Heard(logging.Handler):
    """Keeps the first line that cacheside logs, so that it does not end up in the progress bars."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str = ""
        self._logger = logging.getLogger("cacheside")
        self._propagated = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self.first = self.first or record.getMessage()

    def close(self) -> None:
        """Leave the logger as it was."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
        super().close()


class Naive:
    """Cache-aside as it is mostly written: get; on a miss load and set; delete after a write.

    An error of the cache is a miss, as it is here.
    """

    name: ClassVar[str] = "naive"
    title: ClassVar[str] = "get/set/delete"

    def __init__(self, settings: Settings, store: Store) -> None:
        url, taken = urls.take(settings.url, _URL_OPTIONS)
        self._clients = open_clients(url, float(taken.get("timeout", PATIENCE)))
        self._store = store
        self._names = [f"{settings.namespace}-naive:row:{row}" for row in range(settings.rows)]
        self._counters = Counters()
        self._trouble = ""

    def probe(self) -> None:
        """See `Way.probe`: `Ours` has talked to the server."""

    def read(self, row: int) -> int:
        """See `Way.read`."""
        stored = None
        with self._counted():
            stored = self._clients.plain.get(self._names[row])
        if stored is not None:
            self._counters.hits += 1
            return int(stored)
        self._counters.misses += 1
        self._counters.loads += 1
        version = self._store.load(row)
        with self._counted():
            self._clients.plain.set(self._names[row], str(version).encode(), TTL)
        return version

    async def aread(self, row: int) -> int:
        """See `Way.aread`."""
        stored = None
        with self._counted():
            stored = await self._clients.aio.get(self._names[row])
        if stored is not None:
            self._counters.hits += 1
            return int(stored)
        self._counters.misses += 1
        self._counters.loads += 1
        version = await self._store.aload(row)
        with self._counted():
            await self._clients.aio.set(self._names[row], str(version).encode(), TTL)
        return version

    def write(self, row: int) -> int:
        """See `Way.write`."""
        version = self._store.write(row)
        with self._counted():
            self._clients.plain.delete(self._names[row])
        return version

    async def awrite(self, row: int) -> int:
        """See `Way.awrite`."""
        version = await self._store.awrite(row)
        with self._counted():
            await self._clients.aio.delete(self._names[row])
        return version

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each client has its own
            self._counters.errors += 1
            self._trouble = self._trouble or f"{type(error).__name__}: {error}"

    def counts(self) -> dict[str, int]:
        """See `Way.counts`."""
        return {name: getattr(self._counters, name) for name in ("hits", "misses", "loads", "errors")}

    def trouble(self) -> str:
        """See `Way.trouble`."""
        return self._trouble

    def remove(self) -> bool:
        """See `Way.remove`."""
        before = self._counters.errors
        with self._counted():
            for name in self._names:
                self._clients.plain.delete(name)
        return self._counters.errors == before

    def close(self) -> None:
        """See `Way.close`."""
        self._clients.plain.close()

    async def aclose(self) -> None:
        """See `Way.aclose`."""
        await self._clients.aio.aclose()
