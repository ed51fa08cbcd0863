"""What a memcached says, taken apart: no I/O."""

from __future__ import annotations

from typing import NamedTuple

_LONGEST_LINE = 2048


class Reply(NamedTuple):
    """One answer: its line, and the value behind it. Of `stats` the last line, and the others as the value."""

    line: bytes
    value: bytes


class GarbledReply(OSError):
    """The bytes received are no answer of a memcached."""


class Inbox:
    """Takes bytes as they arrive until `count` replies are complete."""

    __slots__ = ("_buffer", "_count", "_stats", "replies")

    def __init__(self, count: int) -> None:
        self.replies: list[Reply] = []
        self._count = count
        self._buffer = bytearray()
        self._stats = b""

    def feed(self, data: bytes) -> bool:
        """Take what was received (nothing: the end of the stream). True: all replies are there.

        Raises:
            ConnectionResetError: the stream ended before.
            GarbledReply: this is not the protocol.
        """
        if not data:
            raise ConnectionResetError("it closed the connection")
        buffer = self._buffer
        buffer += data
        while len(self.replies) < self._count:
            end = buffer.find(b"\r\n", 0, _LONGEST_LINE)
            if end < 0:
                if len(buffer) >= _LONGEST_LINE:
                    raise GarbledReply("it sent a line without an end")
                return False
            line, start = bytes(buffer[:end]), end + 2
            if line.startswith(b"VA "):
                size = number(line.split(b" ")[1])
                if len(buffer) < start + size + 2:
                    return False
                if not buffer.startswith(b"\r\n", start + size):
                    raise GarbledReply("it sent a value of another length than it said")
                self.replies.append(Reply(line, bytes(buffer[start : start + size])))
                start += size + 2
            elif line.startswith(b"STAT "):
                self._stats += line + b"\n"
            else:
                self.replies.append(Reply(line, self._stats))
                self._stats = b""
            del buffer[:start]
        if buffer:
            raise GarbledReply("it sent more than it was asked for")
        return True


def parse(line: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The code of a line and its flags, each with its token."""
    code, *flags = line.split() or [b""]
    return code, {flag[:1]: flag[1:] for flag in (flags[1:] if code == b"VA" else flags)}


def number(text: bytes) -> int:
    """The number that `text` spells.

    Raises:
        GarbledReply: it spells none.
    """
    if not text.isdigit():
        raise GarbledReply(f"it sent {text[:40]!r} where a number belongs")
    return int(text)
