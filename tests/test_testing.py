"""`cacheside.testing`: the clock, the switch, and whether the conformance suite would notice a broken backend."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading

import broken_backends
import broken_claims
import broken_scopes
import pytest
from servers import MemcachedServer

from cacheside import MISSING, Cache
from cacheside.backends.memcached import MemcachedBackend
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import BackendConformance, FakeClock, Subject, disabled
from cacheside.testing.batches import BatchPromises
from cacheside.testing.claims import ClaimPromises
from cacheside.testing.guards import GuardPromises
from cacheside.testing.scopes import ScopePromises
from cacheside.testing.strict import StrictPromises
from cacheside.testing.updates import UpdatePromises

# --- FakeClock ---


def test_clock_advances() -> None:
    """Time stands still, but for what it is advanced by."""
    clock = FakeClock(5)
    assert (clock(), clock()) == (5, 5)
    clock.advance(0.5)
    clock.advance(0)
    assert clock() == 5.5
    assert FakeClock()() == 1_000_000.0


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_clock_never_goes_back(seconds: float) -> None:
    """What a real clock cannot do, this one refuses to do."""
    clock = FakeClock()
    with pytest.raises(ValueError, match="0 or more"):
        clock.advance(seconds)
    assert clock() == FakeClock()()


def reads_after(cache: Cache, clock: FakeClock, *steps: float) -> list[int]:
    """How often the store has been read after each step of the clock, by a function with a ttl of 60 seconds."""
    reads: list[None] = []

    @cache.cached(key="k", ttl=60)
    def read() -> None:
        reads.append(None)

    read()
    counts = []
    for step in steps:
        clock.advance(step)
        read()
        counts.append(len(reads))
    return counts


def test_clock_of_a_memory_cache() -> None:
    """A cache in this process expires by the clock, given to it or to its backend."""
    clock = FakeClock()
    for cache in (Cache("memory://", clock=clock), Cache(MemoryBackend(clock=clock))):
        assert reads_after(cache, clock, 59.9, 0.2, 59.9, 0.2) == [1, 2, 2, 3]


def test_clock_of_memcached(memcached_server: MemcachedServer, namespace: str) -> None:
    """Entries on memcached expire to the moment by the clock, whatever the server's own says."""
    clock = FakeClock()
    with Cache(MemcachedBackend([memcached_server.address], timeout=5), namespace=namespace, clock=clock) as cache:
        assert reads_after(cache, clock, 59.9, 0.2, 59.9, 0.2) == [1, 2, 2, 3]


# --- disabled ---


class Numbers:
    """A store with a cached read in each colour, and a write."""

    def __init__(self) -> None:
        self.value = 0
        self.reads = 0
        cache = Cache("memory://")

        @cache.cached(key="plain")
        def read() -> int:
            self.reads += 1
            return self.value

        @cache.cached(key="async")
        async def aread() -> int:
            self.reads += 1
            return self.value

        @cache.invalidates("plain", "async")
        def write(value: int) -> None:
            self.value = value

        self.read, self.aread, self.write = read, aread, write


def test_disabled() -> None:
    """Inside the block every call reads the store, and nothing is stored; after it what was cached before is."""
    numbers = Numbers()
    assert numbers.read() == 0
    numbers.value = 1
    with disabled():
        assert [numbers.read(), numbers.read()] == [1, 1]
    assert numbers.read() == 0
    assert numbers.reads == 3


def test_disabled_async() -> None:
    """It is a plain `with` around async code."""
    numbers = Numbers()

    async def main() -> list[int]:
        found = [await numbers.aread()]
        numbers.value = 1
        with disabled():
            found += [await numbers.aread(), *await asyncio.gather(numbers.aread(), numbers.aread())]
        return [*found, await numbers.aread()]

    assert asyncio.run(main()) == [0, 1, 1, 1, 0]
    assert numbers.reads == 4


def test_disabled_everywhere() -> None:
    """It holds in all threads of the process, and for caches made inside the block."""
    numbers, found = Numbers(), []
    numbers.read()
    numbers.value = 1
    with disabled():
        thread = threading.Thread(target=lambda: found.append(numbers.read()))
        thread.start()
        thread.join()
        inside = Numbers()
        inside.read()
        inside.read()
    assert found == [1]
    assert inside.reads == 2


def test_disabled_still_invalidates() -> None:
    """A write inside the block drops the entry, so that nothing stale is found after it; `invalidate` does too."""
    numbers = Numbers()
    numbers.read()
    with disabled():
        numbers.write(1)
    assert numbers.read() == 1
    numbers.value = 2
    with disabled():
        numbers.read.invalidate()
    assert numbers.read() == 2
    asyncio.run(numbers.aread())
    numbers.value = 3
    with disabled():
        asyncio.run(numbers.aread.invalidate())
    assert asyncio.run(numbers.aread()) == 3


def test_disabled_verbs() -> None:
    """Inside the block there is nothing to peek at, and a known value is not taken; what was cached before stays."""
    numbers = Numbers()
    numbers.read()
    asyncio.run(numbers.aread())
    with disabled():
        assert (numbers.read.peek(), numbers.read.set(5)) == (MISSING, False)
        assert (asyncio.run(numbers.aread.peek()), asyncio.run(numbers.aread.set(5))) == (MISSING, False)
    assert (numbers.read.peek(), asyncio.run(numbers.aread.peek())) == (0, 0)


def test_disabled_nests() -> None:
    """Caching is on again only after the outermost block."""
    numbers = Numbers()
    with disabled():
        with disabled():
            numbers.read()
        assert [numbers.read(), numbers.read()] == [0, 0]
    assert numbers.reads == 3
    assert [numbers.read(), numbers.read()] == [0, 0]
    assert numbers.reads == 4


def test_disabled_blocks_overlap() -> None:
    """Blocks in two threads need not end in the order in which they began."""
    numbers, first, second = Numbers(), disabled(), disabled()
    first.__enter__()
    thread = threading.Thread(target=second.__enter__)
    thread.start()
    thread.join()
    first.__exit__(None, None, None)
    assert [numbers.read(), numbers.read(), numbers.reads] == [0, 0, 2]
    second.__exit__(None, None, None)
    assert [numbers.read(), numbers.read(), numbers.reads] == [0, 0, 3]


def test_disabled_ends_with_an_error() -> None:
    """A block that raises ends as well, and its error passes."""
    numbers = Numbers()
    with pytest.raises(LookupError, match="mine"), disabled():
        raise LookupError("mine")
    assert [numbers.read(), numbers.read(), numbers.reads] == [0, 0, 1]


# --- the conformance suite ---


MUTANTS = [*broken_backends.MUTANTS, *broken_claims.MUTANTS, *broken_scopes.MUTANTS]
PROMISES = sorted(name for name in dir(BackendConformance) if name.startswith("test_"))


def check(name: str, kind: type[MemoryBackend], colour: str) -> None:
    """Run one test of the suite by hand."""
    clock = FakeClock()
    getattr(BackendConformance(), name)(Subject(kind(clock=clock), clock.advance), colour)


@pytest.mark.parametrize("colour", BackendConformance.colours)
@pytest.mark.parametrize(("mutant", "name"), MUTANTS)
def test_suite_has_teeth(mutant: type[MemoryBackend], name: str, colour: str) -> None:
    """A backend with one thing wrong breaks the promise that speaks of it; one in good health keeps it."""
    check(name, MemoryBackend, colour)
    with pytest.raises(AssertionError):
        check(name, mutant, colour)


def test_every_promise_about_writes_has_teeth() -> None:
    """No test of guards, writes, transactions, claims, batches and tags is there that no broken backend fails."""
    ours = {
        name
        for part in (GuardPromises, UpdatePromises, ClaimPromises, BatchPromises, StrictPromises, ScopePromises)
        for name in vars(part)
        if name.startswith("test_")
    }
    assert ours - {name for _, name in MUTANTS} == set()


@pytest.mark.parametrize("name", PROMISES)
def test_suite_says_what_it_checks(name: str) -> None:
    """Each test of the suite has a docstring for who fails it, and takes what pytest can give."""
    test = getattr(BackendConformance, name)
    assert test.__doc__
    assert list(inspect.signature(test).parameters) == ["self", "subject", "colour"]


def test_suite_hides_no_test() -> None:
    """No test of one part of the suite has the name of a test of another, which would run instead of it."""
    names = [name for part in BackendConformance.__mro__ for name in vars(part) if name.startswith("test_")]
    assert sorted(names) == PROMISES


def test_import_is_light() -> None:
    """Importing `cacheside.testing` needs no pytest, and neither server library."""
    heavy = {"pytest", "_pytest", "redis", "pymemcache", "asyncio", "concurrent.futures"}
    code = f"import sys, cacheside.testing; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
