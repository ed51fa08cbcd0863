"""The usual clients, as an application would open them to cache by hand: redis-py and pymemcache."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from ..backends import urls
from ..errors import CacheUnavailable, ConfigurationError


class Clients(NamedTuple):
    """A client for threads, and one for tasks. Both have get, set(name, value, seconds) and delete."""

    plain: Any
    aio: Any


class InThreads:
    """A plain client for tasks, whose calls run in threads: what there is for memcached."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def get(self, name: str) -> Any:
        """See the client."""
        return await asyncio.to_thread(self._client.get, name)

    async def set(self, name: str, value: bytes, seconds: int) -> Any:
        """See the client."""
        return await asyncio.to_thread(self._client.set, name, value, seconds)

    async def delete(self, name: str) -> Any:
        """See the client."""
        return await asyncio.to_thread(self._client.delete, name)

    async def aclose(self) -> None:
        """Nothing is its own."""


def open_clients(url: str, timeout: float) -> Clients:
    """Clients for the server of a cache URL, whose own options have been taken from it. To a cluster they connect.

    Raises:
        ConfigurationError: there is no usual client for such a URL.
        CacheUnavailable: a cluster does not answer.
    """
    scheme = url.partition("://")[0].lower()
    if scheme == "memcached":
        return _memcached(url, timeout)
    options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    if scheme in ("redis", "rediss", "unix"):
        import redis.asyncio

        return Clients(redis.Redis.from_url(url, **options), redis.asyncio.Redis.from_url(url, **options))
    if scheme in ("redis+cluster", "rediss+cluster"):
        return _cluster(url, options)
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return _sentinel(url, options)
    raise ConfigurationError(f"--naive knows no usual client for {urls.masked(url)!r}")


def _memcached(url: str, timeout: float) -> Clients:
    import pymemcache  # type: ignore[import-untyped]  # it ships no types

    from ..backends.memcached.ring import Ring, parse_url

    servers = [server.path or (server.host, server.port) for server in Ring(parse_url(url)[0]).servers]
    client = pymemcache.HashClient(
        servers, use_pooling=True, timeout=timeout, connect_timeout=timeout, no_delay=True, default_noreply=False
    )
    return Clients(client, InThreads(client))


def _cluster(url: str, options: dict[str, Any]) -> Clients:
    import redis.asyncio.cluster
    import redis.cluster

    from ..backends.redis.connections import several

    alone, seeds = several(url, 6379)
    options |= _login(alone)
    try:
        plain, aio = (
            module.RedisCluster(startup_nodes=[module.ClusterNode(*seed) for seed in seeds], **options)
            for module in _untyped(redis.cluster, redis.asyncio.cluster)
        )
    except redis.RedisError as error:
        raise CacheUnavailable(f"redis-py cannot connect to {urls.masked(url)}: {error}") from error
    return Clients(plain, aio)


def _sentinel(url: str, options: dict[str, Any]) -> Clients:
    import redis.asyncio.sentinel
    import redis.sentinel

    from ..backends.redis.connections import several

    rest, login = urls.take(url, ("sentinel_username", "sentinel_password"))
    alone, sentinels = several(rest, 26379)
    of_sentinels = options | {name.removeprefix("sentinel_"): value for name, value in login.items()}
    service, _, database = unquote(urlsplit(url).path.strip("/")).partition("/")
    of_master = options | _login(urlsplit(alone)._replace(path=database).geturl())
    if of_master.get("ssl"):
        of_sentinels["ssl"] = True
    plain, aio = (
        module.Sentinel(sentinels, sentinel_kwargs=of_sentinels).master_for(service, **of_master)
        for module in _untyped(redis.sentinel, redis.asyncio.sentinel)
    )
    return Clients(plain, aio)


def _login(url: str) -> dict[str, Any]:
    """User, password, database and options of a ``redis://`` or ``rediss://`` URL, as redis-py takes them."""
    import redis.connection

    (module,) = _untyped(redis.connection)
    found = dict(module.parse_url(url))
    if found.pop("connection_class", None) is module.SSLConnection:
        found["ssl"] = True
    return {name: value for name, value in found.items() if name not in ("host", "port")}


def _untyped(*modules: Any) -> tuple[Any, ...]:
    """Modules of redis-py whose functions it has not given types."""
    return modules
