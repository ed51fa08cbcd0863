"""What a cache URL stands for: the route to its servers, and how to connect to them. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import quote, unquote

from ...errors import ConfigurationError
from .. import urls
from .aserver import AsyncServer
from .cluster import ClusterRoute
from .connections import Connections, checked, several
from .rounds import Address
from .routes import OneServer, Route
from .sentinel import SentinelRoute
from .server import SyncServer
from .wire import Protocol

Place: TypeAlias = tuple[Route, Callable[[Address], SyncServer], Callable[[Address], AsyncServer]]
"""The route, and what makes a server of either colour, given its address."""


def one_server(url: str, timeout: float) -> Place:
    """``redis://user:password@host:6379/0``, ``rediss://`` or ``unix:///path/to.sock``."""
    parts, _ = checked(url)
    database = parts.path.strip("/")
    if parts.scheme == "unix":
        well_formed = bool(database)
    else:
        well_formed = bool(parts.hostname) and "," not in parts.netloc and (not database or database.isdecimal())
    shown = urls.masked(url)
    if not well_formed:
        raise ConfigurationError(
            f"a redis URL looks like 'redis://localhost:6379/0' or 'unix:///path/to.sock', not {shown!r}"
        )
    connections = Connections(url, shown, timeout)
    route = OneServer(Protocol(), timeout, shown)
    breaker = route.breaker(OneServer.HERE)
    return route, lambda _: connections.plain(shown, breaker), lambda _: connections.aio(shown, breaker)


def cluster(url: str, timeout: float) -> Place:
    """``redis+cluster://user:password@host:6379,host:6379``, or ``rediss+cluster://``."""
    parts, options = checked(url)
    shown = urls.masked(url)
    if parts.path.strip("/") not in ("", "0") or options.get("db", "0") != "0":
        raise ConfigurationError(f"a cluster has database 0 only: {shown!r}")
    alone, seeds = several(url, 6379)
    connections = Connections(alone, shown, timeout)
    route = ClusterRoute(Protocol(), timeout, shown, seeds)
    return (
        route,
        lambda address: connections.plain(route.name(address), route.breaker(address), address),
        lambda address: connections.aio(route.name(address), route.breaker(address), address),
    )


def sentinel(url: str, timeout: float) -> Place:
    """``redis+sentinel://user:password@host:26379,host:26379/service/0``, or ``rediss+sentinel://``."""
    mine = ("sentinel_username", "sentinel_password")
    parts, _ = checked(url, *mine)
    shown = urls.masked(url)
    service, _, database = parts.path.strip("/").partition("/")
    service = unquote(service)
    if not service or (database and not database.isdecimal()):
        raise ConfigurationError(
            f"a sentinel URL looks like 'redis+sentinel://host:26379,host:26379/service/0', not {shown!r}"
        )
    rest, login = urls.take(url, mine)
    alone, sentinels = several(rest, 26379)
    head, mark, query = alone.partition("?")
    scheme, _, netloc = head.removesuffix(parts.path).partition("://")
    of_master = Connections(f"{scheme}://{netloc}/{database}{mark}{query}", shown, timeout)
    user, password = (quote(login.get(name, ""), safe="") for name in mine)
    at = f"{user}:{password}@" if user or password else ""
    without, _ = urls.take(f"{scheme}://{at}{netloc.rpartition('@')[2]}{mark}{query}", ("db", "username", "password"))
    of_sentinels = Connections(without, shown, timeout)
    route = SentinelRoute(Protocol(), timeout, shown, service, sentinels)

    def connections(address: Address) -> Connections:
        return of_sentinels if address in route.sentinels else of_master

    return (
        route,
        lambda address: connections(address).plain(route.name(address), route.breaker(address), address),
        lambda address: connections(address).aio(route.name(address), route.breaker(address), address),
    )
