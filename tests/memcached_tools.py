"""What the tests of the memcached backend share: one way to call it in both colours, and servers that misbehave."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from adapter import Adapter
from colours import TIMEOUT
from servers import HOST, MemcachedServer

from cacheside.backends.memcached import MemcachedBackend
from cacheside.backends.memcached.marker import Marker, decode
from cacheside.errors import CacheUnavailable

Open = Callable[..., Adapter]
ME, YOU, THIRD = "me--------------", "you-------------", "third-----------"
"""Tokens of writers."""


@contextlib.contextmanager
def opener(colour: str) -> Iterator[Open]:
    """Makes adapters for servers, or their texts: `make(*servers, **options)`. They end with the block."""
    with contextlib.ExitStack() as stack:

        def make(*servers: MemcachedServer | str, timeout: float = 5.0, **options: Any) -> Adapter:
            texts = [server if isinstance(server, str) else server.address for server in servers]
            adapter = Adapter(MemcachedBackend(texts, timeout=timeout, **options), colour)
            stack.callback(adapter.end)
            return adapter

        yield make


def say(server: MemcachedServer, command: bytes) -> bytes:
    """What the server answers to somebody else's command, on a connection of its own."""
    with socket.create_connection((HOST, server.port), timeout=5) as sock:
        sock.sendall(command + b"mn\r\n")
        heard = b""
        while not heard.endswith(b"MN\r\n"):
            heard += sock.recv(65536)
        return heard.removesuffix(b"MN\r\n")


def marker(server: MemcachedServer, key: str) -> Marker | None:
    """The guard that stands on `key`."""
    line, _, rest = say(server, b"mg %b t v\r\n" % key.encode()).partition(b"\r\n")
    return decode(rest.removesuffix(b"\r\n"), int(line.rpartition(b"t")[2])) if line.startswith(b"VA") else None


def recovered(call: Callable[..., Any], *args: Any) -> Any:
    """What `call` returns as soon as the breaker lets it through, and the server answers."""
    end = time.monotonic() + TIMEOUT
    while True:
        try:
            return call(*args)
        except CacheUnavailable:
            assert time.monotonic() < end, "it never recovered"
            time.sleep(0.01)


class Relay:
    """Stands before a memcached and passes on what comes; just before that, something may happen.

    `relay.before(b"md ", action)`: when a client has sent this, `action` is called once, in a thread of the relay, and
    then it is passed on. `lose="request"` drops it instead and closes the client's connection; `lose="reply"` passes
    it on and closes when the answer has come. `sent` has all that clients sent.
    """

    def __init__(self, server: MemcachedServer) -> None:
        self._server = server
        self._plans: list[tuple[bytes, Callable[[], object], str]] = []
        self._listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self.sent: list[bytes] = []
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def before(self, start: bytes, action: Callable[[], object] = lambda: None, lose: str = "") -> None:
        """The next time that a client sends something that begins with `start`."""
        self._plans.append((start, action, lose))

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection((HOST, self._server.port)) as server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    if not (data := ready.recv(1 << 20)):
                        return
                    if ready is server:
                        client.sendall(data)
                        continue
                    self.sent.append(data)
                    lose = self._happen(data)
                    if lose == "request":
                        return
                    server.sendall(data)
                    if lose == "reply":
                        server.recv(1 << 20)
                        return

    def _happen(self, data: bytes) -> str:
        for plan in self._plans:
            start, action, lose = plan
            if data.startswith(start):
                self._plans.remove(plan)
                try:
                    action()
                except BaseException as error:
                    self.errors.append(error)
                return lose
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Clients have to be closed before. All that was planned has happened, without an error."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(TIMEOUT)
        assert self.errors == []
        assert self._plans == []


class Impostor:
    """Listens like a memcached, and answers whatever arrives with the same bytes; with none: closes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server((HOST, 0))
        self._port = self._listener.getsockname()[1]
        self.address = f"{HOST}:{self._port}"
        self.served = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            with self._listener.accept()[0] as sock, contextlib.suppress(ConnectionError):
                if not sock.recv(4096):
                    return
                self.served += 1
                if self._answer:
                    sock.sendall(self._answer)
                    sock.recv(4096)  # until the client goes

    def close(self) -> None:
        """A client that says nothing ends it."""
        socket.create_connection((HOST, self._port), timeout=5).close()
        self._thread.join()
        self._listener.close()
