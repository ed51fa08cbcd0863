"""Entries of a memory cache that outlive its process: `close` saves them, and the next process takes them up.

A file is true as long as nothing in it has been invalidated. So there is none while its entries are in use: the first
use of a cache takes it away before anything is served, and if the cache is used on after `close`, the file goes before
the next invalidation returns. Whoever is killed leaves none, and whoever starts after it starts empty.

What is saved: values and the versions of tags. Leases, claims, guards and marked values belong to what was under way.
"""

from __future__ import annotations

import decimal  # noqa: F401  # these are what decoding imports where it needs them, which a hit must not (see `forks`)
import math
import os
import pathlib  # noqa: F401
import threading
import time
import uuid  # noqa: F401
import warnings
import zoneinfo  # noqa: F401
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..entries import HOTTEST, Entry
from ..errors import CacheWarning, ConfigurationError, NotCacheableError
from ..health import logger
from ..livecodec import portable, revived
from ..serializers.msgpack import MsgpackSerializer
from ..shelf import Shelf
from . import snapfile

if TYPE_CHECKING:
    from .memory import MemoryBackend

_values = MsgpackSerializer()


class Opening:
    """A lock whose first holder, whoever it is, does something before anything else."""

    def __init__(self, lock: threading.Lock, first: Callable[[], object]) -> None:
        self._lock = lock
        self._first: Callable[[], object] | None = first

    def __enter__(self) -> None:
        self._lock.acquire()
        first, self._first = self._first, None
        if first is not None:
            try:
                first()
            except BaseException:
                self._lock.release()
                raise

    def __exit__(self, *details: object) -> None:
        self._lock.release()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self._lock.locked()


class Frozen:
    """A value as it stood in a file. It is thawed when it is asked for: by then its class has been imported."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data


class _Live(NamedTuple):
    """An entry, copied out of the cache to be saved."""

    key: str
    stored: Any
    deadline: float
    left: float
    hits: float


class ThawingShelf(Shelf):
    """A shelf with frozen values on it, which nobody gets to see."""

    def get(self, key: str) -> Entry | None:
        """See `Shelf.get`. A value that cannot be thawed is gone."""
        entry = super().get(key)
        return self._thawed(entry) if entry is not None and type(entry.stored) is Frozen else entry

    def restore(self, entries: list[snapfile.Kept], past: float) -> None:
        """Have those that were saved `past` seconds ago and are still good, as far as there is room for them."""
        now, room, fitting = self.clock(), self.capacity, []
        for key, left, hits, data in entries:
            deadline = math.inf if left is None else now + left - past
            if deadline > now:
                entry = Entry(key, Frozen(data), deadline, self._weigh(key, data, len))
                room -= entry.weight
                if room < 0:
                    break
                entry.hits = min(hits, HOTTEST)
                fitting.append(entry)
        for entry in reversed(fitting):  # the hottest last, as if it had come last
            self._add(entry)

    def contents(self) -> list[_Live]:
        """All that may be saved, the hottest first, and of equals that which came last."""
        now = self.clock()
        living = [entry for entry in self._store if entry.deadline > now and not entry.stale]
        living.reverse()
        living.sort(key=Entry.total, reverse=True)
        return [_Live(entry.key, entry.stored, entry.deadline, entry.deadline - now, entry.total()) for entry in living]

    def _thawed(self, entry: Entry) -> Entry | None:
        try:
            stored = revived(_values.loads(entry.stored.data), entry.deadline)
            weight = self._weigh(entry.key, stored)
        except Exception:  # of another version of its class, or of the library; or its `size` fails
            self._remove(entry)
            return None
        if weight == entry.weight:
            entry.stored = stored
            return entry
        thawed = Entry(entry.key, stored, entry.deadline, weight, entry.stale)
        thawed.hits = entry.hits
        self._remove(entry)
        if weight > self.capacity:
            return None
        self._add(thawed)
        return thawed


class Snapshot:
    """The snapshot of one memory cache.

    Args:
        path: of the file.

    Raises:
        ConfigurationError: it is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self._path = os.path.realpath(os.fspath(path)) if path else ""
        except (TypeError, ValueError):
            self._path = ""
        if not isinstance(self._path, str) or not self._path:
            raise ConfigurationError(f"snapshot is the path of a file, not {path!r}")
        self._maker = os.getpid()
        self._opened = False
        self._saved = False  # whether a file may be there that is to go before anything is invalidated
        self._changes = 0

    def lock(self, backend: MemoryBackend) -> threading.Lock | Opening:
        """A new lock for `backend`. Its first holder takes up what was saved: no use of the cache comes before that."""
        lock = threading.Lock()

        def first() -> None:
            backend._lock = lock  # as it is: those who wait for it already come by later, and find it opened
            self._open(backend)

        return lock if self._opened else Opening(lock, first)

    def _open(self, backend: MemoryBackend) -> None:
        self._opened = self._saved = True  # and it stays so if Ctrl-C comes before the file is gone
        try:
            saved = snapfile.take(self._path)
        except (OSError, snapfile.Unusable) as error:
            self._saved = False
            self._warn("is not used", error)
            return
        self._saved = False
        if saved is not None:
            assert isinstance(backend._entries, ThawingShelf)
            backend._entries.restore(saved.entries, max(0.0, time.time() - saved.at))
            backend._tags.update(list(saved.tags.items())[-backend._max_tags :])

    def changed(self) -> None:
        """Something has been dropped, or may have been. Under the lock.

        What was saved before has it still: it must not be there when the invalidation returns.
        """
        self._changes += 1
        if self._saved:
            self._saved = False
            try:
                snapfile.remove(self._path)
            except OSError as error:
                self._warn("holds what has been invalidated, and cannot be removed: remove it", error)

    def save(self, backend: MemoryBackend) -> None:
        """Save what is there, if this process made the backend and has used it."""
        if not self._opened or os.getpid() != self._maker:
            return
        with backend._lock:
            changes = self._changes
            assert isinstance(backend._entries, ThawingShelf)
            live, tags = backend._entries.contents(), dict(backend._tags)
            at = time.time()
        try:
            made = snapfile.draft(self._path, snapfile.Saved(at, tags, self._freeze(live)))
            try:
                with backend._lock:
                    # Race: something was dropped while the file was written. Then it would have to go at once.
                    if self._changes == changes:
                        self._saved = True  # first: once the file is there, it will be removed, whatever comes between
                        snapfile.publish(made, self._path)
            finally:
                snapfile.discard(made)
        except (OSError, snapfile.Unusable) as error:
            self._warn("could not be saved", error)

    def _freeze(self, live: list[_Live]) -> list[snapfile.Kept]:
        kept, refused = [], []
        for key, stored, deadline, left, hits in live:
            if type(stored) is Frozen:
                data = stored.data
            else:
                parts = portable(stored, deadline)
                if parts is None:
                    continue
                try:
                    data = _values.dumps(parts)
                except NotCacheableError as error:
                    refused.append(error)
                    continue
            kept.append(snapfile.Kept(key, None if left == math.inf else left, int(hits), data))
        if refused:
            logger().warning(
                "snapshot %s: %d of %d values are left out; the first: %s",
                self._path, len(refused), len(live), refused[0],
            )  # fmt: skip
        return kept

    def _warn(self, what: str, why: Exception) -> None:
        warnings.warn(f"the snapshot {self._path} {what}: {why}", CacheWarning, stacklevel=2)
