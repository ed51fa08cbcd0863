"""How a relay waits: until there is news, or it is told to stop, or the time is over."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

from .listener import Listener


class Bell:
    """Wakes one waiting thread. It may be rung from any thread, and in a signal handler: it takes no lock."""

    def __init__(self) -> None:
        self.rung: bool = False
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Bell:
        self._ends = socket.socketpair()
        self._ends[1].setblocking(False)
        return self

    def __exit__(self, *details: object) -> None:
        assert self._ends is not None  # as in `__enter__`
        for end in self._ends:
            end.close()

    def ring(self) -> None:
        """End this wait and every later one."""
        self.rung = True
        if self._ends is not None:
            with contextlib.suppress(OSError):  # nobody waits any more, or has not seen the last ring yet
                self._ends[1].send(b"!")

    def wait(self, seconds: float, listener: Listener | None = None, after_news: float = 0.0) -> None:
        """Wait; with news for `after_news` seconds more, if that is earlier.

        Raises:
            OSError: the connection of the listener is lost.
        """
        assert self._ends is not None  # waits are made inside its block
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._ends[0], selectors.EVENT_READ)
            if listener is not None:
                selector.register(listener, selectors.EVENT_READ)
            while not self.rung and (left := until - time.monotonic()) > 0:
                ready = [key.fileobj for key, _ in selector.select(left)]
                if listener is not None and listener in ready and listener.heard():
                    # What follows this news will be found together with it.
                    selector.unregister(listener)
                    listener, until = None, min(until, time.monotonic() + after_news)
