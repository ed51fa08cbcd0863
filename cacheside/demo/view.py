"""The demo for the eye: the table at the end. It needs rich."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from .figures import Figures
from .stampede import Stampede


def table(figures: Figures) -> Table:
    """The figures as a table."""
    made = Table(title="cacheside demo", caption=caption(figures), caption_justify="left", min_width=76)
    made.add_column("")
    made.add_column("with the cache", justify="right")
    made.add_column("without it", justify="right")
    reads = figures.calls
    fast, slow = figures.latency_with_cache, figures.latency_without_cache
    saved = f"{figures.store_reads_saved:,} ({_percent(figures.store_reads_saved, reads)})"
    made.add_row("calls", f"{reads:,}")
    made.add_row("hit rate", f"{figures.hit_rate:.1%}")
    made.add_row("store reads", f"{figures.store_reads:,}", f"{reads:,}")
    made.add_row("store reads saved", saved)
    made.add_row("coalesced callers", f"{figures.coalesced:,}")
    made.add_row("writes", f"{figures.writes:,}", end_section=True)
    made.add_row("latency p50", f"{fast.p50_us:,.0f} us", f"{slow.p50_us:,.0f} us")
    made.add_row("latency p99", f"{fast.p99_us:,.0f} us", f"{slow.p99_us:,.0f} us", end_section=True)
    for kind, stampede in (("threads", figures.stampede_of_threads), ("tasks", figures.stampede_of_tasks)):
        made.add_row(f"stampede of {stampede.callers:,} {kind}", _loads(stampede), f"{stampede.callers:,} loads")
    made.add_section()
    made.add_row("stale reads", f"[{'red' if figures.stale_reads else 'green'}]{figures.stale_reads:,}")
    if figures.errors:
        made.add_row("cache errors", f"[red]{figures.errors:,}")
    return made


def caption(figures: Figures) -> str:
    """What the figures mean."""
    lines = [
        f"{escape(figures.cache)} in front of {escape(figures.store)} with {figures.rows:,} rows, "
        f"{figures.seconds:.1f} seconds.",
        f"Staleness is checked: {figures.reads_checked:,} reads against the writes that had returned before "
        f"they began, and {figures.entries_checked:,} entries against the store at the end.",
        "Latency is that of one caller of a look-up by primary key, the cheapest read there is, and "
        "from a store that has nothing else to do.",
    ]
    return "\n".join(lines)


def _loads(stampede: Stampede) -> str:
    text = f"{stampede.loads:,} load{'s' if stampede.loads > 1 else ''}"
    return text if stampede.loads == 1 else f"[red]{text}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"
