"""The command ``cacheside``. It needs the extra `cli`, and says so where that is missing.

Annotations are not postponed in this file: typer evaluates them, and knows nothing of what `main` has imported.
"""

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer
    from rich.table import Table

    from .check import Wish
    from .progress import Progress

Found = TypeVar("Found", bound=Any)


def main() -> None:
    """Run the command with the arguments of this process. Ends the process; 2 means that it could not run."""
    try:
        app = make_app()
    except ModuleNotFoundError as error:
        if (error.name or "cacheside").partition(".")[0] == "cacheside":
            raise
        fail(f"the command needs the package {error.name!r}: pip install 'cacheside[cli]'")
    app()


def make_app() -> "typer.Typer":
    """The command and its subcommands."""
    import rich  # noqa: F401 (not used here: if it is missing that should be said before anything else)
    import typer

    from . import __version__

    app = typer.Typer(name="cacheside", add_completion=False, pretty_exceptions_enable=False)

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    ) -> None:
        """Cache-aside for Python: decorated reads and writes, never stale by a race."""
        if version:
            print(f"cacheside {__version__}")
        elif context.invoked_subcommand is None:
            print(context.get_help())

    @app.command()
    def demo(
        cache: Annotated[str, typer.Option(help="A cache: memory://, redis://..., memcached://...")] = "memory://",
        store: Annotated[str, typer.Option(help="A store: sqlite://, postgresql://...")] = "sqlite://",
        seconds: Annotated[float, typer.Option(min=1.0, help="About how long it takes.")] = 10.0,
        as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, and nothing else.")] = False,
    ) -> None:
        """Real traffic on a real store, and proof that no read was stale.

        It fills a store with 50,000 rows (a SQLite file, or a table of its own in your database), reads and writes
        through decorated functions from threads and tasks, sets a thousand callers on one cold key, and removes the
        store again. Exit status: 0; 1 if a stale read was seen; 2 if it could not run.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: the store is removed on the way out
        raise typer.Exit(run_demo(cache, store, seconds, as_json))

    @app.command()
    def check(
        url: Annotated[str, typer.Argument(help="Your cache: redis://..., memcached://...", show_default=False)],
        naive: Annotated[bool, typer.Option("--naive", help="Race plain get, set and delete as well.")] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Make the writes strict ones.")] = False,
        operations: Annotated[
            int | None, typer.Option(min=1, help="Reads and writes of all processes.", show_default="20000")
        ] = None,
        seconds: Annotated[float | None, typer.Option(min=0.1, help="As many as fit into this, instead.")] = None,
        processes: Annotated[int, typer.Option(min=1, max=64, help="Each of 4 threads and 4 tasks.")] = 4,
        keys: Annotated[int, typer.Option(min=1, max=1000, help="The fewer, the hotter.")] = 4,
        writes: Annotated[float, typer.Option(min=0.001, max=0.9, help="The share that writes.")] = 0.05,
        as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON, and nothing else.")] = False,
    ) -> None:
        """Race readers and writers on your own server: no read may be stale.

        Processes with threads and tasks read and write a few keys of their own there, through decorated functions; each
        read is compared with the writes that had returned before it began. With --naive, plain get, set and delete run
        the same race, which shows what the check can find. The keys are removed at the end, and no other is touched.
        Exit status: 0; 1 if a read through cacheside was stale; 2 if it could not run.
        """
        from .check import OPERATIONS, Wish

        if operations is not None and seconds is not None:
            fail("--operations and --seconds exclude each other")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # like Ctrl-C: the keys are removed on the way out
        if operations is None and seconds is None:
            operations = OPERATIONS
        raise typer.Exit(run_check(Wish(url, operations, seconds, processes, keys, writes, strict, naive), as_json))

    @app.command()
    def relay(
        store: Annotated[
            str, typer.Option(help="The database: postgresql://..., mariadb://..., sqlite:///path", show_default=False)
        ],
        cache: Annotated[str, typer.Option(help="The cache: redis://..., memcached://...", show_default=False)],
        table: Annotated[str, typer.Option(help="The outbox's table.")] = "cacheside_outbox",
        delay: Annotated[float, typer.Option(min=0.0, help="Seconds that rows are left to their writers.")] = 1.0,
        poll: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks where nobody notifies.")] = 1.0,
        batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows delivered at once.")] = 500,
        once: Annotated[bool, typer.Option("--once", help="Deliver what is due now, and end.")] = False,
    ) -> None:
        """Deliver the invalidations that crashed writers left in an outbox.

        It runs until SIGTERM or Ctrl-C, finishes the batch that it is at, and prints its totals. Several may work on
        one table. The cache's URL has to have the writers' namespace: redis://localhost:6379/0?namespace=shop.
        Exit status: 0; 1 if --once had to leave rows because the cache did not answer; 2 if it could not run.
        """
        from .errors import CachesideError

        try:
            from .outbox import command

            wish = command.Wish(store, cache, table, delay, poll, batch, once)
            raise typer.Exit(command.run(wish))
        except CachesideError as error:
            fail(str(error))

    return app


def run_demo(cache: str, store: str, seconds: float, as_json: bool) -> int:
    """Run the demo and print what came out; the exit status."""
    from . import demo
    from .demo import view

    figures = _run(lambda phase: demo.run(cache, store, seconds, phase), view.table, as_json)
    return 1 if figures.stale_reads else 0


def run_check(wish: "Wish", as_json: bool) -> int:
    """Run the check and print what came out; the exit status."""
    from . import check
    from .check import view

    report = _run(lambda phase: check.run(wish, phase), view.table, as_json)
    if report.status == 2:
        fail(report.failures[0])
    return report.status


def _run(
    work: "Callable[[Callable[[str], Progress]], Found]", table: "Callable[[Found], Table]", as_json: bool
) -> "Found":
    """Do the work of a command with its progress shown, and print what was found: a dataclass."""
    import dataclasses
    import json

    from .errors import CachesideError
    from .terminal import Bars, print_table

    try:
        if as_json:
            found = work(lambda name: lambda done: None)
        else:
            with Bars() as bars:
                found = work(bars.phase)
    except CachesideError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print_table(table(found))
    return found


def fail(message: str) -> NoReturn:
    """Say in one line why the command could not run, and end with status 2."""
    print("cacheside:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
