"""Traces of accesses: files ``NAME.u32.xz`` in a folder, each an xz of little-endian uint32 key ids, one a request."""

from __future__ import annotations

import array
import functools
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path

SUFFIX = ".u32.xz"
ABROAD = Path(__file__).resolve().parent.parent.parent / "shared" / "traces"
"""Where they are looked for: beside the checkout. They are not part of this project."""


def found(folder: Path) -> list[Path]:
    """The traces in a folder, the smallest file first."""
    return sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: (path.stat().st_size, path.name))


def name_of(path: Path) -> str:
    """As files and results are named by it."""
    return path.name.removesuffix(SUFFIX)


@functools.lru_cache(maxsize=1)
def read(path: Path, limit: int | None) -> Sequence[int]:
    """The requests, or the first so many. The last trace is kept: it is asked for again and again."""
    requests = array.array("I")
    requests.frombytes(lzma.decompress(path.read_bytes()))
    if sys.byteorder == "big":
        requests.byteswap()
    return requests[:limit]
