"""Which servers there are, and which of them holds a key: no I/O.

Keys are spread by rendezvous hashing: each server gets a score for the key, the highest wins. The order of the list
does not matter, and a server that joins or leaves moves only its own share of the keys. There is no failover: a key
that moved to another server and back would find a value there that has missed invalidations.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
Networking 6(1), 1998.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from ...errors import ConfigurationError

DEFAULT_PORT = 11211
SPELLINGS = "write host:port, host, [IPv6]:port or /path/to.sock"
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]+))?")


class Server(NamedTuple):
    """One memcached. `name` is how messages call it, and what the ring hashes."""

    name: str
    host: str
    port: int
    path: str | None


def parse_server(text: object) -> Server:
    """The server that `text` names.

    Raises:
        ConfigurationError: it names none.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"a memcached server is given as text, not {text!r}: {SPELLINGS}")
    if text.startswith("/"):
        if text.endswith("/") or not text.isprintable():
            raise ConfigurationError(f"{text!r} is no path of a socket: {SPELLINGS}")
        return Server(text, "", 0, text)
    if "@" in text:  # never echoed: what stands before it may be a password
        raise ConfigurationError(f"a memcached server takes no user and no password: {SPELLINGS}")
    match = _ADDRESS.fullmatch(text)
    if match is None or (match["host"] and not all(0 < len(label) < 64 for label in match["host"].split("."))):
        raise ConfigurationError(f"{text!r} names no memcached server: {SPELLINGS}")
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ConfigurationError(f"{text!r}: a port is a number from 1 to 65535")
    host = (match["v6"] or match["host"]).lower()
    return Server(f"[{host}]:{port}" if match["v6"] else f"{host}:{port}", host, port, None)


def parse_url(url: str) -> tuple[list[str], int | None]:
    """The server texts of a ``memcached://`` URL, and its option max_connections. No message repeats the URL.

    Raises:
        ConfigurationError: it is no such URL, or names a user or an unknown option.
    """
    scheme, separator, rest = url.partition("://")
    if scheme.lower() != "memcached" or not separator:
        raise ConfigurationError("a memcached URL begins with memcached://")
    rest, _, query = rest.partition("?")
    hosts, slash, path = rest.partition("/")
    if hosts and "@" in url:
        raise ConfigurationError("a memcached URL takes no user and no password")
    if "#" in url or (hosts and path):
        raise ConfigurationError(
            "a memcached URL is memcached://host:port,host:port or memcached:///path/to.sock, with nothing behind it "
            "but options (?max_connections=64): it has no database number and no fragment"
        )
    servers = [unquote(server) for server in (hosts or slash + path).split(",")]
    limit: int | None = None
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "max_connections":
            raise ConfigurationError(f"unknown option {name!r} in the memcached URL; known is: max_connections")
        if limit is not None or not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise ConfigurationError("max_connections in the memcached URL must be one whole number of at least 1")
        limit = int(value)
    return servers, limit


class Ring:
    """The servers, and where keys go. The same list in any order gives the same ring, in every process.

    Args:
        servers: their texts. Every process has to spell them alike: "localhost" and "127.0.0.1" are two.

    Raises:
        ConfigurationError: there is none, one is malformed, or one stands in it twice.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        if isinstance(servers, (str, bytes)):
            raise ConfigurationError("memcached servers are given as a list: MemcachedBackend(['localhost:11211'])")
        self.servers: tuple[Server, ...] = tuple(parse_server(text) for text in servers)
        if not self.servers:
            raise ConfigurationError(f"a memcached backend needs at least one server: {SPELLINGS}")
        names = [server.name for server in self.servers]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"the memcached server {name} is given twice")
        self._seeds = [blake2b(name.encode(), digest_size=32).digest() for name in names]

    def index(self, key: bytes) -> int:
        """The place in `servers` of the one that holds `key`."""
        if len(self._seeds) == 1:
            return 0
        scores = [blake2b(key, digest_size=8, key=seed).digest() for seed in self._seeds]
        return scores.index(max(scores))
