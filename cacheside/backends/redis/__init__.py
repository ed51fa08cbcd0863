"""Redis (and Valkey): one server, by URL or by clients of your own. `wire.py` has the protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from redis import BlockingConnectionPool, Redis
from redis.asyncio import BlockingConnectionPool as AsyncioBlockingConnectionPool
from redis.asyncio import Redis as AsyncioRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...errors import ConfigurationError
from .. import urls
from ..base import AsyncBackend, Capability, Size
from ..patience import LOOP_SLACK
from .aio import AsyncRedis
from .sync import SyncRedis
from .wire import Protocol

MAX_CONNECTIONS = 64  # for all threads of a process
MAX_CONNECTIONS_OF_LOOP = 16  # for one event loop: more only makes them wait for each other's callbacks
# Seconds that callers wait for a connection of our own pools, which are bounded; redis-py's default pool fails instead.
POOL_WAIT = 5.0

# What a URL may ask for. redis-py takes more, but not all of it from text, nor in both colours, nor to any effect here.
_OPTIONS = (
    "max_connections", "db", "username", "password", "client_name", "protocol", "health_check_interval",
    "socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size",
    "ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version",
    "ssl_ciphers", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data",
)  # fmt: skip


class RedisBackend(SyncRedis):
    """A cache on one Redis server, for plain and async functions.

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
        self._set_up(
            "redis (client of the application)",
            None if client is None else (lambda: client.connection_pool),
            None if aclient is None else (lambda: aclient.connection_pool),
            owned=False,
        )

    @classmethod
    def from_url(cls, url: str, *, timeout: float, clock: Callable[[], float]) -> RedisBackend:
        """``redis://user:password@host:6379/0``, ``rediss://`` (TLS) or ``unix:///path/to.sock``.

        Query options: `max_connections` (64 in a process, 16 in each event loop), and those of redis-py's connections
        that the error for an unknown one lists.
        """
        parts, options = urls.split(url)
        database = parts.path.strip("/")
        if parts.scheme == "unix":
            well_formed = bool(database)
        else:
            well_formed = bool(parts.hostname) and (not database or database.isdecimal())
        if not well_formed:
            raise ConfigurationError(
                f"a redis URL looks like 'redis://localhost:6379/0' or 'unix:///path/to.sock', not {urls.masked(url)!r}"
            )
        urls.refuse_unknown(url, options, _OPTIONS)
        limit = options.get("max_connections")
        if limit is not None and (not limit.isdecimal() or int(limit) < 1):
            raise ConfigurationError(f"max_connections must be a positive integer, not {limit!r}")
        rest, _ = urls.take(url, ("max_connections",))
        # RESP 2 and no driver_info: a handshake would cost each new connection round trips, for nothing that is used.
        # With TLS one is needed: else redis-py's pool takes the session tickets of TLS 1.3 for an unread reply.
        settings: dict[str, Any] = {"timeout": POOL_WAIT, "protocol": 2}
        if parts.scheme != "rediss":
            settings["driver_info"] = None
        self = cls.__new__(cls)
        try:
            pool = BlockingConnectionPool.from_url(
                rest,
                max_connections=int(limit or MAX_CONNECTIONS),
                retry=Retry(NoBackoff(), 0),
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                **settings,
            )
            pool.connection_class(**pool.connection_kwargs)  # made and thrown away: it checks the options without I/O
        except Exception as error:  # redis-py has various for a bad value
            raise ConfigurationError(
                f"the redis URL {urls.masked(url)!r} has an option that redis-py does not take: {error}"
            ) from None
        apool = partial(
            AsyncioBlockingConnectionPool.from_url,
            rest,
            max_connections=int(limit or MAX_CONNECTIONS_OF_LOOP),
            retry=AsyncRetry(NoBackoff(), 0),
            socket_timeout=None,  # see AsyncRedis: redis-py's own would take a busy loop for a dead server
            socket_connect_timeout=timeout * LOOP_SLACK,
            **settings,
        )
        self._set_up(urls.masked(url), lambda: pool, apool, owned=True, timeout=timeout)
        return self

    def _set_up(
        self,
        label: str,
        pool: Callable[[], Any] | None,
        apool: Callable[[], Any] | None,
        owned: bool,
        timeout: float | None = None,
    ) -> None:
        self._label = label
        protocol = Protocol()
        self._has_plain = pool is not None
        if pool is not None:
            super().__init__(protocol, pool, owned)
        self._aio = None if apool is None else AsyncRedis(protocol, self.capabilities, apool, owned, timeout)

    def __repr__(self) -> str:
        return self._label

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return frozenset({"clear", "stores"})

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
