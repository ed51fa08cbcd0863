"""Part "tags": a hit of a function with a tag beside a hit of the same function without.

In memory, and on a Redis of our own, where client and server share one CPU, see `one_cpu`. A tag's version is looked up
together with the entry, so on Redis both are one round trip; in memory a hit without tags is one look at a table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cacheside import Cache
from cacheside.progress import Progress

from .effort import Effort
from .measure import compare
from .on_redis import PATIENCE, async_hits, sync_hits
from .peers import TTL, Decorator
from .servers import HOST, one_cpu, redis_server
from .sides import Side

ABOUT = {
    "title": "A hit with a tag / a hit without",
    "text": "One key, one tag; on Redis one after another.",
}


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure all of it, on a server of its own."""
    with one_cpu(), redis_server() as server, asyncio.Runner() as runner:

        def tasks(name: str, decorate: Decorator) -> Side:
            return async_hits(runner, name, decorate)

        url = f"redis://{HOST}:{server.port}/0"
        with Cache("memory://", ttl=TTL) as memory, Cache(url, namespace="bench", ttl=TTL, timeout=PATIENCE) as shared:
            kinds: list[tuple[str, Cache, Callable[[str, Decorator], Side]]] = [
                ("memory, sync", memory, sync_hits),
                ("Redis, sync", shared, sync_hits),
                ("Redis, async", shared, tasks),
            ]
            rows = []
            for number, (where, cache, side) in enumerate(kinds):
                ours = side("cacheside, one tag", cache.cached("tagged:{product_id}", tags=("shop:{product_id}",)))
                other = side("cacheside, no tag", cache.cached("simple:{product_id}"))
                rows.append(compare(f"a hit with a tag, {where}", ours, other, effort))
                progress((number + 1) / len(kinds))
            runner.run(shared.aclose())
    return {"servers": [server.version], "rows": [asdict(row) for row in rows], "ratios": ABOUT}
