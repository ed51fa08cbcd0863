"""What this process knows of one server, in all threads, event loops and both colours. No I/O."""

from __future__ import annotations

import socket
import threading
import time

from ... import forks
from ...breaker import Breaker
from ...errors import CachesideError, CacheUnavailable
from .wire import Cas

WATCHED = 1000  # leases of others that are remembered, of one server

# What an item has beside its value: its key, and the server's own 64 bytes or so. Rather too much than too little.
OVERHEAD = 512
ALWAYS_FITS = 1024 - OVERHEAD  # bytes: a server's limit is 1024 at the least


class Known:
    """One server: whether it answers, how large an item may be there, and whose leases have stood for how long.

    Args:
        name: of the server, for messages.
        timeout: seconds that a command may take.
    """

    def __init__(self, name: str, timeout: float) -> None:
        self.name = name
        self.breaker: Breaker = Breaker(f"the memcached {name}", timeout)
        self.limit: int = 0
        """Bytes that an item may have, all told; 0: not known. It may change when the server restarts."""
        self._watched: dict[bytes, tuple[int, float]] = {}
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """See `forks.Owner`."""
        self._lock = threading.Lock()

    def overdue(self, held: Cas, lease: float) -> bool:
        """Whether this very lease of somebody else's was seen first longer than `lease` seconds ago.

        After a restart another lease may have its name; then its holder loses it too early, which costs a load.
        """
        now = time.monotonic()
        with self._lock:
            cas, since = self._watched.get(held.key, (0, 0.0))
            if cas == held.number:
                return now - since > lease
            self._watched.pop(held.key, None)  # so that the keys stand in the order of the times
            self._watched[held.key] = (held.number, now)
            if len(self._watched) > WATCHED:
                del self._watched[next(iter(self._watched))]
            return False

    def answered(self) -> None:
        """The server answered, whatever it said."""
        if self.breaker.open:
            self.breaker.succeeded()

    def refused_size(self) -> None:
        """It refused an item that was thought to fit: it has another limit by now."""
        self.limit = 0
        self.answered()

    def unreachable(self, error: OSError) -> CacheUnavailable:
        """No connection could be opened: the error to raise."""
        self.breaker.failed(error, at_once=_at_once(error))
        return CacheUnavailable(f"cannot connect to the memcached {self.name}: {str(error) or 'timed out'}")

    def ended(self, error: BaseException, *, pooled: bool, again: bool) -> bool:
        """What `error` means, with which an exchange ended; its connection is closed.

        Args:
            pooled: the connection had been used before, and might have been closed by the server long since.
            again: the command may be sent a second time.

        Returns:
            True: send it again. False: raise `error` itself.

        Raises:
            CacheUnavailable: the server is to blame.
        """
        if isinstance(error, CachesideError):
            self.answered()
        if not isinstance(error, OSError):
            return False
        closed = pooled and isinstance(error, ConnectionError)
        if closed:
            self.limit = 0
            if again:
                return True
        # That an old connection is closed says nothing of the server, if no new one was tried; unless this was a probe.
        if not closed or self.breaker.open:
            self.breaker.failed(error, at_once=_at_once(error))
        raise CacheUnavailable(f"the memcached {self.name} failed: {error}") from error


def _at_once(error: OSError) -> bool:
    """Whether it took no time to fail. A time-out took some, and so may a name that cannot be looked up."""
    return not isinstance(error, (TimeoutError, socket.gaierror))
