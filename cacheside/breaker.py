"""A circuit breaker for one server: while it does not answer, nobody waits for it.

Closed: commands go out. The first one that gets no answer opens it (a time-out is what an outage costs, so one is
enough). Open: commands fail at once, without I/O, but for one *probe* now and then, with a back-off that doubles and is
jittered, so that a fleet does not knock in step. Any answer closes it again.

An invalidation does not wait for the next probe, as long as failing costs no time (nobody listens there, as while a
server restarts). After a restart each process finds the server again in its own time. One that has can fill the old row
while another one commits; if that one keeps its invalidation back, the first serves the old row until the next try.

Source: Nygard, "Release It!", 2007, chapter 5; its half-open state is here the one call that `admit` lets through.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from . import forks
from .errors import CacheUnavailable

FIRST, LONGEST = 0.1, 1.0  # seconds from a failure to the next probe: at first, and at most


class Breaker:
    """Whether to send commands to one server. Threads, event loops and both colours share it.

    Args:
        name: what the error calls the server; never with a password.
        timeout: seconds that a command may take to fail: so long a probe may be under way.
        clock: seconds that never go back.
    """

    def __init__(self, name: str, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._timeout = timeout
        self._clock = clock
        self.open: bool = False
        """Nothing but probes may be sent: ask `admit`."""
        self._wait = FIRST
        self._next_probe = 0.0
        self._probing = False
        self._at_once = False
        self._reason = ""
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """See `forks.Owner`."""
        self._lock = threading.Lock()

    def admit(self, urgent: bool = False) -> None:
        """A command is about to be sent, or to wait for a connection.

        Args:
            urgent: it is an invalidation.

        Raises:
            CacheUnavailable: the breaker is open, and it is not time for a probe.
        """
        if not self.open or (urgent and self._at_once):
            return
        with self._lock:
            now = self._clock()
            if self.open and now < self._next_probe:
                raise CacheUnavailable(
                    f"{self._name} is not asked, since it failed a moment ago: {self._reason}", sent=False
                )
            # This caller is the probe. Should it vanish without a word, the next may try after that.
            self._next_probe, self._probing = now + self._timeout + self._wait, True

    def succeeded(self) -> None:
        """The server answered, be it with an error."""
        if self.open:
            with self._lock:
                self.open, self._wait, self._probing = False, FIRST, False

    def failed(self, reason: object, at_once: bool = False) -> None:
        """No answer came, or no connection. Not for a command that its caller gave up.

        Args:
            at_once: it took no time to find out, and so the next one will not take any either.
        """
        with self._lock:
            self._at_once = at_once
            if self.open and self._probing:  # else it is one more that was under way when the breaker opened
                self._wait = min(self._wait * 2, LONGEST)
            self.open, self._probing, self._reason = True, False, str(reason)
            self._next_probe = self._clock() + self._wait * random.uniform(0.5, 1.0)
