"""Large exchanges: many commands that are sent while their answers come in."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Final

from .replies import GarbledReply, Inbox, Reply

AT_ONCE: Final = 16384  # bytes that the kernel takes from us whether or not the server reads them
_PIECE: Final = 1 << 18


class BothWays:
    """One exchange over a socket that does not block.

    A memcached stops reading while nobody takes its answers: to send everything first would wait for ever, each side
    for the other.
    """

    def __init__(self, data: bytes, count: int) -> None:
        self._left = memoryview(data)
        self._inbox = Inbox(count)

    @property
    def sending(self) -> bool:
        """Whether something is left to be sent."""
        return len(self._left) > 0

    @property
    def replies(self) -> list[Reply]:
        """What has come."""
        return self._inbox.replies

    def move(self, sock: socket.socket) -> bool:
        """Send and receive as much as goes just now. True: all has been sent, and all replies are there.

        Raises:
            OSError: see `Inbox.feed`; or the connection is broken.
        """
        if self._left:
            with suppress(BlockingIOError):
                self._left = self._left[sock.send(self._left[:_PIECE]) :]
        try:
            received = sock.recv(_PIECE)
        except BlockingIOError:
            return False
        if not self._inbox.feed(received):
            return False
        if self._left:
            raise GarbledReply("it answered before it was asked")
        return True
