"""All places, by their names."""

from __future__ import annotations

from typing import Any

from servers import HOST

from .on_memcached import Memcached
from .on_memory import Memory
from .on_redis import Redis
from .place import Place


def opened(request: Any, name: str) -> Place:
    """The place "memory", "redis" or "memcached", on the session's server; closed with the test of `request`."""
    if name == "memory":
        return Memory()
    server = request.getfixturevalue(f"{name}_server")
    place = Redis(server.socket_path) if name == "redis" else Memcached(HOST, server.port)
    request.addfinalizer(place.close)
    return place
