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

from collections.abc import Callable
from enum import Enum
from math import inf
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from .errors import ConfigurationError, DecodeError, NotCacheableError


class Raised(NamedTuple):
    """An outcome that is an exception: what a load raised, or what a stored exception was rebuilt to."""

    error: BaseException


class Absent(Enum):
    """The type of `ABSENT`: what a batch was asked for and did not return. None is a value like any other.

    UNSURE: the same, where all that it did return nobody has asked for. It is never stored.
    """

    ABSENT = "absent"
    UNSURE = "unsure"


ABSENT: Final = Absent.ABSENT
UNSURE: Final = Absent.UNSURE


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


Outcome: TypeAlias = Any  # the value itself, or Raised, or of a key in a batch ABSENT or UNSURE: what a call ends with


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


def dismantle(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What makes an exception again what it was: its args and its attributes.

    Raises:
        NotCacheableError: rebuilt from these it would not be the same.
    """
    args, state = error.args, dict(vars(error))
    try:
        again = rebuild(type(error), args, state)
        same = again.args == args and str(again) == str(error)
    except Exception as problem:
        raise NotCacheableError(f"{type(error).__qualname__} cannot be rebuilt from its args: {problem!r}") from error
    if not same:
        raise NotCacheableError(
            f"{type(error).__qualname__} rebuilt from its args and attributes would not be the same: pass what it "
            "needs to super().__init__()"
        )
    return args, state


def rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error: BaseException = cls.__new__(cls, *args)
    if type(error) is not cls:  # OSError(2, "") makes a FileNotFoundError, which nobody has declared
        raise DecodeError(f"rebuilding a {cls.__qualname__} gives a {type(error).__qualname__}")
    error.args = args
    error.__dict__.update(state)
    if "__notes__" in state:  # `add_note` on one hit must not show on the next
        error.__dict__["__notes__"] = list(state["__notes__"])
    return error


def twin(outcome: Raised) -> Raised:
    """The exception for another caller. Raised in several threads, one object would collect all their tracebacks."""
    error = outcome.error
    try:
        twin = rebuild(type(error), *dismantle(error))
    except NotCacheableError:
        return outcome
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    return Raised(twin.with_traceback(error.__traceback__))


def judged(outcome: Outcome | Miss, meta: Meta, now: float) -> Outcome | Miss:
    """What an entry is worth to a function that has no windows and no tags."""
    if type(outcome) is Miss:
        return outcome
    if meta.stamps:  # its tags are not looked at here, so they may have been turned
        return Miss.TAGS
    return outcome if now < meta.fresh else Miss.EXPIRED


def header_text(text: str) -> bytes:
    """A text as it stands in a header.

    Raises:
        ConfigurationError: it is too long.
    """
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
