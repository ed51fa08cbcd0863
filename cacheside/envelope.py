"""What is stored: header and payload on a server, live objects in memory; and back.

On a server an entry is ``cs | format | kind | serializer | version | expiry | payload``. Whatever does not begin with
exactly the header that this function would write (a foreign value, a newer format, another serializer or `version=`)
is no usable value: a `Miss`, never an error. The expiry stands in it for servers that count whole seconds. An entry
that has more to say (`Meta`: until when it is fresh, its tags) says it between expiry and payload, and has a kind of
its own; so nobody takes it for one that is good as long as it is there.

An exception that was stored is kept as its class, `args` and attributes, and rebuilt without calling its `__init__`;
the class is taken from those that the function declared, never from the data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from math import inf
from time import monotonic, time
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from .errors import ConfigurationError, DecodeError, NotCacheableError
from .serializers import Serializer

FORMAT: Final = 1


class Raised(NamedTuple):
    """An outcome that is an exception: what a load raised, or what a stored exception was rebuilt to."""

    error: BaseException


class Absent(Enum):
    """The type of `ABSENT`: what a batch was asked for and did not return. None is a value like any other."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


class Missing(Enum):
    """The type of `MISSING`: what `.peek()` gives where the cache holds nothing. None is a value like any other."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing.MISSING


class Miss(Enum):
    """Why there is no outcome. Never None, which is a value like any other."""

    ABSENT = "there is none"
    FOREIGN = "corrupt, foreign, or of another format, version or serializer"
    EXPIRED = "past its expiry"
    NO_ROW = "a batch has found that there is nothing; whoever wants a value asks the store"
    TAGS = "one of its tags was turned, or has been lost; or it has other tags than it should"
    OLD = "it may be served, but has to be loaded again"


class Meta(NamedTuple):
    """What an entry says besides its value.

    fresh: when its ttl is over, by the codec's clock. took: seconds that its load took; 0: not known. stamps: for each
    tag its name and the version that it had before the load.
    """

    fresh: float
    took: float
    stamps: tuple[tuple[str, bytes], ...]


PLAIN: Final = Meta(inf, 0.0, ())
"""What an entry without a Meta means."""


Outcome: TypeAlias = Any  # the value itself, or Raised, or of a key in a batch ABSENT: what a call ends with


class Codec(Protocol):
    """Outcomes to what a backend stores, and back."""

    identity: str
    """Two functions whose codecs have the same identity can read each other's entries."""

    clock: Callable[[], float]
    """That of `Meta.fresh`, in seconds."""

    def encode(self, outcome: Outcome, ttl: float | None, meta: Meta | None = None) -> Any:
        """What to give to `fill`.

        Raises:
            NotCacheableError: it would not come back as what it is.
        """

    def decode(self, stored: Any) -> Outcome | Miss:
        """The outcome, or why there is none, for who knows of no windows and no tags."""

    def examine(self, stored: Any) -> tuple[Outcome | Miss, Meta]:
        """The outcome, whatever its age and its tags, or why there is none; and its age and its tags."""
        ...

    def until(self, stored: Any) -> float:
        """Until when `decode` has an outcome for it, if that is not as long as it is stored."""
        ...

    def share(self, outcome: Outcome) -> Outcome:
        """The outcome for a caller who did not load it."""


def _dismantle(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What makes an exception again what it was: its args and its attributes.

    Raises:
        NotCacheableError: rebuilt from these it would not be the same.
    """
    args, state = error.args, dict(vars(error))
    try:
        again = _rebuild(type(error), args, state)
        same = again.args == args and str(again) == str(error)
    except Exception as problem:
        raise NotCacheableError(f"{type(error).__qualname__} cannot be rebuilt from its args: {problem!r}") from error
    if not same:
        raise NotCacheableError(
            f"{type(error).__qualname__} rebuilt from its args and attributes would not be the same: pass what it "
            "needs to super().__init__()"
        )
    return args, state


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error: BaseException = cls.__new__(cls, *args)
    if type(error) is not cls:  # OSError(2, "") makes a FileNotFoundError, which nobody has declared
        raise DecodeError(f"rebuilding a {cls.__qualname__} gives a {type(error).__qualname__}")
    error.args = args
    error.__dict__.update(state)
    if "__notes__" in state:  # `add_note` on one hit must not show on the next
        error.__dict__["__notes__"] = list(state["__notes__"])
    return error


def _twin(outcome: Raised) -> Raised:
    """The exception for another caller. Raised in several threads, one object would collect all their tracebacks."""
    error = outcome.error
    try:
        twin = _rebuild(type(error), *_dismantle(error))
    except NotCacheableError:
        return outcome
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return Raised(twin.with_traceback(error.__traceback__))


def _judged(outcome: Outcome | Miss, meta: Meta, now: float) -> Outcome | Miss:
    """What an entry is worth to a function that has no windows and no tags."""
    if type(outcome) is Miss:
        return outcome
    if meta.stamps:  # its tags are not looked at here, so they may have been turned
        return Miss.TAGS
    return outcome if now < meta.fresh else Miss.EXPIRED


class _Marked(NamedTuple):
    """How memory keeps what is not a bare value: of a version, an exception in pieces, or with something to say."""

    version: str
    value: Any
    error: tuple[type[BaseException], tuple[Any, ...], dict[str, Any]] | None
    meta: Meta = PLAIN


def portable(stored: Any, deadline: float) -> list[Any] | None:
    """What `LiveCodec` made, in parts that a serializer can take; None: an exception, which is not to leave memory.

    `deadline`: when the entry expires, by the clock of its backend, which says nothing to another process. So the time
    until which it is fresh is told from there.
    """
    if type(stored) is not _Marked:
        return [stored]
    if stored.error is not None:
        return None
    fresh, took, stamps = stored.meta
    return [stored.version, stored.value, None if fresh == inf else deadline - fresh, took, stamps]


def revived(parts: Any, deadline: float) -> Any:
    """What `portable` took apart; `deadline`: when the entry expires by the clock of this backend."""
    if len(parts) == 1:
        return parts[0]
    version, value, window, took, stamps = parts
    plain = window is None and not took and not stamps
    return _Marked(
        version, value, None, PLAIN if plain else Meta(inf if window is None else deadline - window, took, stamps)
    )


class LiveCodec:
    """Objects as they are, for backends that keep objects: a hit returns the very object, as with functools.

    Args:
        version: see `cached`.
        copies: values are deep-copied on the way in and out.
        clock: of the backend.
        batch: whether ABSENT is an outcome like any other.
    """

    def __init__(self, version: str, copies: bool, clock: Callable[[], float] = monotonic, batch: bool = False) -> None:
        _header_text(version)  # memory stands in for a server, which would refuse it
        self.identity: str = f"\0{version}" + "\0many" * batch  # a key ends where this begins
        self.clock: Callable[[], float] = clock
        self._version = version
        self._copies = copies
        self._batch = batch
        if copies:
            from copy import deepcopy  # costly to import, and now: see `keeper.chance`

            self._deepcopy: Callable[[Any], Any] = deepcopy

    def encode(self, outcome: Outcome, ttl: float | None, meta: Meta | None = None) -> Any:
        """See `Codec.encode`. What can be consumed only once is refused."""
        if type(outcome) is Raised:
            args, state = self._copy(_dismantle(outcome.error))
            return _Marked(self._version, None, (type(outcome.error), args, state), meta or PLAIN)
        if is_one_shot(outcome):
            raise NotCacheableError(
                f"a {type(outcome).__qualname__} can be consumed only once: return a list or the like instead"
            )
        value = outcome if outcome is ABSENT else self._copy(outcome)
        if self._version or meta is not None or type(value) in (_Marked, Absent):
            return _Marked(self._version, value, None, meta or PLAIN)
        return value

    def decode(self, stored: Any) -> Outcome | Miss:
        """See `Codec.decode`."""
        if type(stored) is _Marked:
            outcome, meta = self.examine(stored)
            return _judged(outcome, meta, self.clock()) if meta is not PLAIN else outcome
        if self._version:
            return Miss.FOREIGN
        return self._copy(stored) if self._copies else stored

    def examine(self, stored: Any) -> tuple[Outcome | Miss, Meta]:
        """See `Codec.examine`."""
        if type(stored) is not _Marked:
            return self.decode(stored), PLAIN
        if stored.version != self._version:
            return Miss.FOREIGN, PLAIN
        if stored.error is not None:
            cls, args, state = stored.error
            return Raised(_rebuild(cls, *self._copy((args, state)))), stored.meta
        if stored.value is ABSENT:
            return ABSENT if self._batch else Miss.NO_ROW, stored.meta
        return self._copy(stored.value) if self._copies else stored.value, stored.meta

    def until(self, stored: Any) -> float:
        """See `Codec.until`."""
        return stored.meta.fresh if type(stored) is _Marked else inf

    def share(self, outcome: Outcome) -> Outcome:
        """See `Codec.share`."""
        if type(outcome) is Raised:
            return _twin(outcome)
        try:
            return self._copy(outcome)
        except NotCacheableError:  # the leader's own is what there is; it was not cached, and a warning has said so
            return outcome

    def _copy(self, value: Any) -> Any:
        if not self._copies:
            return value
        try:
            return self._deepcopy(value)
        except Exception as problem:
            raise NotCacheableError(f"copy=true cannot copy a {type(value).__qualname__}: {problem!r}") from problem


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
        names = _header_text(serializer.name) + _header_text(version)
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
            args, state = _dismantle(outcome.error)
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
            return _judged(outcome, meta, self.clock())
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
        return _twin(outcome) if type(outcome) is Raised else outcome

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
        return Raised(_rebuild(self._exceptions[name], args, state))


def _header_text(text: str) -> bytes:
    raw = text.encode(errors="surrogatepass")
    if len(raw) > 255:
        raise ConfigurationError(f"the name of a serializer and version= may have up to 255 bytes: {text!r:.300}")
    return bytes([len(raw)]) + raw


def is_one_shot(value: object) -> bool:
    """Whether a value is used up by its first reader: an iterator, a coroutine."""
    kind = type(value)
    if kind.__module__ == "unittest.mock":  # a MagicMock has every method, and is used up by none of them
        return False
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__") or hasattr(kind, "__await__")
