"""What the command does: run parts, keep what they found, and make the Markdown and the charts from all there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from cacheside.terminal import Bars, print_table

from . import charts, machine, parts, report, results
from .effort import FULL, QUICK, Effort


def run(chosen: Sequence[str], quick: bool, out: Path, traces: Path) -> None:
    """Run parts as a user wished, and show what came out.

    Raises:
        PartFailed: one could not be run; those before it have been written.
    """
    rest = [f"--only {part}" for part in chosen] if len(chosen) < len(parts.PARTS) else []
    measure(
        chosen, QUICK if quick else FULL, out, traces, " ".join(["python -m benchmarks", *["--quick"] * quick, *rest])
    )
    print_table(_table(out, chosen))
    print(f"Written to {out}: {report.NAME}, the charts, and one JSON file for each part.")


def measure(chosen: Sequence[str], effort: Effort, out: Path, traces: Path, command: str) -> None:
    """Run parts, and write their results as each is done.

    Args:
        chosen: some of `parts.PARTS`.
        out: the folder of the results.
        traces: the folder of the traces.
        command: how to do this again, for the results.

    Raises:
        PartFailed: as in `run`.
    """
    versions = machine.versions()
    try:
        with Bars() as bars:
            for part in chosen:
                begin = time.monotonic()
                found = parts.run(part, effort, bars.phase(part), traces)
                about = {
                    "part": part, "command": command, "effort": effort.name, "about": machine.about(),
                    "versions": versions, "seconds": round(time.monotonic() - begin, 1),
                }  # fmt: skip
                results.write(out, part, about | found)
    finally:
        there = results.read(out)
        if there:
            report.write(out, there, charts.write(out, there))


def _table(out: Path, chosen: Sequence[str]) -> Table:
    """The rows of these parts."""
    made = Table(title="cacheside / the other", min_width=76)
    made.add_column("")
    made.add_column("beside")
    made.add_column("ratio", justify="right")
    made.add_column("at most", justify="right")
    for row in results.rows({part: found for part, found in results.read(out).items() if part in chosen}):
        ratio, wanted = f"{row['ratio']['median']:.3f}", row["at_most"]
        if wanted is None:
            made.add_row(row["name"], row["other"]["name"], ratio, "")
        else:
            colour = "green" if row["reached"] else "red"
            made.add_row(row["name"], row["other"]["name"], f"[{colour}]{ratio}", f"{wanted:.2f}")
    return made
