"""What the commands show: a progress bar for each phase, and a table at the end. It needs rich."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from .progress import Progress


class Bars:
    """Progress bars on stderr. Nothing appears before the first progress is made."""

    def __init__(self) -> None:
        columns = TextColumn("{task.description:>24}"), BarColumn(), TaskProgressColumn()
        self._bars = RichProgress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bars.tasks:
            self._bars.stop()

    def phase(self, name: str) -> Progress:
        """A new bar; gives what moves it."""
        bar: TaskID | None = None

        def progress(done: float) -> None:
            nonlocal bar
            if bar is None:
                self._bars.start()
                bar = self._bars.add_task(name, total=1.0)
            self._bars.update(bar, completed=done)

        return progress


def print_table(table: Table) -> None:
    """A table on stdout, at most 80 columns wide."""
    console = Console()
    console.width = min(80, console.width)
    console.print(table)
