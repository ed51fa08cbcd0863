"""The results as pictures: SVG, the same bytes for the same figures, on white so that dark pages show them too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 7.5  # inches
OURS, PEER, INK = "#0b6e99", "#b9c2c9", "#24292f"
STYLE: Any = {  # matplotlib names each key in a type
    "svg.fonttype": "path",
    "svg.hashsalt": "cacheside",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
LINES = {
    "optimum": ("#24292f", ":", ""),
    "cacheside s3fifo": (OURS, "-", "o"),
    "cacheside sieve": ("#2da44e", "-", "s"),
    "cacheside lru": ("#bf8700", "-", "v"),
    "cacheside lfu": ("#8250df", "-", "^"),
    "cacheside fifo": ("#cf222e", "-", "D"),
    "theine Cache": ("#e85aad", "--", "x"),
    "cachebox TTLCache": ("#6e7781", "--", "+"),
    "cachebox LRUCache": ("#9a6700", "--", "1"),
    "cachetools LRUCache": ("#d4a72c", "--", "2"),
}


def write(folder: Path, results: dict[str, dict[str, Any]]) -> list[str]:
    """Draw all that there are figures for; the file names."""
    made: list[str] = []

    @contextmanager
    def drawn(name: str, *heights: float) -> Iterator[list[Axes]]:
        """A picture of panels of these heights, in inches."""
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        yield [row[0] for row in panels]
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        made.append(f"{name}.svg")

    with mpl.rc_context(STYLE):
        for part, found in results.items():
            if peers := found.get("peers"):
                with drawn(part, *map(_height, peers.values())) as panels:
                    _all_times(panels, peers)
            if about := found.get("ratios"):
                ratios = {row["name"]: row["ratio"]["median"] for row in found["rows"]}
                with drawn(part, _height(ratios) + 0.2) as panels:
                    _ratios(panels[0], about["title"], ratios)
        if footprint := results.get("hit", {}).get("footprint"):
            sizes = footprint["bytes_per_entry"]
            with drawn("memory", _height(sizes)) as panels:
                title = f"Bytes of an entry beyond key and value, {footprint['entries']:,} entries"
                _bars(panels[0], title, sizes, "{:,.0f}".format)
        if crowds := results.get("stampede", {}).get("crowds"):
            with drawn("stampede", *map(_height, crowds.values())) as panels:
                _stampedes(panels, crowds)
        for trace in results.get("hitrate", {}).get("traces", []):
            with drawn(f"hitrate-{trace['name']}", 4.2) as panels:
                _rates(panels[0], trace)
    return made


def _height(bars: Sized) -> float:
    return 0.75 + 0.3 * len(bars)


def _all_times(axes: Sequence[Axes], peers: dict[str, Any]) -> None:
    for panel, (title, times) in zip(axes, peers.items(), strict=True):
        nanoseconds = {time["name"]: time["ns"]["median"] for time in times}
        unit, divisor = ("ns", 1) if min(nanoseconds.values()) < 1e3 else ("us", 1e3)
        if min(nanoseconds.values()) >= 1e6:
            unit, divisor = "ms", 1e6
        values = {name: value / divisor for name, value in nanoseconds.items()}
        wide = max(values.values()) > 30 * min(values.values())
        scale = ", logarithmic" if wide else ""
        _bars(panel, f"{title[0].upper()}{title[1:]} ({unit}, median{scale}; less is better)", values, _number, wide)


def _ratios(axes: Axes, title: str, ratios: dict[str, float]) -> None:
    _bars(axes, title, ratios, "{:.3g}".format, wide=True)
    axes.set_xlabel("ratio of times (median, logarithmic; less is better)")
    for bar in axes.patches:
        bar.set_facecolor(OURS)
    axes.axvline(1.0, color=PEER, linestyle=":")


def _stampedes(axes: Sequence[Axes], crowds: dict[str, Any]) -> None:
    for panel, (title, crowd) in zip(axes, crowds.items(), strict=True):
        loads = {each["library"]: max(each["loads"]) for each in crowd}
        values = {each["library"]: each["seconds"]["median"] * 1000 for each in crowd}
        wide = max(values.values()) > 30 * min(values.values())
        bars = _bars(panel, f"{title}: ms until all were served", values, _number, wide)
        for text, count in zip(bars, loads.values(), strict=True):
            text.set_text(f"{text.get_text()} ({count:,} load{'s' if count > 1 else ''})")
        panel.margins(x=0.3)


def _bars(
    axes: Axes, title: str, values: dict[str, float], show: Callable[[float], str], wide: bool = False
) -> list[Any]:
    """Bars side by side, the first on top; the texts at their ends."""
    colours = [OURS if name.startswith(("cacheside", "import cacheside")) else PEER for name in values]
    bars = axes.barh(list(values), list(values.values()), color=colours)
    if wide and min(values.values()) > 0:  # a time may be less than that of the empty loop, if that met more noise
        axes.set_xscale("log")
        axes.set_xlim(left=10 ** math.floor(math.log10(min(values.values())) - 0.3))
    axes.invert_yaxis()
    axes.set_title(title)
    axes.margins(x=0.15)
    axes.tick_params(axis="y", length=0)
    return axes.bar_label(bars, [show(value) for value in values.values()], padding=3)


def _rates(axes: Axes, trace: dict[str, Any]) -> None:
    sizes = list(trace["capacities"])
    for kind, (colour, style, marker) in LINES.items():
        rates = [trace["hit_rates"][kind][size] * 100 for size in sizes]
        width = 2.2 if kind == "cacheside s3fifo" else 1.2
        axes.plot(
            [float(size) * 100 for size in sizes], rates,
            color=colour, linestyle=style, marker=marker, markersize=5, linewidth=width, label=kind,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([float(size) * 100 for size in sizes], [f"{float(size) * 100:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("entries, in percent of the trace's keys")
    axes.set_ylabel("hits, in percent of the requests")
    axes.grid(visible=True, color="#d0d7de", linewidth=0.6)
    axes.set_title(f"{trace['name']}: {trace['requests']:,} requests, {trace['keys']:,} keys")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
