"""Decides for every read of one process whether it was stale, and counts what reached the callers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from cacheside.errors import CacheUnavailable

from .board import Board

TOLD = 5  # of each kind of trouble so many are told in words


class Judge:
    """What a read has to see that starts now:

    - every version that is on the board: of whatever process, written, and its invalidation delivered, or strict;
    - every version that this process has written, delivered or not.

    A write whose invalidation is undelivered is *owed*: it goes on the board as soon as it has been delivered.

    Args:
        board: shared by all processes.
        undelivered: whether an invalidation of a key may not have arrived so far.
    """

    def __init__(self, board: Board, keys: int, undelivered: Callable[[int], bool]) -> None:
        self._board = board
        self._undelivered = undelivered
        self._own = [0] * keys
        self._owed: dict[int, int] = {}
        self._lock = threading.Lock()
        self.stale = 0
        self.refused = 0
        self.exceptions = 0
        self.words: list[str] = []

    def floor(self, key: int) -> int:
        """The oldest version that a read which starts now may return."""
        if self._owed:
            self.settle()
        return max(self._own[key], self._board.newest(key))

    def read(self, who: str, key: int, version: int, floor: int) -> None:
        """A read that began when `floor` was the oldest allowed has returned `version`."""
        if version < floor:
            with self._lock:
                self.stale += 1
                self._tell(self.stale, f"{who} read version {version} of row {key}, but {floor} was written before")

    def wrote(self, key: int, version: int, strict: bool) -> None:
        """The write of `version` has returned."""
        with self._lock:
            self._own[key] = max(version, self._own[key])
            late = not strict and self._undelivered(key)
            if late:
                self._owed[key] = max(version, self._owed.get(key, 0))
                self._board.owe(len(self._owed))
        if not late:
            self._board.completed(key, version)

    def settle(self) -> None:
        """Put on the board what was owed and has been delivered since."""
        with self._lock:
            for key, version in list(self._owed.items()):
                if not self._undelivered(key):
                    self._board.completed(key, self._owed.pop(key, version))
            self._board.owe(len(self._owed))

    def failed(self, who: str, error: Exception, may_refuse: bool) -> None:
        """An exception has reached a caller; `may_refuse`: of a strict write, which had not written anything yet."""
        with self._lock:
            if may_refuse and isinstance(error, CacheUnavailable):
                self.refused += 1
            else:
                self.exceptions += 1
                self._tell(self.exceptions, f"{who}: {error!r}")

    def report(self) -> dict[str, Any]:
        """The verdict."""
        return {
            "stale": self.stale, "refused_writes": self.refused, "exceptions": self.exceptions,
            "owed": len(self._owed), "words": self.words,
        }  # fmt: skip

    def _tell(self, count: int, words: str) -> None:
        if count <= TOLD:
            self.words.append(words)
