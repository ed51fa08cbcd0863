"""Any batches, single calls and writes, one after the other: each read is what the store holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cacheside import MISSING, Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.redis import RedisBackend

ITEMS = st.integers(0, 6)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("batch"), st.lists(ITEMS, max_size=8)),
        st.tuples(st.just("one"), ITEMS),
        st.tuples(st.just("write"), ITEMS),
        st.tuples(st.just("remove"), ITEMS),
        st.tuples(st.just("set"), ITEMS),
        st.tuples(st.just("turn"), ITEMS),
        st.tuples(st.just("warm"), st.lists(ITEMS, max_size=4)),
        st.tuples(st.just("peek"), ITEMS),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["memory", pytest.param("redis", marks=pytest.mark.server)])
@pytest.mark.parametrize("tagged", [False, True])
def test_batches_are_as_the_store(kind: str, tagged: bool, request: pytest.FixtureRequest, namespace: str) -> None:
    """Whatever batches, single calls and writes come one after the other, each read is what the store holds."""
    server = request.getfixturevalue("redis_server") if kind == "redis" else None
    # A clock of its own for each cache, and a namespace that is new for each example.
    backend: Any = MemoryBackend() if server is None else RedisBackend.from_url(server.url, timeout=5, clock=float)
    count = 0

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ACTS)
    def run(acts: list[tuple[str, Any]]) -> None:
        nonlocal count
        count += 1
        rows: dict[int, int] = {}
        cache = Cache(MemoryBackend() if server is None else backend, namespace=f"{namespace}-{count}")
        tags = ("row:{number}",) if tagged else ()
        many = cache.cached_many("{number}", tags=tags)(
            lambda numbers: {number: rows[number] for number in numbers if number in rows}
        )
        one = cache.cached(key="{number}", tags=tags)(lambda number: rows.get(number))
        # What a single call has stored for a row that there is none of is None; a batch has it as a value.
        for step, (act, what) in enumerate(acts):
            if act == "batch":
                found = many(what)
                assert {number: value for number, value in found.items() if value is not None} == {
                    number: rows[number] for number in what if number in rows
                }
            elif act == "one":
                assert one(what) == rows.get(what)
            elif act == "warm":
                assert one.warm(what, concurrency=2).failed == 0
            elif act == "peek":
                assert one.peek(what) in (rows.get(what), MISSING)
            elif act == "set":
                rows[what] = step
                assert one.set(step, what) is True
            else:
                if act == "remove":
                    rows.pop(what, None)
                else:
                    rows[what] = step
                if tagged and act == "turn":
                    cache.invalidate(tags=[f"row:{what}"])
                elif step % 2:
                    many.invalidate([what])
                else:
                    one.invalidate(what)

    try:
        run()
    finally:
        backend.close()
