"""A proxy that tells which process used which connection: each writes its own name into the keys it uses."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import Any

from servers import HOST, MemcachedServer, RedisServer


class Recorder(socketserver.ThreadingTCPServer):
    """Stands before a server, and keeps apart what each connection says to it."""

    daemon_threads = True

    def __init__(self, server: RedisServer | MemcachedServer) -> None:
        super().__init__((HOST, 0), _Handler)
        self.target = (HOST, server.port)
        self.url = f"{server.url.split(':')[0]}://{HOST}:{self.server_address[1]}"
        self.said: list[bytearray] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        super().__exit__(*details)

    def connections(self, *names: str) -> list[set[str]]:
        """For each connection that carried anybody's keys: whose."""
        owners = [{name for name in names if f"by-{name}:".encode() in bytes(said)} for said in list(self.said)]
        return [who for who in owners if who]


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        recorder: Any = self.server
        said = bytearray()
        recorder.said.append(said)
        with contextlib.suppress(OSError), socket.create_connection(recorder.target, timeout=30) as upstream:
            threading.Thread(target=self._answer, args=(upstream,), daemon=True).start()
            while data := self.request.recv(65536):
                said += data
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)

    def _answer(self, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                self.request.sendall(data)
