"""The file of a snapshot: written whole or not at all, taken away by the one who reads it.

    cacheside snapshot LF | format | frames | blake2b over all that stands before

A frame is its length in eight bytes, and MessagePack. The first has the time of saving and the versions of tags, each
other one an entry. Nothing in a file is ever executed, and no module is imported for it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

from ..serializers.msgpack import MsgpackSerializer

MAGIC: Final = b"cacheside snapshot\n"
FORMAT: Final = 1
_START = len(MAGIC) + 1
_DIGEST = 32
_LENGTH = Struct(">Q")
_STRAY = 3600.0  # seconds after which a file that was being written when its process died is swept away

_frames = MsgpackSerializer()


class Unusable(Exception):
    """The file cannot be used; the message says why."""


class Kept(NamedTuple):
    """An entry in a file."""

    key: str
    left: float | None
    """Seconds until it expires, at the time of saving; None: never."""
    hits: int
    frozen: bytes
    """The value, in MessagePack."""


class Saved(NamedTuple):
    """What a file says."""

    at: float
    """The wall clock when it was saved."""
    tags: dict[str, bytes]
    entries: list[Kept]
    """The hottest first."""


def take(path: str) -> Saved | None:
    """What was saved; the file is gone then, for good. Of several processes that call it one gets the file.

    None: there is none.

    Raises:
        Unusable: it is none of ours, and stays where it is; or it is ours, and no good: then it is gone as well.
        OSError: it cannot be read.
    """
    if not _is_there(path):
        return None
    mine = _beside(path)
    try:
        os.rename(path, mine)
    except FileNotFoundError:  # another process was faster
        return None
    except OSError as error:
        remove(path)
        raise Unusable(f"it could not be taken away: {error}") from error
    try:
        data = Path(mine).read_bytes()
    finally:
        os.unlink(mine)
    _settle(path)
    return _parse(data)


def draft(path: str, saved: Saved) -> str:
    """A new file beside `path`, on the disk with all that is in it: to be put in its place by `publish`.

    Raises:
        Unusable: at `path` stands something that is none of ours.
        OSError: it cannot be written.
    """
    _is_there(path)
    _sweep(path)
    made = _beside(path)
    digest = blake2b(digest_size=_DIGEST)
    try:
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            for part in _parts(saved):
                digest.update(part)
                out.write(part)
            out.write(digest.digest())
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        discard(made)
        raise
    return made


def publish(made: str, path: str) -> None:
    """Put a draft in its place."""
    os.replace(made, path)
    _settle(path)


def discard(made: str) -> None:
    """Have no draft."""
    with contextlib.suppress(OSError):
        os.unlink(made)


def remove(path: str) -> None:
    """Have no snapshot, also after a power failure.

    Raises:
        OSError: it is still there.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError:
        os.truncate(path, 0)  # in a directory that may not be changed any more
        return
    _settle(path)


def _is_there(path: str) -> bool:
    """Whether there is a snapshot, be it good or not.

    Raises:
        Unusable: it is something else.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for a writer
            raise Unusable("what is there is no file, and left as it is")
        with open(path, "rb") as file:
            if not MAGIC.startswith(file.read(len(MAGIC))):  # a part of it is one of ours, cut short
                raise Unusable("what is there is no snapshot of cacheside, and left as it is")
    except FileNotFoundError:
        return False
    return True


def _parts(saved: Saved) -> Iterator[bytes]:
    yield MAGIC + bytes([FORMAT])
    first: Iterable[list[Any]] = [[saved.at, saved.tags]]
    for frame in (*first, *map(list, saved.entries)):
        data = _frames.dumps(frame)
        yield _LENGTH.pack(len(data))
        yield data


def _parse(data: bytes) -> Saved:
    if len(data) > len(MAGIC) and data[len(MAGIC)] != FORMAT:
        raise Unusable(f"it is of format {data[len(MAGIC)]}, and this version of cacheside knows {FORMAT}")
    end = len(data) - _DIGEST
    if end < _START or blake2b(memoryview(data)[:end], digest_size=_DIGEST).digest() != data[end:]:
        raise Unusable("it is damaged, or cut short")
    place = _START
    frames: list[Any] = []
    try:
        while place < end:
            (length,) = _LENGTH.unpack_from(data, place)
            place += _LENGTH.size + length
            frames.append(_frames.loads(data[place - length : place]))
        at, tags = frames[0]
        saved = Saved(at, tags, [Kept(*frame) for frame in frames[1:]])
    except Exception as error:
        raise Unusable(f"it is damaged: {error!r}") from error
    if not _makes_sense(saved):
        raise Unusable("it is damaged: it holds what is never written there")
    return saved


def _makes_sense(saved: Saved) -> bool:
    """Whether everything in it is of its type: a file may be whole, and still be nothing that we have written."""
    return (
        _is_number(saved.at)
        and type(saved.tags) is dict
        and all(type(tag) is str and type(version) is bytes for tag, version in saved.tags.items())
        and all(
            type(key) is str and (left is None or _is_number(left)) and type(hits) is int and type(frozen) is bytes
            for key, left, hits, frozen in saved.entries
        )
        and len({each.key for each in saved.entries}) == len(saved.entries)
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # which NaN is not


def _beside(path: str) -> str:
    """A name in the same directory that nothing else has."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.{secrets.token_hex(8)}.part")


def _sweep(path: str) -> None:
    """Remove what processes left that were killed while they wrote or read."""
    directory, name = os.path.split(path)
    with os.scandir(directory) as files:
        for stray in files:
            if stray.name.startswith(f".{name}.") and stray.name.endswith(".part"):
                with contextlib.suppress(OSError):
                    if stray.stat().st_mtime < time.time() - _STRAY:
                        os.unlink(stray.path)


def _settle(path: str) -> None:
    """Have the disk know which files there are: else one that was removed may be back after a power failure."""
    with contextlib.suppress(OSError):  # Windows cannot, some file systems do not
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
