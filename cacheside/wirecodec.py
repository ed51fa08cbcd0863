"""Outcomes as a server keeps them: a header, then the serialized payload. `envelope.py` has the layout."""

from __future__ import annotations

from collections.abc import Callable, Collection
from time import time
from typing import Any, Final

from .envelope import ABSENT, PLAIN, Meta, Miss, Outcome, Raised, dismantle, header_text, judged, rebuild, twin
from .errors import DecodeError, NotCacheableError
from .serializers import Serializer

FORMAT: Final = 1


class WireCodec:
    """Bytes, for servers.

    Args:
        serializer: makes the payload.
        version: see `cached`.
        exceptions: the classes that may be rebuilt from stored bytes.
        now: wall clock in seconds, for servers that count whole seconds; None where the server's expiry is exact.
        clock: wall clock in seconds, for what is past its ttl and kept all the same.
        batch: whether ABSENT is an outcome like any other.
    """

    def __init__(
        self,
        serializer: Serializer,
        version: str,
        exceptions: Collection[type[BaseException]],
        now: Callable[[], float] | None,
        clock: Callable[[], float] = time,
        batch: bool = False,
    ) -> None:
        from struct import Struct  # which memory does without

        self._double, self._meta, self._stamp = Struct(">d"), Struct(">ddB"), Struct(">16sH")
        self._serializer = serializer
        self._loads = serializer.loads
        self._now = now
        self.clock: Callable[[], float] = clock if now is None else now
        self._batch = batch
        self._exceptions = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in exceptions}
        names = header_text(serializer.name) + header_text(version)
        # By the kind of an entry. The second of each has a Meta.
        self._values, self._errors, self._absent = [
            [b"cs" + bytes([FORMAT]) + kind + names for kind in kinds]
            for kinds in ((b"v", b"V"), (b"x", b"X"), (b"n", b"N"))
        ]
        self._value_header = self._values[0]
        self.identity: str = f"\0{serializer.name}\0{version}" + "\0many" * batch

    def encode(self, outcome: Outcome, ttl: float | None, meta: Meta | None = None) -> bytes:
        """See `Codec.encode`."""
        head = self._double.pack(0.0 if ttl is None or self._now is None else self._now() + ttl)
        if meta is not None:
            head += self._meta.pack(meta.fresh, meta.took, len(meta.stamps))
            for name, tag_version in meta.stamps:
                head += self._stamp.pack(tag_version, len(name)) + name.encode()
        more = meta is not None
        if type(outcome) is Raised:
            cls = type(outcome.error)
            args, state = dismantle(outcome.error)
            payload = self._dumps((f"{cls.__module__}:{cls.__qualname__}", args, state))
            return self._errors[more] + head + payload
        if outcome is ABSENT:
            return self._absent[more] + head
        return self._values[more] + head + self._dumps(outcome)

    def decode(self, stored: Any) -> Outcome | Miss:
        """See `Codec.decode`."""
        header = self._value_header
        start = len(header) + 8
        if not stored.startswith(header) or len(stored) < start:
            outcome, meta = self.examine(stored)
            return judged(outcome, meta, self.clock())
        if self._now is not None:
            (expiry,) = self._double.unpack_from(stored, start - 8)
            if expiry and self._now() >= expiry:
                return Miss.EXPIRED
        try:
            return self._loads(stored[start:])
        except Exception:  # a serializer of the user's may raise anything at bytes it does not know: all are a miss
            return Miss.FOREIGN

    def examine(self, stored: Any) -> tuple[Outcome | Miss, Meta]:
        """See `Codec.examine`."""
        kinds = (*self._values, *self._errors, *self._absent)
        header = next((each for each in kinds if stored.startswith(each)), None)
        if header is None:
            return Miss.FOREIGN, PLAIN
        meta, start = PLAIN, len(header) + 8
        try:
            (expiry,) = self._double.unpack_from(stored, start - 8)
            if self._now is not None and expiry and self._now() >= expiry:
                return Miss.EXPIRED, PLAIN
            if header in (self._values[1], self._errors[1], self._absent[1]):
                fresh, took, count = self._meta.unpack_from(stored, start)
                start += self._meta.size
                stamps = []
                for _ in range(count):
                    tag_version, size = self._stamp.unpack_from(stored, start)
                    start += self._stamp.size + size
                    stamps.append((stored[start - size : start].decode(), tag_version))
                meta = Meta(fresh, took, tuple(stamps))
            if header in self._absent:
                return ABSENT if self._batch else Miss.NO_ROW, meta
            value = self._loads(stored[start:])
            return value if header in self._values else self._raised(value), meta
        except Exception:  # cut short; or as in `decode`
            return Miss.FOREIGN, PLAIN

    def until(self, stored: Any) -> float:
        """See `Codec.until`."""
        return self.examine(stored)[1].fresh

    def share(self, outcome: Outcome) -> Outcome:
        """See `Codec.share`."""
        return twin(outcome) if type(outcome) is Raised else outcome

    def _dumps(self, value: object) -> bytes:
        try:
            return self._serializer.dumps(value)
        except NotCacheableError:
            raise
        except Exception as problem:  # as in decode: a serializer of the user's may raise anything
            raise NotCacheableError(f"the serializer {self._serializer.name!r} failed: {problem!r}") from problem

    def _raised(self, value: object) -> Raised:
        if not (isinstance(value, tuple) and len(value) == 3 and value[0] in self._exceptions):
            raise DecodeError("not an exception that this function declared")
        name, args, state = value
        return Raised(rebuild(self._exceptions[name], args, state))
