"""Redis (and Valkey), by URL or by clients of your own.

`wire.py` says what is sent to a server and what its answer means (`commands.py`: what it is made of); `routes.py` says
to which server, and `rounds.py` what goes together. None of them does I/O.
`slots.py` is the map of a cluster, `places.py` reads URLs.
`server.py` and `aserver.py` are one server, its connections and its breaker; `line.py` is the connection for the
lookups of an event loop. `sync.py` and `aio.py` only carry out the steps, but for a hit, which takes the shortest way.
"""

from __future__ import annotations

from collections.abc import Callable

from redis import Redis
from redis.asyncio import Redis as AsyncioRedis
from redis.utils import HIREDIS_AVAILABLE

from ...errors import ConfigurationError
from ..base import AsyncBackend, Capability, Size
from . import places
from .aio import AsyncRedis
from .aserver import AsyncServer
from .rounds import Address
from .routes import OneServer, Route
from .server import SyncServer
from .sync import SyncRedis
from .wire import Protocol

if HIREDIS_AVAILABLE:
    # Now, not at the first call: a child that is forked while another thread imports something could never import it.
    from . import line, shortcut  # noqa: F401  # imported where they are needed, for they need hiredis

_PATIENCE_OF_PROBES = 5.0  # seconds, where a user's client has no time-out


class RedisBackend(SyncRedis):
    """A cache on Redis: one server, a cluster, or a service behind Sentinel; for plain and async functions.

    A hit costs one round trip, a miss two besides the load. Every command plants or proves a lease token, see wire.py.
    Thread-safe; usable from several event loops, each gets connections of its own.

    Args:
        client: a `redis.Redis` of yours, for plain functions. Its connections and options are used, not its retries.
        aclient: a `redis.asyncio.Redis` of yours, for async functions in the event loop it belongs to.
    At least one has to be given; clients stay yours to close. `decode_responses=True` does not matter.

    Raises:
        ConfigurationError: neither was given, or one is no such client.
    """

    def __init__(self, client: Redis | None = None, aclient: AsyncioRedis | None = None) -> None:
        if client is None and aclient is None:
            raise ConfigurationError(
                "RedisBackend needs client= (redis.Redis), aclient= (redis.asyncio.Redis), or both"
            )
        for given, kind, name in ((client, Redis, "client"), (aclient, AsyncioRedis, "aclient")):
            if given is not None and not isinstance(given, kind):
                raise ConfigurationError(f"{name}= must be a {kind.__module__}.{kind.__name__}, not {type(given)!r}")
        pools = [given.connection_pool for given in (client, aclient) if given is not None]
        limits = [pool.connection_kwargs.get("socket_timeout") or _PATIENCE_OF_PROBES for pool in pools]
        route = OneServer(Protocol(), max(limits), "redis (client of the application)")
        breaker = route.breaker(OneServer.HERE)
        self._set_up(
            route,
            None
            if client is None
            else (lambda _: SyncServer(route.label, breaker, lambda: client.connection_pool, None)),
            None
            if aclient is None
            else (lambda _: AsyncServer(route.label, breaker, lambda: aclient.connection_pool, None, None)),
        )

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Callable[[], float]) -> RedisBackend:
        """The backend that a URL describes.

        Args:
            url: one server: ``redis://user:password@host:6379/0``, ``rediss://`` (TLS) or ``unix:///path/to.sock``;
                Redis Cluster: ``redis+cluster://user:password@host:6379,host:6379``, some of its servers;
                Redis behind Sentinel: ``redis+sentinel://user:password@host:26379,host:26379/service/0``, some of the
                sentinels, the name of the service, and the database; both also with ``rediss+``.
                Query options: `max_connections` (to one server: 64 in a process, 16 in each event loop), those of
                redis-py's connections that the error for an unknown one lists, and for Sentinel `sentinel_username`
                and `sentinel_password` where the sentinels themselves ask for a login.
            timeout: seconds that a server may take to connect and to answer.
            clock: every backend is offered one; this one needs none, for the servers keep the time.

        Raises:
            ConfigurationError: it is malformed, or has an option that cannot work.
        """
        kind = url.partition("://")[0].partition("+")[2]
        make = {"cluster": places.cluster, "sentinel": places.sentinel}.get(kind, places.one_server)
        self = cls.__new__(cls)
        self._set_up(*make(url, timeout))
        return self

    def _set_up(
        self,
        route: Route,
        connect: Callable[[Address], SyncServer] | None,
        aconnect: Callable[[Address], AsyncServer] | None,
    ) -> None:
        self._label = route.label
        self._has_plain = connect is not None
        if connect is not None:
            super().__init__(route, connect)
        self._aio = None if aconnect is None else AsyncRedis(route, self.capabilities, aconnect)

    def __repr__(self) -> str:
        return self._label

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return frozenset({"batches", "claims", "clear", "gives_back", "stores"})

    @property
    def plain(self) -> RedisBackend | None:
        """The plain form; None if only an async client was given."""
        return self if self._has_plain else None

    @property
    def aio(self) -> AsyncBackend | None:
        """The awaitable form; None if only a plain client was given."""
        return self._aio

    def size(self) -> Size:
        """Unknown without I/O."""
        return Size(None, None)
