"""Part "hit": a hit in memory, beside the peers; and what an entry takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cachetools

from cacheside import Cache
from cacheside.progress import Progress

from . import footprint, peers
from .effort import Effort
from .measure import Row, compare, times
from .peers import ENTRIES, TTL, Decorator
from .sides import Loads, Side, all_hits, awaited, plain, threaded

KEYS = range(1000)
THREADS = 4
TOGETHER = 0.05  # seconds at least that threads run in a round: they take turns every 5 ms


@dataclass(frozen=True)
class Item:
    """An argument that is a frozen dataclass."""

    number: int
    colour: str
    size: int


TUPLE = (7, "blue", 42)


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure all of it."""
    rows: list[Row] = []
    with asyncio.Runner() as runner:
        makers: list[Callable[[Effort], Row]] = [*_plain_rows(), lambda effort: _async_row(runner, effort)]
        for number, make in enumerate(makers):
            rows.append(make(effort))
            progress(0.6 * (number + 1) / len(makers))
        sync = times([_two_ints(name, make(ENTRIES)) for name, make in peers.SYNC.items()], effort)
        progress(0.7)
        tasks = times([_awaited(runner, name, make(ENTRIES)) for name, make in peers.ASYNC.items()], effort)
        progress(0.8)
    bytes_each = footprint.measure(effort, lambda done: progress(0.8 + 0.2 * done))
    return {
        "rows": [asdict(row) for row in rows],
        "peers": {
            "sync hit, 2 ints": [asdict(time) for time in sync],
            "async hit, 2 ints": [asdict(time) for time in tasks],
        },
        "footprint": bytes_each,
    }


def _plain_rows() -> list[Callable[[Effort], Row]]:
    """All rows but the async one."""
    cachebox = "cachebox.cached(TTLCache)"

    def beside(name: str, ours: Side, other: Side, at_most: float | None, sample: float = 0.0) -> Callable[..., Row]:
        return lambda effort: compare(name, ours, other, effort, at_most, sample)

    return [
        beside("memory, sync, default key, 2 ints", _ours(), _two_ints(cachebox, peers.cachebox(ENTRIES)), 0.5),
        beside(
            "memory, sync, default key, 2 ints", _ours(),
            _two_ints("functools.lru_cache", peers.lru_cache(ENTRIES)), 3.0,
        ),
        beside(
            "memory, sync, template of 2 ints", _two_ints("cacheside", peers.cacheside_template(ENTRIES)),
            _two_ints(cachebox, peers.cachebox(ENTRIES)), 0.55,
        ),
        beside(
            "memory, sync, template of 2 strings", _two_strings("cacheside", peers.cacheside_template(ENTRIES)),
            _two_strings(cachebox, peers.cachebox(ENTRIES)), 0.55,
        ),
        *[
            beside(
                f"memory, sync, default key holding a {kind}", _whole("cacheside", peers.cacheside(ENTRIES), value),
                _whole(f"{cachebox}, the same as a tuple", peers.cachebox(ENTRIES), TUPLE), 4.0,
            )
            for kind, value in (("tuple", TUPLE), ("list", list(TUPLE)), ("frozen dataclass", Item(*TUPLE)))
        ],
        beside("memory, a method on an instance", _method(Shop), _method(ShopOfCachetools), 0.5),
        beside(
            "memory, a method on an instance, its id in the key", _method(ShopWithId), _method(ShopOfCachetools), 0.5
        ),
        beside(
            "memory, 4 threads over 1,000 keys", _threads("cacheside", peers.cacheside(ENTRIES)),
            _threads("cachetools TTLCache with lock", peers.cachetools(ENTRIES)), 0.15, TOGETHER,
        ),
        beside(
            "memory, sync, default key, 1,000 keys in turn", _in_turn("cacheside", peers.cacheside(ENTRIES)),
            _in_turn(cachebox, peers.cachebox(ENTRIES)), None,
        ),
    ]  # fmt: skip


def _async_row(runner: asyncio.Runner, effort: Effort) -> Row:
    ours = _awaited(runner, "cacheside", peers.cacheside(ENTRIES))
    other = _awaited(runner, "cachebox.cached(TTLCache), async", peers.cachebox(ENTRIES))
    return compare("memory, async, default key, 2 ints", ours, other, effort, 0.55)


def _ours() -> Side:
    return _two_ints("cacheside", peers.cacheside(ENTRIES))


def _two_ints(name: str, decorate: Decorator) -> Side:
    loads = Loads()

    def load(a: int, b: int) -> int:
        loads.add()
        return a * 1000 + b

    f = decorate(load)
    return plain(name, "f(1, 2)", all_hits(name, lambda: [f(1, 2)], [1002], loads), f=f)


def _two_strings(name: str, decorate: Decorator) -> Side:
    loads = Loads()

    def load(a: str, b: str) -> str:
        loads.add()
        return a + b

    f = decorate(load)
    check = all_hits(name, lambda: [f("blue", "large")], ["bluelarge"], loads)
    return plain(name, "f('blue', 'large')", check, f=f)


def _in_turn(name: str, decorate: Decorator) -> Side:
    loads = Loads()

    def load(a: int, b: int) -> int:
        loads.add()
        return a * 1000 + b

    f = decorate(load)
    pairs = [(7, key) for key in KEYS]
    check = all_hits(name, lambda: [f(a, b) for a, b in pairs], [7000 + key for key in KEYS], loads)
    return plain(name, "for a, b in pairs: f(a, b)", check, len(pairs), f=f, pairs=pairs)


def _whole(name: str, decorate: Decorator, value: Any) -> Side:
    """The one argument is a whole that has parts."""
    loads = Loads()

    def load(items: Any) -> str:
        loads.add()
        return "found"

    f = decorate(load)
    return plain(name, "f(value)", all_hits(name, lambda: [f(value)], ["found"], loads), f=f, value=value)


def _threads(name: str, decorate: Decorator) -> Side:
    loads = Loads()

    def load(number: int) -> int:
        loads.add()
        return number * 3

    f = decorate(load)
    check = all_hits(name, lambda: [f(key) for key in KEYS], [key * 3 for key in KEYS], loads)
    return threaded(name, f, KEYS, THREADS, check)


def _awaited(runner: asyncio.Runner, name: str, decorate: Decorator) -> Side:
    loads = Loads()

    async def load(a: int, b: int) -> int:
        loads.add()
        return a * 1000 + b

    f = decorate(load)

    async def once() -> list[int]:
        return [await f(1, 2)]

    return awaited(runner, name, "await f(1, 2)", all_hits(name, lambda: runner.run(once()), [1002], loads), f=f)


class Shop:
    """Its cached read is the same for all instances, so the template leaves `self` out."""

    name = "cacheside"
    _cache = Cache(f"memory://?max_entries={ENTRIES}", ttl=TTL)

    def __init__(self, loads: Loads) -> None:
        self.id = 7
        self.loads = loads

    @_cache.cached("user:{user_id}")
    def get(self, user_id: int) -> str:
        """One user."""
        self.loads.add()
        return f"user {user_id}"


class ShopWithId:
    """Its cached read differs by instance."""

    name = "cacheside"
    _cache = Cache(f"memory://?max_entries={ENTRIES}", ttl=TTL)

    def __init__(self, loads: Loads) -> None:
        self.id = 7
        self.loads = loads

    @_cache.cached("{self.id}:user:{user_id}")
    def get(self, user_id: int) -> str:
        """One user."""
        self.loads.add()
        return f"user {user_id}"


class ShopOfCachetools:
    """Each instance has a cache."""

    name = "cachetools.cachedmethod, TTLCache, lock"

    def __init__(self, loads: Loads) -> None:
        self.loads = loads
        self.cache: cachetools.TTLCache[Any, str] = cachetools.TTLCache(ENTRIES, TTL)
        self.lock = threading.Lock()

    @cachetools.cachedmethod(lambda self: self.cache, lock=lambda self: self.lock)
    def get(self, user_id: int) -> str:
        """One user."""
        self.loads.add()
        return f"user {user_id}"


def _method(kind: type[Shop | ShopWithId | ShopOfCachetools]) -> Side:
    loads = Loads()
    shop = kind(loads)
    return plain(kind.name, "shop.get(7)", all_hits(kind.name, lambda: [shop.get(7)], ["user 7"], loads), shop=shop)
