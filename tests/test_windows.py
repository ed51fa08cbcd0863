"""Ages of values, and what is stored about them: without a server, and without waiting."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from long import scaled

from cacheside import Cache, serializers
from cacheside.envelope import ABSENT, PLAIN, Meta, Miss, Raised
from cacheside.expiry import NO_WINDOWS, Age, Windows
from cacheside.livecodec import LiveCodec, portable, revived
from cacheside.testing import FakeClock
from cacheside.wirecodec import WireCodec

EXAMPLES = scaled(200, 20_000)
times = st.floats(0, 1e9)
chances = st.floats(0, 1, exclude_max=True)
spans = st.sampled_from([0.0, 0.5, 10.0, 1e6])

# --- ages ---

FRESH = 1000.0


@pytest.mark.parametrize(
    ("revalidate", "error", "ages"),
    [
        (0, 0, {999.999: Age.FRESH, 1000: Age.OVER, 1e9: Age.OVER}),
        (10, 0, {999.999: Age.FRESH, 1000: Age.STALE, 1009.999: Age.STALE, 1010: Age.OVER}),
        (0, 20, {999.999: Age.FRESH, 1000: Age.LAST, 1019.999: Age.LAST, 1020: Age.OVER}),
        (10, 20, {1000: Age.STALE, 1009.999: Age.STALE, 1010: Age.LAST, 1019.999: Age.LAST, 1020: Age.OVER}),
        (20, 10, {1000: Age.STALE, 1010: Age.STALE, 1019.999: Age.STALE, 1020: Age.OVER}),
    ],
)
def test_boundaries(revalidate: float, error: float, ages: dict[float, Age]) -> None:
    """A window begins the moment the ttl is over, and is over when its seconds are; the one to revalidate is first."""
    windows = Windows(revalidate, error)
    assert {now: windows.age(FRESH, 0.5, now, 0.999) for now in ages} == ages
    assert windows.longest == max(revalidate, error)
    assert bool(windows) == bool(revalidate or error)


@settings(max_examples=EXAMPLES)
@given(times, st.floats(0, 1e4), st.lists(times, min_size=2, max_size=2), chances, spans, spans, spans)
def test_values_only_age(
    fresh: float, took: float, nows: list[float], chance: float, revalidate: float, error: float, early: float
) -> None:
    """Whatever the windows, a value never grows younger, and no window serves it longer than it is kept."""
    order = [Age.FRESH, Age.EARLY, Age.STALE, Age.LAST, Age.OVER]
    windows = Windows(revalidate, error, early)
    first, second = [windows.age(fresh, took, now, chance) for now in sorted(nows)]
    assert order.index(first) <= order.index(second)
    for now in nows:
        age = windows.age(fresh, took, now, chance)
        assert (age is Age.OVER) == (now >= fresh + windows.longest)
        assert (age in (Age.FRESH, Age.EARLY)) == (now < fresh)
        if not early:
            assert age is not Age.EARLY


@settings(max_examples=EXAMPLES)
@given(times, st.floats(0, 1e4), times, chances, spans)
@example(1000.0, 1.0, 984.0, 1 - 2**-23, 1.0)
def test_surely_fresh(fresh: float, took: float, now: float, chance: float, early: float) -> None:
    """Before the moment that `surely_fresh` gives a value is FRESH, but for chances that come once in nine million."""
    windows = Windows(60, 0, early)
    if now < windows.surely_fresh(fresh, took) and 1 - chance > math.exp(-15.99):
        assert windows.age(fresh, took, now, chance) is Age.FRESH


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("took", [0.1, 2.0])
@pytest.mark.parametrize("gap", [0.01, 0.1, 1.0, 5.0])
def test_early_refresh_is_xfetch(beta: float, took: float, gap: float) -> None:
    """A value is refreshed early with the probability of XFetch: exp(-gap / (took * beta)), `gap` before its end."""
    windows, count = Windows(early_refresh=beta), 10_000
    ages = [windows.age(FRESH, took, FRESH - gap, number / count) for number in range(count)]
    assert set(ages) <= {Age.EARLY, Age.FRESH}
    # The chances are spread evenly, so there is no error but that of the last step.
    assert ages.count(Age.EARLY) / count == pytest.approx(math.exp(-gap / (took * beta)), abs=2 / count)


def test_load_of_unknown_length_is_not_refreshed_early() -> None:
    """How long a value takes that was put there is not known: it is as fresh as its ttl says."""
    assert {Windows(early_refresh=1e9).age(FRESH, 0.0, FRESH - 1e-6, chance) for chance in (0.0, 0.999999)} == {
        Age.FRESH
    }
    assert not NO_WINDOWS


# --- what is stored ---

names = st.text([chr(code) for code in range(33, 127)], max_size=40)  # as keys are: visible ASCII
versions = st.binary(min_size=16, max_size=16)
metas = st.builds(
    Meta,
    st.floats(allow_nan=False),
    st.floats(0, 1e6),
    st.lists(st.tuples(names, versions), max_size=5).map(tuple),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("msgpack", "json")


def wire(name: str, whole: bool = False, batch: bool = False, version: str = "") -> WireCodec:
    """The codec of a server, whose clock stands still."""
    serializer = serializers.create(name)
    return WireCodec(serializer, version, [LookupError], (lambda: 500.0) if whole else None, lambda: 500.0, batch)


def live(copies: bool, batch: bool = False) -> LiveCodec:
    """The codec of memory, whose clock stands still."""
    return LiveCodec("", copies, lambda: 500.0, batch)


CODECS: list[Any] = [
    *[pytest.param(wire(name, whole, True), id=f"{name} {whole}") for name in NAMES for whole in (False, True)],
    *[pytest.param(live(copies, True), id=f"memory {copies}") for copies in (False, True)],
]


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=scaled(50, 5_000))
@given(value=values.filter(lambda value: not isinstance(value, bytes)), meta=metas)
def test_what_is_said_beside_a_value(codec: Any, value: Any, meta: Meta) -> None:
    """Until when it is fresh, how long it took, and its tags come back with a value, an exception, and an absence."""
    assert codec.examine(codec.encode(value, 60, meta)) == (value, meta)
    outcome, found = codec.examine(codec.encode(Raised(LookupError("x", 5)), 60, meta))
    assert (type(outcome.error), outcome.error.args, found) == (LookupError, ("x", 5), meta)
    assert codec.examine(codec.encode(ABSENT, 60, meta)) == (ABSENT, meta)
    assert codec.examine(codec.encode(value, 60)) == (value, PLAIN)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=scaled(50, 5_000))
@given(meta=metas)
def test_for_those_who_know_of_no_windows(codec: Any, meta: Meta) -> None:
    """To a function without windows and tags a value is worth nothing past its ttl, nor if it has tags."""
    stored = codec.encode("value", 60, meta)
    expected: Any = Miss.TAGS if meta.stamps else "value" if meta.fresh > 500 else Miss.EXPIRED
    assert codec.decode(stored) == expected
    assert codec.until(stored) == meta.fresh
    assert codec.until(codec.encode("value", 60)) == math.inf


@settings(max_examples=scaled(50, 5_000))
@given(st.floats(0, 1e9), st.floats(0, 1e6), st.floats(0, 1e6), st.lists(st.tuples(names, versions), max_size=3))
def test_snapshot_keeps_it(deadline: float, window: float, took: float, stamps: list[tuple[str, bytes]]) -> None:
    """What is saved and taken up again is fresh as long as it would have been, by the clock of another process."""
    meta = Meta(deadline - window, took, tuple(stamps))
    parts = portable(live(False).encode("value", 60, meta), deadline)
    outcome, found = live(False).examine(revived(parts, deadline + 5000))
    assert (outcome, found.took, found.stamps) == ("value", meta.took, meta.stamps)
    assert found.fresh == pytest.approx(meta.fresh + 5000)


# --- bytes that are not what was stored ---


def harmless(codec: WireCodec, stored: bytes) -> None:
    """Both ways to read it give an outcome or a Miss, and raise nothing."""
    outcome, meta = codec.examine(stored)
    codec.decode(stored)
    codec.until(stored)
    assert type(meta) is Meta
    if type(outcome) is Miss:
        assert outcome is Miss.FOREIGN or meta != PLAIN or outcome is Miss.EXPIRED or outcome is Miss.NO_ROW


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [False, True])
def test_cut_short(name: str, batch: bool) -> None:
    """However much is missing at its end, an entry is a miss and no error; nothing is taken for tags that is none."""
    codec = wire(name, batch=batch)
    meta = Meta(1000.0, 0.5, (("org:1", b"v" * 16), ("all", b"w" * 16)))
    head = len(codec._values[1]) + 8 + 17 + 2 * 18 + len("org:1all")
    for outcome in ({"a": [1, "text"]}, "text", Raised(LookupError("x"))):
        stored = codec.encode(outcome, 60, meta)
        assert codec.examine(stored)[1] == meta
        for size in range(len(stored)):
            found, said = codec.examine(stored[:size])
            assert found is Miss.FOREIGN
            assert said == PLAIN
            assert codec.decode(stored[:size]) is Miss.FOREIGN
        assert len(stored) > head
    stored = codec.encode(ABSENT, 60, meta)
    assert {codec.examine(stored[:size])[0] for size in range(len(stored) - len("all"))} == {Miss.FOREIGN}


@settings(max_examples=EXAMPLES)
@given(metas, values, st.sampled_from(NAMES), st.booleans(), st.data())
def test_garbled(meta: Meta, value: Any, name: str, whole: bool, data: st.DataObject) -> None:
    """Whatever became of the bytes of an entry, reading them gives an outcome or a miss, and raises nothing."""
    if name == "json":
        value = repr(value)
    codec = wire(name, whole, data.draw(st.booleans()))
    outcome = data.draw(st.sampled_from([value, Raised(LookupError("x")), ABSENT]))
    stored = bytearray(codec.encode(outcome, 60, meta))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stored) - 1))
        stored[place] = data.draw(st.integers(0, 255))
    harmless(codec, bytes(stored[: data.draw(st.integers(0, len(stored)))]))
    harmless(codec, bytes(stored) + data.draw(st.binary(max_size=10)))


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=80), st.sampled_from(NAMES), st.integers(0, 5), st.booleans())
def test_anything_behind_a_header(rest: bytes, name: str, kind: int, whole: bool) -> None:
    """The same for anything that begins as an entry does."""
    codec = wire(name, whole)
    headers = (*codec._values, *codec._errors, *codec._absent)
    harmless(codec, headers[kind] + rest)
    harmless(codec, rest)


# --- beside each other in one process ---


def test_row_of_an_entry_with_a_window() -> None:
    """Who hits an entry that others keep past its ttl finds it by a row until that ttl is over, and no longer."""
    clock = FakeClock()
    cache, stored = Cache("memory://", clock=clock), ["old"]

    @cache.cached(key="row:{row}", ttl=60, stale_while_revalidate=600)
    def windowed(row: int) -> str:
        return stored[0]

    @cache.cached(key="row:{row}", ttl=60)
    def plain(row: int) -> str:
        return stored[0]

    windowed(1)
    stored[0] = "new"
    assert [plain(1) for _ in range(3)] == ["old"] * 3
    clock.advance(59)
    assert [plain(1) for _ in range(3)] == ["old"] * 3
    clock.advance(2)
    assert [plain(1) for _ in range(3)] == ["new"] * 3
