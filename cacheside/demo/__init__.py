"""``cacheside demo``: real traffic on a real store, and proof that no read was stale.

products.py    the example: a repository with cached reads and an invalidating write
stores.py      builds the store it reads from; postgres.py the same on PostgreSQL
traffic.py     threads and tasks that read and write, and the check of each read
latency.py     the wait of one caller, with and without the cache
stampede.py    a thousand callers on one cold key
figures.py     what came out; view.py shows it
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TypeAlias

from .. import Cache, CacheUnavailable, ConfigurationError, configure
from ..backends import urls
from ..latencies import Latency
from ..progress import Progress
from . import latency, stampede
from .figures import Figures
from .products import Product, Products
from .stores import ROWS, Store, open_store
from .traffic import Oracle, Tally, Traffic

PATIENCE = 3.0  # seconds

Phases: TypeAlias = Callable[[str], Progress]
"""Is told the name of each phase as it begins; gives what is told of its progress."""


def run(cache_url: str, store_url: str, seconds: float, phase: Phases) -> Figures:
    """Run the whole demo. It sets the default cache of this process.

    Args:
        cache_url: as `Cache` takes it. Entries go into a namespace of their own, and live a minute at most.
        store_url: see `stores.open_store`.
        seconds: about how long all of it takes; the fixed parts need two to three of them.
        phase: see `Phases`.

    Raises:
        CachesideError: a URL that cannot work, a server that does not answer, a missing package.
    """
    began = time.monotonic()
    # A thousand callers keep this very process busy: the server gets more time than usual, or what the URL says.
    options = {} if "timeout" in urls.split(cache_url)[1] else {"timeout": PATIENCE}
    cache = configure(cache_url, namespace=f"cacheside-demo-{uuid.uuid4().hex}", **options)
    make_sure_of(cache)
    with cache, cleared(cache), open_store(store_url, phase("building the store")) as store:
        products, oracle = Products(store), Oracle()

        async def leave() -> None:
            await cache.aclose()
            await store.aclose()

        seen = Traffic(products, oracle, leave).run(seconds * 0.55, phase("reading and writing"))
        totals = cache.stats().totals  # before anything else is counted
        cached, uncached, seen_alone = latency.measure(products, oracle, seconds * 0.15, phase("measuring latency"))
        seen.update(seen_alone)

        progress = phase("two stampedes")
        of_threads = stampede.of_threads(products)
        progress(0.5)
        of_tasks = stampede.of_tasks(products, leave)
        progress(1.0)

        wrong = differing(products, store, seen, phase("comparing with the store"))

    calls = totals.hits + totals.misses
    return Figures(
        cache=urls.masked(cache_url),
        store=urls.masked(store_url),
        rows=ROWS,
        seconds=round(time.monotonic() - began, 2),
        calls=calls,
        writes=seen.writes,
        hit_rate=round(totals.hit_rate, 4),
        store_reads=totals.loads,
        store_reads_saved=calls - totals.loads,
        coalesced=totals.coalesced,
        refused=totals.refused,
        errors=cache.stats().totals.errors,
        latency_with_cache=Latency.of(cached),
        latency_without_cache=Latency.of(uncached),
        stampede_of_threads=of_threads,
        stampede_of_tasks=of_tasks,
        stale_reads=seen.stale_reads + wrong,
        reads_checked=seen.reads,
        entries_checked=len(seen.products),
    )


def make_sure_of(cache: Cache) -> None:
    """That the cache answers, in both colours: a demo of a dead one is of no use.

    Raises:
        CacheUnavailable: it does not.
        ConfigurationError: its backend has one colour only.
    """
    core = cache._core
    core.require(sync=True)
    core.require(sync=False)
    if core.backend is not None:
        try:
            core.backend.invalidate([f"{core.prefix}anything"])  # its Cache would count the error, and raise nothing
        except CacheUnavailable as error:
            raise CacheUnavailable(f"the cache {core.label} does not answer: {error}") from error


def differing(products: Products, store: Store, seen: Tally, progress: Progress) -> int:
    """How many of the products that were read or written differ, read through the cache, from what the store has."""
    rows = {row[0]: Product(*row) for row in store.rows()}
    wrong = 0
    for done, product_id in enumerate(seen.products):
        wrong += products.get(product_id) != rows[product_id]
        if done % 100 == 0:
            progress(done / len(seen.products))
    progress(1.0)
    return wrong


@contextlib.contextmanager
def cleared(cache: Cache) -> Iterator[None]:
    """Drop the entries at the end of the block, where the server can; elsewhere they expire."""
    try:
        yield
    finally:
        with contextlib.suppress(ConfigurationError, CacheUnavailable):
            cache.clear()
