"""An event loop that is busy for longer than the time-out is no outage of the cache."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from cacheside import Cache


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ],
)
def test_an_answer_that_has_arrived_counts(server: str, request: pytest.FixtureRequest, namespace: str) -> None:
    """Answers that came while the loop was blocked are taken, though their time is over by the time it looks."""
    cache = Cache(request.getfixturevalue(server).url, namespace=namespace, timeout=0.2)

    @cache.cached("row:{row}")
    async def get(row: int) -> int:
        return row

    async def block(turns: int) -> None:
        for _ in range(turns):  # after one of these numbers of turns the lookups have been sent, and no answer was read
            await asyncio.sleep(0)
        time.sleep(0.3)  # on purpose: the loop of a program that does too much at a time

    async def main() -> list[Any]:
        async with cache:
            await asyncio.gather(*(get(row) for row in range(5)))
            for turns in range(10):
                await asyncio.gather(*(get(row) for row in range(5)))  # a connection that has to be opened is, before
                await asyncio.gather(*(get(row) for row in range(5)), block(turns))
            return [get.cache_info().errors, get.cache_info().hits]

    assert asyncio.run(main()) == [0, 100]
