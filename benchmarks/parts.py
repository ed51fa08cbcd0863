"""Each part runs in a process of its own: nothing that another has imported or left behind is there, and no bar moves.

The process tells how far it has come, and at last what it has found, through a pipe; it ends with its parent.
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from cacheside.progress import Progress

from .effort import Effort

P = ParamSpec("P")
R = TypeVar("R")

PARTS = {
    "hit": "hit",
    "redis": "on_redis",
    "memcached": "on_memcached",
    "tags": "tagged",
    "batch": "batches",
    "refresh": "refresh",
    "import": "imports",
    "stampede": "stampede",
    "hitrate": "hitrate",
}
"""The parts and their modules, in the order in which they run."""
GRACE = 30.0  # seconds that a process has to end its servers


class PartFailed(RuntimeError):
    """A part could not be measured; the message says why."""


@dataclass(frozen=True)
class Failure:
    """Sent instead of what was found."""

    reason: str


def run(part: str, effort: Effort, progress: Progress, traces: Path | None) -> dict[str, Any]:
    """Run one part.

    Args:
        part: one of `PARTS`.
        traces: the folder of the traces, which "hitrate" needs.

    Raises:
        PartFailed: see there.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_process, args=(theirs, part, effort, traces))
    process.start()
    theirs.close()
    said: Any = None
    try:
        while said is None or type(said) is float:
            said = ours.recv()
            if type(said) is float:
                progress(said)
    except EOFError:
        process.join()
        said = Failure(f"its process has ended by itself, with exit code {process.exitcode}")
    finally:
        if said is None or type(said) is float:  # we are interrupted
            process.terminate()
        process.join(GRACE)
        process.kill()
        process.join()
        ours.close()
    if type(said) is Failure:
        raise PartFailed(f"part {part!r}: {said.reason}")
    found: dict[str, Any] = said
    return found


def alone(fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a fresh process, which ends with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(fn, *args, **kwargs).result()


def _process(pipe: Connection, part: str, effort: Effort, traces: Path | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended on the way out
    said: dict[str, Any] | Failure
    try:
        module = importlib.import_module(f"{__package__}.{PARTS[part]}")
        more = (traces,) if part == "hitrate" else ()
        said = module.run(effort, lambda done: pipe.send(float(done)), *more)
    except (BrokenPipeError, KeyboardInterrupt):  # the parent is gone, or is going
        return
    except ModuleNotFoundError as error:
        said = Failure(f"it needs the package {error.name!r}: pip install '.[bench]'")
    except Exception as error:
        traceback.print_exc()
        said = Failure(f"{type(error).__name__}: {error}")
    pipe.send(said)
