"""The command ``python -m benchmarks``. It needs the extra `bench`, and says so where that is missing.

Annotations are not postponed in this file: typer evaluates them.
"""

import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn

NEEDS = "pip install -e '.[bench]'"


def fail(message: str) -> NoReturn:
    """Say why it cannot run, and end with status 2."""
    print(f"benchmarks: {message}", file=sys.stderr)
    sys.exit(2)


try:
    import typer

    from . import command, results, traces
    from .parts import PARTS, PartFailed
except ModuleNotFoundError as error:
    fail(f"they need the package {error.name!r}: {NEEDS}")

Part = Enum("Part", {name: name for name in PARTS})  # type: ignore[misc]  # typer shows its values as the choices


def main(
    only: Annotated[list[Part] | None, typer.Option(help="Run this part alone; may be given again.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything: a minute or two, with wider spreads.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="The folder of the results.", show_default="benchmarks/results")
    ] = results.HERE,
    trace_folder: Annotated[
        Path | None,
        typer.Option("--traces", help="Traces for hitrate: *.u32.xz.", show_default="../shared/traces"),
    ] = None,
) -> None:
    """Measure cacheside beside its peers, and write JSON, Markdown and charts.

    What is not run again keeps the results that are in the folder. Exit status: 0; 2 if something could not be run.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: servers are ended on the way out
    chosen = list(dict.fromkeys(part.value for part in only)) if only else list(PARTS)
    folder = traces.ABROAD if trace_folder is None else trace_folder
    if "hitrate" in chosen and not traces.found(folder):
        if only or trace_folder is not None:
            fail(f"no traces (*{traces.SUFFIX}) in {folder}: name their folder with --traces")
        print("benchmarks: no traces, so no hit rates: name their folder with --traces", file=sys.stderr)
        chosen.remove("hitrate")
    try:
        command.run(chosen, quick, out, folder)
    except PartFailed as error:
        fail(str(error))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="python -m benchmarks")
