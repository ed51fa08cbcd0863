"""Sentinels: what must not happen while bytes of a stranger are decoded.

The interpreter tells an audit hook about every import, execution and opened file. `watching()` lists those of this
thread that must not happen; `Witness.seen` lists what of a class's code ran.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import uuid  # with the other three it is what decoding may import: here and now, so that it need not
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Plain", "Witness", "watching"]

LOADED = (uuid.UUID, zoneinfo.ZoneInfo("CET"), Decimal, Path)
with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError):
    zoneinfo.ZoneInfo("os:system")  # so are the parts of importlib that look for a zone in the package tzdata
FORBIDDEN = (
    "import", "exec", "compile", "open", "pickle.find_class", "os.", "subprocess.", "socket.", "ctypes.", "shutil.",
    "urllib.", "code.", "tempfile.", "winreg.", "syslog.", "pty.", "builtins.input", "function.__new__", "code.__new__",
)  # fmt: skip
HARMLESS = ("os.listdir", "os.scandir")  # of an import system that looks for the data of a time zone
_thread = threading.local()


def _hook(event: str, details: tuple[Any, ...]) -> None:
    seen: list[str] | None = getattr(_thread, "seen", None)
    if seen is None or not event.startswith(FORBIDDEN) or event in HARMLESS:
        return
    what = str(details[0]) if details else ""
    # A name of a time zone is looked up in the system's folder, then in the package tzdata.
    if "zoneinfo" in what or "tzdata" in what:
        return
    seen.append(f"{event} {what[:200]}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """List what this thread does that decoding must not do."""
    _thread.seen = seen = list[str]()
    try:
        yield seen
    finally:
        _thread.seen = None


class _Seeing(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        Witness.seen.append("call")
        return super().__call__(*args, **kwargs)


class Plain(metaclass=_Seeing):
    """Nothing that may be built: neither dataclass nor registered."""

    def __new__(cls, *args: Any) -> Any:
        Witness.seen.append("Plain.__new__")
        return super().__new__(cls)


@dataclass
class Witness(metaclass=_Seeing):
    """May be built, though none of its code may run."""

    seen: ClassVar[list[str]] = []
    x: Any = None

    def __new__(cls, *args: Any) -> Any:
        Witness.seen.append("__new__")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        Witness.seen.append("__post_init__")

    def __setattr__(self, name: str, value: Any) -> None:
        Witness.seen.append("__setattr__")

    def __setstate__(self, state: Any) -> None:
        Witness.seen.append("__setstate__")

    def __del__(self) -> None:
        """Where it was built all the same, so that it is known that the test reaches it."""
        Witness.gone = True

    gone: ClassVar[bool] = False
