"""What the tests of the Redis backend share: one way to call it in both colours, and a proxy that loses things."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import redis
from adapter import Adapter
from colours import Colour
from servers import HOST, RedisServer

from cacheside import Cache, CacheUnavailable
from cacheside.backends import create
from cacheside.backends.redis.rounds import Send, Steps
from cacheside.backends.redis.wire import Protocol

Open = Callable[..., Adapter]


@contextlib.contextmanager
def opener(colour: str) -> Iterator[Open]:
    """Makes adapters: `make(server or proxy, native=True, timeout=5.0)`. They end with the block."""
    with contextlib.ExitStack() as stack:

        def make(server: RedisServer | Proxy, native: bool = True, timeout: float = 5.0) -> Adapter:
            backend = create(server.url, timeout=timeout, clock=lambda: 0.0)
            if not native:
                backend._route.protocol = Protocol(native=False)
            adapter = Adapter(backend, colour)
            stack.callback(adapter.end)
            return adapter

        yield make


MakeCache = Callable[..., Cache]


@contextlib.contextmanager
def cache_maker(colour: Colour) -> Iterator[MakeCache]:
    """Makes caches: `make(url or backend, **options)`. They are closed, in their colour, with the block."""
    with contextlib.ExitStack() as stack:

        def make(backend: Any, **options: Any) -> Cache:
            cache = Cache(backend, **options)
            stack.callback(colour.run, cache.close if colour.name == "sync" else cache.aclose)
            return cache

        yield make


class Table:
    """A store of counters, read and written through a cache."""

    def __init__(self, colour: Colour, cache: Cache, rows: dict[str, int] | None = None) -> None:
        self.rows = {} if rows is None else rows
        self.cache = cache
        self._colour = colour

        def read(name: str) -> int:
            return self.rows.setdefault(name, 0)

        def write(name: str) -> None:
            self.rows[name] += 1

        self._read = colour.decorate(cache.cached(key="{name}"), read)
        self._write = colour.decorate(cache.invalidates("{name}"), write)
        self._strict = colour.decorate(cache.invalidates("{name}", strict=True), write)

    def read(self, name: str) -> int:
        """What the cached function says; it is right."""
        row: int = self._colour.run(self._read, name)
        assert row == self.rows[name]
        return row

    def write(self, name: str, strict: bool = False) -> None:
        """A write that invalidates."""
        self._colour.run(self._strict if strict else self._write, name)

    def hits(self, *names: str) -> bool:
        """Whether each of these is a hit now."""
        before = self.counts.hits
        for name in names:
            self.read(name)
        return bool(self.counts.hits == before + len(names))

    @property
    def counts(self) -> Any:
        """The counters so far."""
        return self.cache.stats().totals


def play(operation: Generator[Any, Any, Any], *replies: Any) -> tuple[list[Any], Any]:
    """Drive an operation of `Protocol` by hand: the commands it sent, and what it came to."""
    commands = [next(operation)]
    for reply in replies:
        try:
            commands.append(operation.send(reply))
        except StopIteration as end:
            return commands, end.value
    raise AssertionError(f"it is not over after {commands!r}")


def ask_again(backend: Any) -> None:
    """The time of the next probe has come, for all servers whose breaker is open."""
    for breaker in backend._route._breakers.values():
        breaker._next_probe = 0.0


def walk(steps: Steps, *replies: Any) -> tuple[list[Send], Any]:
    """Carry out steps, each reply the whole answer to one; returns what was sent, and the result or error."""
    sent: list[Send] = []
    left = list(replies)
    answer = None
    while True:
        try:
            sent.append(steps.send(answer))
        except StopIteration as end:
            assert left == []
            return sent, end.value
        except CacheUnavailable as error:
            assert left == []
            return sent, error
        answer = left.pop(0)
        answer = answer if isinstance(answer, list) else [answer]


def addresses(sent: list[Send]) -> list[Any]:
    """Where it was sent, one server after another."""
    return [each.address for each in sent]


def names(sent: list[Send]) -> list[list[Any]]:
    """The names of the commands that were sent together."""
    return [[command[0] for command in each.commands] for each in sent]


def say(server: RedisServer, *command: str | bytes | int) -> Any:
    """What the server answers to somebody else's command, on a connection of its own."""
    with redis.Redis(host=HOST, port=server.port, socket_timeout=20) as client:
        return client.execute_command(*command)


def named(server: RedisServer, name: str) -> int:
    """How many connections with the client name `name` there are."""
    return int(say(server, "CLIENT", "LIST").count(f" name={name} ".encode()))


LOOKUP = b"\r\nSET\r\n"


class Proxy(socketserver.ThreadingTCPServer):
    """Stands between a client and a server, and loses what it is told to.

    `commands` are those that came through, in order, as bytes. The replies to the next `lose` lookups are lost, with
    their connections, though the server has carried them out. While `down`, commands are lost before they get there.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: RedisServer) -> None:
        super().__init__((HOST, 0), _Handler)
        self.target = (HOST, server.port)
        self.url = f"redis://{HOST}:{self.server_address[1]}/0"
        self.port = self.server_address[1]
        self.commands: list[bytes] = []
        self.lose = 0
        self.down = False
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        super().__exit__(*args)


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        proxy: Any = self.server
        with contextlib.suppress(OSError), socket.create_connection(proxy.target, timeout=20) as upstream:
            while command := self.request.recv(65536):  # one at a time: nobody here pipelines
                if proxy.down:
                    return
                proxy.commands.append(command)
                upstream.sendall(command)
                reply = upstream.recv(65536)
                if proxy.lose and LOOKUP in command:
                    proxy.lose -= 1
                    return
                self.request.sendall(reply)
