"""A server that answers whatever it likes, for the fuzz tests of what reads a server's answers."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import Any

from servers import HOST


class Babbler(socketserver.ThreadingTCPServer):
    """Answers the first command on each connection with `answer`, then closes: nobody waits for what never comes."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Handler)
        self.answer = b""
        self.port: int = self.server_address[1]
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __exit__(self, *details: object) -> None:
        self.shutdown()
        super().__exit__(*details)


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        babbler: Any = self.server
        sock = self.request
        with contextlib.suppress(OSError):
            if sock.recv(65536):
                sock.sendall(babbler.answer)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):  # until the client goes: a reset could overtake the answer
                    pass
