"""Commands for a server, and what came back: what the operations of the lease protocol are made of. Pure: no I/O.

Each operation is a generator that yields commands (tuples) and is sent replies; an error of the client library is sent
as a value.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from redis.exceptions import ConnectionError, NoScriptError, RedisError

from ...errors import CacheUnavailable
from . import scripts

T = TypeVar("T")

Command: TypeAlias = tuple[Any, ...]
Operation: TypeAlias = Generator[Command, Any, Any]

_BATCH = 1000  # keys in one script: the server does nothing else meanwhile


class Refusal:
    """In the place of a reply to a lookup: it was an error, so the command was not carried out."""


REFUSAL = Refusal()


def ms(seconds: float) -> int:
    """Milliseconds, as the server takes them."""
    return min(max(1, round(seconds * 1000)), 10**14)  # three thousand years; the server's own limit is not far above


def answered(reply: Any, kind: type[Any] = object) -> Any:
    """The reply, or the error it stands for.

    Raises:
        CacheUnavailable: the server did not answer, or refused the command, or this is no answer to it.
    """
    if isinstance(reply, (RedisError, OSError)):
        raise CacheUnavailable(f"{type(reply).__name__}: {reply}") from reply
    if not isinstance(reply, kind):
        raise CacheUnavailable(f"it answered {str(reply)[:40]!r}, where {kind.__name__} belongs: is it a Redis?")
    return reply


def packed(words: Sequence[bytes]) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def twice(command: Command) -> Operation:
    """Send a command which may safely arrive twice; once more if the connection turns out to be closed.

    That is how pooled connections look after a restart of the server. A time-out is not tried again: it would double
    the delay of an outage.
    """
    reply = yield command
    if isinstance(reply, ConnectionError):
        reply = yield command
    return reply


def once(command: Command) -> Operation:
    """Send a command which must not arrive twice."""
    return (yield command)


def evaluate(
    script: scripts.Script, keys: Sequence[str], *args: Any, send: Callable[[Command], Operation] = twice
) -> Operation:
    """Run a script; load it where the server does not know it (yet, or any more). `once`: it must not arrive twice."""
    reply = yield from send(("EVALSHA", script.sha, len(keys), *keys, *args))
    if isinstance(reply, NoScriptError):
        reply = yield from send(("EVAL", script.text, len(keys), *keys, *args))
    return reply


def batches(items: Sequence[T]) -> list[Sequence[T]]:
    """Portions for one script each."""
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
