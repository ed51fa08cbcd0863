"""The results as Markdown, for the folder that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .machine import PACKAGES
from .results import rows

NAME = "README.md"


def write(folder: Path, results: dict[str, dict[str, Any]], charts: Sequence[str]) -> Path:
    """Write it.

    Args:
        results: by part; see `results.read`.
        charts: the file names of the pictures.
    """
    path = folder / NAME
    path.write_text("\n".join(_lines(results, charts)) + "\n", encoding="utf-8")
    return path


def _lines(results: dict[str, dict[str, Any]], charts: Sequence[str]) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield (
        "Made by `python -m benchmarks`. Ratios are of times within one round, in which both sides take turns: their "
        "median, and the quartiles beside it. Garbage collection is off while something is timed, and the empty loop "
        "is subtracted, on both sides. Each hit was verified: the value was compared, and nothing was loaded. How each "
        "library is set up stands in `benchmarks/peers.py`."
    )
    yield ""
    yield from _about(results)
    if compared := rows(results):
        yield from _section("Beside each other")
        yield from _compared(compared)
    for part, found in results.items():
        for title, times in found.get("peers", {}).items():
            yield from _section(f"{title[0].upper()}{title[1:]}")
            yield from _times(times)
        if ratios := found.get("ratios"):
            yield from _section(ratios["title"])
            yield ratios["text"]
        yield from _pictures(charts, f"{part}.")
    if "footprint" in results.get("hit", {}):
        yield from _section("Memory")
        yield from _footprint(results["hit"]["footprint"])
        yield from _pictures(charts, "memory.")
    if "stampede" in results:
        yield from _section("Stampedes")
        yield from _stampedes(results["stampede"])
        yield from _pictures(charts, "stampede.")
    if "hitrate" in results:
        yield from _section("Hit rates")
        yield from _hit_rates(results["hitrate"], charts)


def _section(title: str) -> Iterable[str]:
    return ("", f"## {title}", "")


def _pictures(charts: Sequence[str], begin: str) -> Iterator[str]:
    for name in charts:
        if name.startswith(begin):
            yield from ("", f"![{name.rpartition('.')[0]}]({name})")


def _table(head: Sequence[str], body: Iterable[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """The first columns are texts; the others are numbers, on the right."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * texts}{' ---: |' * (len(head) - texts)}"
    for line in body:
        yield f"| {' | '.join(line)} |"


def _about(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    def line(part: str, found: dict[str, Any]) -> list[str]:
        about = found["about"]
        machine = f"{about['processor']}, {about['cores']} cores, {about['system']}"
        servers = ", ".join(found.get("servers", []))
        return [part, f"`{found['command']}`", about["day"], about["python"], machine, servers]

    yield from _table(
        ["part", "command", "day", "Python", "machine", "server"],
        [line(part, found) for part, found in results.items()],
        texts=6,
    )
    for versions in {str(found["versions"]): found["versions"] for found in results.values()}.values():
        yield ""
        yield f"Versions: {', '.join(f'{name} {versions[name]}' for name in PACKAGES if name in versions)}."


def _compared(compared: Sequence[dict[str, Any]]) -> Iterator[str]:
    def line(row: dict[str, Any]) -> list[str]:
        ours, other, ratio, wanted = row["ours"]["ns"], row["other"]["ns"], row["ratio"], row["at_most"]
        return [
            row["name"],
            row["other"]["name"],
            _time(ours["median"]),
            _time(other["median"]),
            f"**{ratio['median']:.3f}**",
            f"{ratio['low']:.3f} .. {ratio['high']:.3f}",
            "" if wanted is None else f"{wanted:.2f}",
            "" if wanted is None else "reached" if row["reached"] else "**not reached**",
        ]

    head = ["what", "beside", "cacheside", "the other", "ratio", "quartiles", "at most", ""]
    yield from _table(head, map(line, compared), texts=2)
    asked = [row for row in compared if row["at_most"] is not None]
    if asked:
        yield ""
        yield f"{sum(row['reached'] for row in asked)} of {len(asked)} are what they should be at most."


def _times(times: Sequence[dict[str, Any]]) -> Iterator[str]:
    body = [
        [time["name"], _time(time["ns"]["median"]), f"{_time(time['ns']['low'])} .. {_time(time['ns']['high'])}"]
        for time in times
    ]
    yield from _table(["", "median", "quartiles"], body)


def _footprint(found: dict[str, Any]) -> Iterator[str]:
    yield f"Bytes that each of {found['entries']:,} entries takes beyond its key and value: {found['measured']}."
    yield ""
    body = sorted(found["bytes_per_entry"].items(), key=lambda item: item[1])
    yield from _table(["", "bytes"], [[name, f"{size:,.0f}"] for name, size in body])


def _stampedes(found: dict[str, Any]) -> Iterator[str]:
    yield f"One cold key, a load of {found['load_seconds'] * 1000:.0f} ms. Loads: the least and the most seen."
    for title, crowd in found["crowds"].items():
        yield ""
        body = [
            [
                each["library"],
                _range(each["loads"]),
                _time(each["seconds"]["median"] * 1e9),
                f"{_time(each['seconds']['min'] * 1e9)} .. {_time(each['seconds']['max'] * 1e9)}",
            ]
            for each in crowd
        ]
        yield from _table([title, "loads", "until all were served, median", "least .. most"], body)


def _hit_rates(found: dict[str, Any], charts: Sequence[str]) -> Iterator[str]:
    if found["agrees"] is not None:
        differences = ", ".join(f"{kind} {points:.2f}" for kind, points in found["largest_differences"].items())
        yield (
            f"Largest differences from the reference simulator, in percentage points: {differences}. For s3fifo at "
            f"most {found['at_most']} is asked: {'reached' if found['agrees'] else '**not reached**'}."
        )
        yield ""
    sizes = list(found["traces"][0]["capacities"])
    kinds = list(found["traces"][0]["hit_rates"])
    yield "Hit rates in percent, by the size of the cache in percent of the keys; the mean of all traces."
    yield ""
    head = ["", *[f"{float(size):.1%}" for size in sizes]]

    def mean(kind: str, size: str) -> float:
        return float(sum(trace["hit_rates"][kind][size] for trace in found["traces"]) / len(found["traces"]))

    yield from _table(head, [[kind, *[f"{mean(kind, size):.1%}" for size in sizes]] for kind in kinds])
    for trace in found["traces"]:
        yield ""
        cut = ", cut short" if trace["cut"] else ""
        yield f"**{trace['name']}**: {trace['requests']:,} requests, {trace['keys']:,} keys{cut}"
        yield ""
        rates = trace["hit_rates"]
        yield from _table(head, [[kind, *[f"{rates[kind][size]:.1%}" for size in sizes]] for kind in kinds])
        yield from _pictures(charts, f"hitrate-{trace['name']}.")


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if min(numbers) == max(numbers) else f"{min(numbers)} .. {max(numbers)}"


def _time(nanoseconds: float) -> str:
    units = {1e9: "s", 1e6: "ms", 1e3: "us"}
    divisor = next((size for size in units if nanoseconds >= size), 1.0)
    value = nanoseconds / divisor
    return f"{value:.{0 if value >= 100 else 1}f} {units.get(divisor, 'ns')}"
