"""What the tests of the memcached backend share: one way to call it in both colours, and servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from adapter import Adapter
from servers import HOST, MemcachedServer

from cacheside.backends.memcached import MemcachedBackend

Open = Callable[..., Adapter]


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
