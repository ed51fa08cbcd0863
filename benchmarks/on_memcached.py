"""Part "memcached": hits on a memcached of our own, beside pymemcache's pooled client and beside aiocache.

As part "redis", on one CPU; pymemcache is given ``no_delay=True``, which its documentation advises for speed.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no types
import pymemcache  # type: ignore[import-untyped]  # it has no types

from cacheside import Cache
from cacheside.progress import Progress

from . import peers
from .effort import Effort
from .measure import compare, times
from .on_redis import PATIENCE, async_hits, sync_hits, value_of
from .peers import TTL
from .servers import HOST, memcached_server, one_cpu
from .sides import Side, all_hits, plain

KEY = "bench:product#7"


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure all of it, on a server of its own."""
    with one_cpu(), memcached_server() as server, asyncio.Runner() as runner:
        url = f"memcached://{HOST}:{server.port}"
        client = pymemcache.PooledClient((HOST, server.port), no_delay=True)
        client.set(KEY, msgpack.packb(value_of(7)), expire=TTL)
        with contextlib.closing(client), Cache(url, namespace="bench", ttl=TTL, timeout=PATIENCE) as cache:
            cached = cache.cached
            ours, other = sync_hits("cacheside", cached("product:{product_id}")), _raw(client)
            row = compare("memcached, sync", ours, other, effort, 1.00)
            progress(0.5)
            sides = [
                ours,
                other,
                async_hits(runner, "cacheside, async", cached("product:{product_id}")),
                async_hits(runner, "aiocache, async", peers.aiocache_memcached(HOST, server.port)),
            ]
            seen = times(sides, effort)
            progress(1.0)
            runner.run(cache.aclose())
            runner.run(peers.close())
    return {
        "servers": [server.version],
        "rows": [asdict(row)],
        "peers": {"hit on memcached": [asdict(time) for time in seen]},
    }


def _raw(client: pymemcache.PooledClient) -> Side:
    name, get, unpack = "pymemcache PooledClient get + unpackb", client.get, msgpack.unpackb
    check = all_hits(name, lambda: [unpack(get(KEY))], [value_of(7)], None)
    return plain(name, f"unpack(get({KEY!r}))", check, get=get, unpack=unpack)
