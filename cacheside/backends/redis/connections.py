"""How to connect: what a URL says of it, for one server or for each of several."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis import ConnectionPool
from redis.asyncio import ConnectionPool as AsyncPool
from redis.asyncio.connection import parse_url as parse_async_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from ...breaker import Breaker
from ...errors import ConfigurationError
from .. import urls
from ..patience import LOOP_SLACK
from .aserver import AsyncServer
from .rounds import Address
from .server import SyncServer

MAX_CONNECTIONS = 64  # to one server, for all threads of a process
MAX_CONNECTIONS_OF_LOOP = 16  # for one event loop: more only makes them wait for each other's callbacks

# What a URL may ask for. redis-py takes more, but not all of it from text, nor in both colours, nor to any effect here.
OPTIONS = (
    "max_connections", "db", "username", "password", "client_name", "protocol",
    "socket_timeout", "socket_connect_timeout", "socket_keepalive",
    "ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version",
    "ssl_ciphers", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data",
)  # fmt: skip


class Connections:
    """Makes servers of both colours, by the options of a URL.

    Args:
        url: of one server, as redis-py knows it: ``redis://``, ``rediss://`` or ``unix://``.
        shown: how errors call it; never with a password.
        timeout: seconds that a server may take to connect and to answer.

    Raises:
        ConfigurationError: an option that redis-py does not take.
    """

    def __init__(self, url: str, shown: str, timeout: float) -> None:
        rest, taken = urls.take(url, ("max_connections",))
        limit = taken.get("max_connections")
        if limit is not None and (not limit.isdecimal() or int(limit) < 1):
            raise ConfigurationError(f"max_connections must be a positive integer, not {limit!r}")
        self._limit = int(limit or MAX_CONNECTIONS)
        self._limit_of_loop = int(limit or MAX_CONNECTIONS_OF_LOOP)
        self._timeout = timeout
        # RESP 2 and no driver_info: a handshake would cost each new connection round trips, for nothing that is used.
        # With TLS one is needed: else redis-py's pool takes the session tickets of TLS 1.3 for an unread reply.
        common: dict[str, Any] = {"protocol": 2}
        if not url.startswith("rediss://"):
            common["driver_info"] = None
        try:
            self._plain: dict[str, Any] = {
                **common,
                "max_connections": self._limit,
                "retry": Retry(NoBackoff(), 0),
                "socket_timeout": timeout,
                "socket_connect_timeout": timeout,
                **parse_url(rest),  # type: ignore[no-untyped-call]  # redis-py has no hints for it
            }
            self._aio: dict[str, Any] = {
                **common,
                "max_connections": self._limit_of_loop,
                "retry": AsyncRetry(NoBackoff(), 0),
                "socket_timeout": None,  # see AsyncServer
                "socket_connect_timeout": timeout * LOOP_SLACK,
                **parse_async_url(rest),
            }
            pool = ConnectionPool(**self._plain)
            pool.connection_class(**pool.connection_kwargs)  # made and thrown away: it checks the options without I/O
        except Exception as error:  # redis-py has various for a bad value
            raise ConfigurationError(
                f"the redis URL {shown!r} has an option that redis-py does not take: {error}"
            ) from None

    def plain(self, name: str, breaker: Breaker, address: Address | None = None) -> SyncServer:
        """The server of the URL, or the one at `address`, for plain code; no I/O."""
        make_pool = partial(ConnectionPool, **{**self._plain, **_at(address)})
        return SyncServer(name, breaker, make_pool, self._limit)

    def aio(self, name: str, breaker: Breaker, address: Address | None = None) -> AsyncServer:
        """The same for async code."""
        make_pool = partial(AsyncPool, **{**self._aio, **_at(address)})
        timeout = min(self._timeout, self._aio["socket_timeout"] or self._timeout)
        return AsyncServer(name, breaker, make_pool, self._limit_of_loop, timeout)


def _at(address: Address | None) -> dict[str, Any]:
    return {} if address is None else {"host": address[0], "port": address[1]}


def several(url: str, port: int) -> tuple[str, list[Address]]:
    """The addresses in a URL of a cluster or of sentinels, and the URL as it would be for the first of them alone.

    Args:
        url: ``redis+kind://user:password@host:port,host:port/path?options``; the ``+kind`` is dropped.
        port: of hosts that are given without.

    Raises:
        ConfigurationError: a host is missing.
    """
    scheme, _, rest = url.partition("://")
    head, mark, query = rest.partition("?")
    netloc, slash, path = head.partition("/")
    user, at, hosts = netloc.rpartition("@")
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if not all(each.hostname for each in parts):
        raise ConfigurationError(f"a host is missing in the cache URL {urls.masked(url)!r}")
    alone = f"{scheme.partition('+')[0]}://{user}{at}{hosts.partition(',')[0]}{slash}{path}{mark}{query}"
    return alone, [(str(each.hostname), each.port or port) for each in parts]


def checked(url: str, *more: str) -> tuple[SplitResult, dict[str, str]]:
    """The parts of a URL and its options, all of which are known here or among `more`.

    Raises:
        ConfigurationError: it is malformed, or has an unknown option.
    """
    parts, options = urls.split(url)
    urls.refuse_unknown(url, options, (*OPTIONS, *more))
    return parts, options
