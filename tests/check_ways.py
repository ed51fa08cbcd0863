"""Ways to cache that are broken on purpose, for `test_check.py`: the processes of the check import them from here."""

from __future__ import annotations

import os
import signal
import threading
import time

from cacheside.check.store import Store
from cacheside.check.ways import Naive, Ours
from cacheside.check.worker import Settings


class NeverInvalidates(Ours):
    """Writes that leave the entry as it is."""

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__(settings, store)
        self._write, self._awrite = store.write, store.awrite


class InvalidatesFirst(Ours):
    """Writes of threads that drop the entry before they commit."""

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__(settings, store)

        def write(row: int) -> int:
            self.cache.invalidate(f"row:{row}")
            time.sleep(0.002)
            return store.write(row)

        self._write = write


class Raises(Ours):
    """A read that fails."""

    def read(self, row: int) -> int:
        """See the class."""
        raise ValueError("broken on purpose")


class Dies(Ours):
    """A read that is the end of its process."""

    def read(self, row: int) -> int:
        """See the class."""
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


class NeverEnds(Ours):
    """A read that does not come back."""

    def read(self, row: int) -> int:
        """See the class."""
        threading.Event().wait()
        return 0


class CachesNothing(Naive):
    """The control where it cannot go wrong."""

    def read(self, row: int) -> int:
        """See the class."""
        return self._store.load(row)

    async def aread(self, row: int) -> int:
        """See the class."""
        return await self._store.aload(row)
