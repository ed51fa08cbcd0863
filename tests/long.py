"""Tests that have a long form: `CACHESIDE_LONG=1`, which `tests/run.sh --long` sets.

@settings(max_examples=scaled(100, 10_000))
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

LONG: bool = os.environ.get("CACHESIDE_LONG", "0") not in ("", "0")
"""Whether this is the long run."""


def scaled(normal: T, long: T) -> T:
    """What a test takes in the normal run, or in the long one."""
    return long if LONG else normal
