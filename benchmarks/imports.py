"""Part "import": a whole process that imports cacheside and decorates a function, beside one that imports three others.

Both with the same flags, one after the other in turns, from start to exit; all bytecode has been compiled before.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from cacheside.progress import Progress

from .effort import Effort
from .measure import Row, Spread, Time

OURS = """
import cacheside
@cacheside.cached("user:{user_id}", ttl=60)
def get_user(user_id):
    return user_id
"""
OTHER = "import cachetools, msgpack, inspect"
BARE = "pass"


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure it."""
    programs = (OURS, OTHER, BARE)
    seen: list[list[float]] = [[] for _ in programs]
    for number in range(-1, effort.starts):  # the first of each does not count: it may compile
        for program, times in zip(programs, seen, strict=True):
            nanoseconds = _life(program)
            if number >= 0:
                times.append(nanoseconds)
        progress((number + 1) / effort.starts)
    ours, other, bare = (
        Time(name, Spread.of(times), verified=True)
        for name, times in zip(("import cacheside, decorate", OTHER, "python, nothing else"), seen, strict=True)
    )
    ratio = Spread.of([one / two for one, two in zip(seen[0], seen[1], strict=True)])
    row = Row("whole process", ours, other, ratio, effort.starts, 1.5, ratio.median <= 1.5)
    return {"rows": [asdict(row)], "peers": {"whole process": [asdict(each) for each in (ours, other, bare)]}}


def _life(program: str) -> float:
    """The nanoseconds of a process. `-I`: nothing but what is installed is imported."""
    begin = time.perf_counter_ns()
    subprocess.run([sys.executable, "-I", "-c", program], check=True, stdin=subprocess.DEVNULL)
    return float(time.perf_counter_ns() - begin)
