"""Part "hitrate": what share of requests each policy answers from the cache, over traces of real accesses.

Each policy of cacheside, and the peers, at five sizes: shares of the number of a trace's keys, beside LRU and the best
that is possible. Hits are counted over all requests: the cache is empty at first.

If the folder has a ``hit_ratios.json``, which gives what a reference simulator found on these traces, the largest
differences from it are told. A trace that was cut short is not compared.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cacheside.progress import Progress

from . import traces
from .effort import Effort
from .simulate import KINDS, OPTIMUM, POLICIES

SIZES = (0.001, 0.01, 0.05, 0.1, 0.25)  # of the keys
REFERENCE = "hit_ratios.json"
AGREED = 0.7  # percentage points that s3fifo may differ from the reference
NAMES = {**{f"cacheside {policy}": policy for policy in POLICIES}, OPTIMUM: "opt"}
"""What the reference calls it."""


def run(effort: Effort, progress: Progress, folder: Path) -> dict[str, Any]:
    """Run all traces of a folder, or the smallest.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = traces.found(folder)[: effort.traces]
    if not paths:
        raise FileNotFoundError(f"no {traces.SUFFIX} files in the folder of --traces")
    found = [_described(path, effort.requests) for path in paths]
    total = sum(trace["requests"] for trace in found) * len(SIZES) * len(KINDS)
    done = 0
    # Most of the work is in the large ones: they begin.
    jobs = [
        (path, trace, kind, size) for path, trace in zip(paths, found, strict=True) for kind in KINDS for size in SIZES
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), context) as pool:
        try:
            running = {
                pool.submit(simulated, path, effort.requests, kind, trace["capacities"][str(size)]): (trace, kind, size)
                for path, trace, kind, size in reversed(jobs)
            }
            for job in as_completed(running):
                trace, kind, size = running[job]
                trace["hit_rates"][kind][str(size)] = round(job.result() / trace["requests"], 5)
                done += trace["requests"]
                progress(done / total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {"traces": found, **_compared(found, folder / REFERENCE)}


def simulated(path: Path, limit: int | None, kind: str, capacity: int) -> int:
    """Hits of one kind of cache, in a process of the pool."""
    return KINDS[kind](traces.read(path, limit), capacity)


def _described(path: Path, limit: int | None) -> dict[str, Any]:
    requests, all_of_them = traces.read(path, limit), traces.read(path, None)
    keys = len(set(requests))
    return {
        "name": traces.name_of(path),
        "requests": len(requests),
        "keys": keys,
        "cut": len(requests) < len(all_of_them),
        "capacities": {str(size): max(1, round(keys * size)) for size in SIZES},
        "hit_rates": {kind: {} for kind in KINDS},
    }


def _compared(found: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """The largest differences from the reference, in percentage points, by policy."""
    largest: dict[str, float] = {}
    if path.exists():
        reference = json.loads(path.read_text())["reference"]
        for trace in found:
            if trace["cut"] or trace["name"] not in reference:
                continue
            for kind, name in NAMES.items():
                for size, rate in trace["hit_rates"][kind].items():
                    expected = reference[trace["name"]].get(size, {}).get(name)
                    if expected is not None:
                        largest[kind] = max(largest.get(kind, 0.0), round(abs(rate - expected) * 100, 3))
    ours = largest.get("cacheside s3fifo")
    return {
        "reference": REFERENCE if largest else None,
        "largest_differences": largest,
        "at_most": AGREED,
        "agrees": None if ours is None else ours <= AGREED,
    }
