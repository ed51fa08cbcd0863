"""What all processes of a race see, in a file that they map: how new a read has to be, and when to stop."""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

_HEAD = 1  # slot 0: stop
_OWED = 1  # behind the versions of each process: how many of its writes are not judged yet


class Board:
    """For each key the newest version that every read has to see which starts now.

    Each process has a row of slots of its own, and writes only there. A slot of eight bytes, aligned, is never seen
    half written; the versions in it only grow.

    Args:
        path: the file, made by `create`.
        process: whose row is written here.
        keys: how many there are.
    """

    def __init__(self, path: str, process: int, keys: int) -> None:
        with open(path, "r+b") as file:
            self._slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._stride = keys + _OWED
        self._mine = _HEAD + process * self._stride
        self._keys = keys
        self._lock = threading.Lock()

    @staticmethod
    def create(path: Path, processes: int, keys: int) -> None:
        """An empty one."""
        path.write_bytes(bytes(8 * (_HEAD + processes * (keys + _OWED))))

    def newest(self, key: int) -> int:
        """The newest version whose write is over."""
        return max(self._slots[_HEAD + key :: self._stride])

    def completed(self, key: int, version: int) -> None:
        """The write of `version` is over: whoever starts to read from now on has to see it."""
        with self._lock:
            self._slots[self._mine + key] = max(version, self._slots[self._mine + key])

    def owe(self, writes: int) -> None:
        """So many keys of this process have a write whose invalidation is not delivered yet."""
        self._slots[self._mine + self._keys] = writes

    @property
    def owed(self) -> int:
        """The same, over all processes."""
        return sum(self._slots[_HEAD + self._keys :: self._stride])

    @property
    def stopped(self) -> bool:
        """Whether the race is over."""
        return bool(self._slots[0])

    def stop(self) -> None:
        """End it: every caller finishes the operation that it is in."""
        self._slots[0] = 1
