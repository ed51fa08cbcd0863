"""Names that nothing else ever had, for leases and for the marks of writers."""

from __future__ import annotations

import binascii
import os


def fresh() -> bytes:
    """16 visible ASCII characters, of 96 random bits."""
    return binascii.b2a_base64(os.urandom(12), newline=False)
