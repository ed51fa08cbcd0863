"""The report for the eye: one table. It needs rich."""

from __future__ import annotations

from collections.abc import Callable

from rich.markup import escape
from rich.table import Table

from .figures import Column, Report
from .ways import Naive, Ours


def table(report: Report) -> Table:
    """The report as a table: one column for each way that was raced."""
    made = Table(title="cacheside check", caption=caption(report), caption_justify="left", min_width=76)
    columns = [(Ours.title, report.cacheside), (Naive.title, report.naive)]
    made.add_column("")
    shown = [column for _, column in columns if column is not None]
    for title, column in columns:
        if column is not None:
            made.add_column(title, justify="right")

    def row(name: str, show: Callable[[Column], str], end_section: bool = False) -> None:
        made.add_row(name, *map(show, shown), end_section=end_section)

    row("operations", lambda column: f"{column.operations:,}")
    row("reads", lambda column: f"{column.reads:,}")
    row("writes", lambda column: f"{column.writes:,}", end_section=True)
    row("stale reads", lambda column: f"[{'red' if column.stale_reads else 'green'}]{column.stale_reads:,}")
    row("per 10,000 reads", lambda column: f"{column.stale_per_10_000:,}", end_section=True)
    row("hits", lambda column: f"{column.hits:,}")
    row("hit rate", lambda column: f"{column.hit_rate:.1%}")
    row("loads", lambda column: f"{column.loads:,}")
    row("refused fills", lambda column: _count(column.refused))
    row("coalesced", lambda column: _count(column.coalesced))
    row("bypassed", lambda column: _count(column.bypassed))
    if report.strict:
        row("guarded", lambda column: _count(column.guarded))
    row("errors", lambda column: f"{column.errors:,}", end_section=True)
    row("read latency p50", lambda column: _time(column.read_latency.p50_us))
    row("read latency p99", lambda column: _time(column.read_latency.p99_us))
    row("write latency p50", lambda column: _time(column.write_latency.p50_us))
    row("write latency p99", lambda column: _time(column.write_latency.p99_us))
    return made


def caption(report: Report) -> str:
    """What the figures mean."""
    kind = "strict writes" if report.strict else "writes"
    lines = [
        f"{escape(report.cache)}, {report.processes} x {report.threads} threads and {report.tasks} tasks, on "
        f"{report.keys} keys, {report.writes:.1%} {kind}. Latencies contain the delays that the check puts into loads "
        "(up to 5 ms) and writes (up to 2 ms), and a machine that is busy with it."
    ]
    if report.interrupted:
        lines.append("Interrupted: this is what had been seen until then.")
    return "\n".join([*lines, *map(escape, report.notes)])


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _time(microseconds: float) -> str:
    return f"{microseconds:,.0f} us" if microseconds else ""
