"""A backend that tells what was invalidated."""

from __future__ import annotations

from collections.abc import Sequence

from cacheside.backends.memory import MemoryBackend
from cacheside.errors import CacheUnavailable


class Recorder(MemoryBackend):
    """Memory that notes what is invalidated, and may refuse to."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped: list[str] = []
        self.broken = False

    def invalidate(self, keys: Sequence[str]) -> None:
        if self.broken:
            raise CacheUnavailable("no answer")
        self.dropped += keys
        super().invalidate(keys)
