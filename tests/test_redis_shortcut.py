"""The short way over a connection's socket: whole replies, parts of them, none, and too many; and its time-outs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError

from cacheside.backends import sockets
from cacheside.backends.redis.commands import REFUSAL
from cacheside.backends.redis.shortcut import RECEIVED, Shortcut


class Connection:
    """Stands for redis-py's, over a pair of sockets."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self.other: Any = None
        self.socket_timeout = 0.2
        self.opened = 0

    def connect(self) -> None:
        """See redis-py."""
        self.disconnect()
        self._sock, self.other = socket.socketpair()
        self._sock.settimeout(self.socket_timeout)
        self.other.settimeout(20)
        self.opened += 1

    def disconnect(self) -> None:
        """See redis-py."""
        if self._sock is not None:
            self._sock.close()
            self.other.close()
        self._sock = None


@pytest.fixture
def connection() -> Iterator[Connection]:
    """One, which is open."""
    made = Connection()
    made.connect()
    yield made
    made.disconnect()


def test_replies(connection: Connection) -> None:
    """Whatever comes is given as it is, nothing as None, and an error as REFUSAL; however the bytes are cut."""
    link = Shortcut(connection)
    long = b"x" * (3 * RECEIVED)
    for sent, reply in (
        (b"$1\r\na\r\n", b"a"),
        (b"$-1\r\n", None),
        (b":1\r\n", 1),
        (b"-MOVED 1 host:1\r\n", REFUSAL),
        (b">1\r\n$1\r\nx\r\n$1\r\nb\r\n", b"b"),  # what is pushed is no reply
        (b"$%d\r\n%b\r\n" % (len(long), long), long),
    ):

        def serve(data: bytes = sent) -> None:
            assert connection.other.recv(100) == b"ask"
            for start in range(0, len(data), 7000):
                connection.other.sendall(data[start : start + 7000])

        server = threading.Thread(target=serve)
        server.start()
        assert link.ask(b"ask") == reply
        server.join()
    assert connection.opened == 1


def test_no_answer(connection: Connection) -> None:
    """Neither a server that says nothing nor one that takes nothing is waited for longer than the time-out."""
    link = Shortcut(connection)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 seconds"):
        link.ask(b"ask")
    assert time.monotonic() - begin >= 0.15
    with pytest.raises(TimeoutError):
        link.ask(b"x" * 10_000_000)  # more than the buffers of the sockets hold


@pytest.mark.parametrize(
    ("sent", "kind"),
    [(None, ConnectionError), (b"$5\r\nab", ConnectionError), (b"$1\r\na\r\n$1\r\nb\r\n", InvalidResponse)],
    ids=["closed", "closed amid a reply", "too much"],
)
def test_broken(connection: Connection, sent: bytes | None, kind: type[Exception]) -> None:
    """A connection that was closed, or says more than it was asked for, is an error of redis-py's."""
    link = Shortcut(connection)
    if sent is not None:
        connection.other.sendall(sent)
    if kind is ConnectionError:
        connection.other.shutdown(socket.SHUT_WR)
    with pytest.raises(kind):
        link.ask(b"ask")


def test_lent(connection: Connection) -> None:
    """redis-py finds the time-outs of its own kind; the short way goes on after that, also over another socket."""
    link = Shortcut(connection)
    for _ in range(2):
        connection.other.sendall(b":1\r\n")
        assert link.ask(b"ask") == 1
        assert link.lend() is connection
        assert connection._sock is not None
        assert connection._sock.gettimeout() == 0.2
        with pytest.raises(builtin_time_out):
            connection._sock.recv(1)
    connection.disconnect()
    connection.connect()  # redis-py has opened it anew
    connection.other.sendall(b":2\r\n")
    assert link.ask(b"ask") == 2
    link.close()
    assert connection._sock is None


builtin_time_out = socket.timeout


def test_sockets_of_another_kind() -> None:
    """A socket that waits in its own way, as gevent's and those of TLS do, keeps Python's time-outs."""

    class Other(socket.socket):
        """Not Python's own."""

    one, two = Other(), socket.socket()
    try:
        assert not sockets.bound(one, 0.5)
        assert one.gettimeout() == 0.5
        assert sockets.bound(two, 0.5)
        assert two.gettimeout() is None
    finally:
        one.close()
        two.close()
