"""Names that nothing else ever had, for leases and for the marks of writers."""

from __future__ import annotations

import os

from . import forks

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" * 4  # one for each byte, six bits of it


def fresh() -> bytes:
    """16 visible ASCII characters, of 96 random bits."""
    try:
        return _stock.tokens.pop()  # one step: no two threads get the same
    except IndexError:
        random = os.urandom(16 * 64).translate(_LETTERS)  # one call of the system for many
        made = [random[start : start + 16] for start in range(0, len(random), 16)]
        token = made.pop()
        _stock.tokens += made
        return token


class _Stock:
    """Those that are made and not given out yet."""

    def __init__(self) -> None:
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """Those of the parent are its own."""
        self.tokens: list[bytes] = []


_stock = _Stock()
