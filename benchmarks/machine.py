"""Where it ran, and with what."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = (
    "cacheside", "aiocache", "aiomcache", "async-lru", "cachebox", "cachetools", "cashews", "dogpile.cache", "hiredis",
    "msgpack", "pymemcache", "redis", "theine", "theine_core",
)  # fmt: skip


def about() -> dict[str, str]:
    """The machine, the Python, and the day (UTC)."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{_system()}, {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def versions() -> dict[str, str]:
    """Of this library, its peers, and the clients they use."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
