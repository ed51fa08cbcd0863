"""What functions and writes with tags promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .bench import LONG, SHORT, Bench, Promises, promise_of, until
from .stage import PATIENCE, Gate
from .store import Store, raises
from .windowed import Shaky, invalidator, settled


class TagPromises(Promises):
    """The tests of `tags=`."""

    @promise_of("batches")
    def test_tags(self, bench: Bench) -> None:
        """Entries with tags are hits; a tag that is invalidated makes misses of all its entries, and of no others."""
        store, cache = Store(), bench.cache()
        reads = [tagged(bench, store), tagged(bench, store)]
        calls = [(org, row) for org in (1, 2) for row in (1, 2, 3)]
        for _ in range(2):
            assert [bench.call(read, *call) for read in reads for call in calls] == [0] * 12
        assert store.reads == 6
        store.rows = dict.fromkeys(calls, "new")
        bench.call(lambda: invalidator(bench, cache)(tags=["org:1"]))
        for _ in range(2):
            found = [bench.call(read, *call) for read in reads for call in calls]
            assert found == (["new"] * 3 + [0] * 3) * 2
        assert store.reads == 9
        bench.call(lambda: invalidator(bench, cache)(reads[0].key(2, 1), tags=["none"]))
        assert [bench.call(reads[1], *call) for call in calls] == ["new"] * 4 + [0] * 2

    @promise_of("batches")
    def test_several_tags(self, bench: Bench) -> None:
        """Each of several tags does it; one that is the same for all entries too."""
        store, cache = Store(), bench.cache()
        read = tagged(bench, store, tags=("org:{org}", "row:{row}", "all"))
        calls = [(org, row) for org in (1, 2) for row in (1, 2)]
        for tag, gone in (("org:1", calls[:2]), ("row:2", calls[1::2]), ("all", calls)):
            before = [bench.call(read, *call) for call in calls]
            store.rows = dict.fromkeys(calls, tag)
            bench.call(lambda tag=tag: invalidator(bench, cache)(tags=[tag]))
            after = [tag if call in gone else value for call, value in zip(calls, before, strict=True)]
            assert [bench.call(read, *call) for call in calls * 2] == after * 2

    @promise_of("batches")
    def test_invalidates_tags(self, bench: Bench) -> None:
        """A write turns its tags, made of its arguments or its result, when it has returned, and when it has raised."""
        store, cache = Store(), bench.cache()
        read = tagged(bench, store)

        def write(org: int, row: int, value: Any) -> dict[str, int]:
            store.rows[(org, row)] = value
            return {"number": org}

        def fail(org: int, row: int, value: Any) -> None:
            store.write_and_fail((org, row), value)

        tags = ("org:{org}",)
        writes = [
            cache.invalidates(tags=tags)(bench.function(write)),
            cache.invalidates(tags=("org:{result[number]}",))(bench.function(write)),
            cache.invalidates("other:{row}", tags=tags)(bench.function(write)),
            cache.invalidates(tags=tags, strict=True)(bench.function(write)),
        ]
        for value, each in enumerate(writes, 1):
            bench.call(each, 1, 1, value)
            assert [bench.call(read, 1, 1) for _ in range(2)] == [value, value]
        for strict in (False, True):
            each = cache.invalidates(tags=tags, strict=strict)(bench.function(fail))
            assert raises(bench, each, 1, 1, f"failed {strict}") == ((1, 1),)
            assert [bench.call(read, 1, 1) for _ in range(2)] == [f"failed {strict}"] * 2
        with bench.block(cache.invalidating(tags=["org:1"])):
            store.rows[(1, 1)] = "block"
        assert [bench.call(read, 1, 1) for _ in range(2)] == ["block"] * 2
        assert store.reads == len(writes) + 3

    @promise_of("batches")
    def test_strict_tags(self, bench: Bench) -> None:
        """While a strict write to a tag is under way its entries are read from the store, and nothing is stored."""
        store, cache = Store(), bench.cache()
        reads = [tagged(bench, store), tagged(bench, store)]
        for row in (1, 2):
            assert [bench.call(read, org, row) for read in reads for org in (1, 2)] == [0] * 4
        assert store.reads == 4
        with bench.block(cache.invalidating(tags=["org:1"], strict=True)):
            assert [bench.call(read, 1, row) for read in reads for row in (1, 3)] == [0] * 4
            store.rows = {(1, 1): "new", (1, 3): "new"}
            assert [bench.call(read, 1, row) for read in reads for row in (1, 3)] == ["new"] * 4
            assert store.reads == 12
            store.rows = {(1, 1): "newer", (1, 3): "newer"}
            assert [bench.call(read, 2, 1) for read in reads] == [0, 0]
            assert store.reads == 12
        for _ in range(2):
            assert [bench.call(read, 1, row) for read in reads for row in (1, 3)] == ["newer"] * 4
        assert store.reads == 14
        assert sum(read.cache_info().guarded for read in reads) == 8

    @promise_of("batches")
    def test_tag_during_a_load(self, bench: Bench) -> None:
        """A load whose tag is turned, by whatever write, is for its own caller only: who came after it gets the new."""
        for strict in (False, True):
            for same in (True, False):
                store, gate, org = Store(), bench.gate(), f"{strict}{same}"
                slow = tagged(bench, store, gate)
                read = slow if same else tagged(bench, store)
                call = bench.start(slow, org, 1)
                gate.wait_for_load()
                with bench.block(bench.cache().invalidating(tags=[f"org:{org}"], strict=strict)):
                    store.rows[(org, 1)] = "new"
                before = read.cache_info().misses
                followers = [bench.start(read, org, 1) for _ in range(4)]
                until(lambda read=read, before=before: read.cache_info().misses == before + 4, "they have missed")  # type: ignore[misc]
                gate.open()
                assert call.result(PATIENCE) == 0
                assert [each.result(PATIENCE) for each in followers] == ["new"] * 4
                assert [bench.call(each, org, 1) for each in (slow, read)] == ["new"] * 2

    @promise_of("batches")
    def test_write_in_a_strict_tag_during_a_load(self, bench: Bench) -> None:
        """A load that ends while a strict write holds its tag is kept for nobody."""
        store, reading, writing = Store(), bench.gate(), bench.gate()
        slow, read = tagged(bench, store, reading), tagged(bench, store)
        write = bench.cache().invalidates(tags=("org:{org}",), strict=True)(bench.function(writer(store), writing))
        call = bench.start(slow, 1, 1)
        reading.wait_for_load()
        done = bench.start(write, 1, 1, "new")
        writing.wait_for_load()
        reading.open()
        assert call.result(PATIENCE) == 0
        assert [bench.call(each, 1, 1) for each in (slow, read)] == ["new", "new"]
        store.rows[(1, 1)] = "newer"  # a second statement of the write
        writing.open()
        done.result(PATIENCE)
        assert [bench.call(each, 1, 1) for each in (slow, read)] == ["newer", "newer"]

    @promise_of("batches")
    def test_same_key_with_other_tags(self, bench: Bench) -> None:
        """Functions under one key that have other tags, or none, never serve each other's entries."""
        store = Store()
        tags: list[tuple[str, ...]] = [("org:{org}",), ("row:{row}",), ("org:{org}", "row:{row}"), ()]
        reads = [tagged(bench, store, tags=each) for each in tags]
        for value, read in enumerate(reads + reads[::-1][1:], 1):
            store.rows[(1, 1)] = value
            assert [bench.call(read, 1, 1) for _ in range(2)] == [value, value]
        assert store.reads == 7

    @promise_of("batches")
    def test_key_and_tag_of_the_same_text(self, bench: Bench) -> None:
        """A tag and a key may have the same text: neither is taken for the other."""
        store, cache = Store(), bench.cache()
        read = tagged(bench, store, key="org:{org}:{row}", tags=("org:{org}:{row}",))
        assert [bench.call(read, 1, 1) for _ in range(2)] == [0, 0]
        for drop in ({"tags": ["org:1:1"]}, {}):
            store.rows[(1, 1)] = value = str(drop)
            texts = () if drop else ("org:1:1",)
            bench.call(lambda texts=texts, drop=drop: invalidator(bench, cache)(*texts, **drop))
            assert [bench.call(read, 1, 1) for _ in range(2)] == [value, value]
        assert store.reads == 3

    @promise_of("batches")
    def test_tags_and_windows(self, bench: Bench) -> None:
        """An old value is served and refreshed as long as no tag of it has been turned, and not after that."""
        if "claims" in bench.capabilities:
            store = Shaky()
            windows: dict[str, Any] = {"stale_while_revalidate": LONG, "stale_if_error": LONG}
            short, read = tagged(bench, store, ttl=SHORT, **windows), tagged(bench, store, **windows)
            for row in (1, 2):
                bench.call(short, 1, row)
            store.rows[(1, 1)] = "new"
            bench.advance(SHORT)
            assert bench.call(read, 1, 1) == 0
            until(lambda: bench.call(read, 1, 1) == "new", "it is refreshed")
            settled(read)
            store.broken = True
            bench.call(lambda: invalidator(bench, bench.cache())(tags=["org:1"]))
            assert [raises(bench, read, 1, row) for row in (1, 2)] == [((1, 1),), ((1, 2),)]
            assert (read.cache_info().refreshes, read.cache_info().rescued) == (1, 0)

    @promise_of("batches")
    def test_tag_during_a_refresh(self, bench: Bench) -> None:
        """A refresh whose tag is turned meanwhile is served to nobody."""
        if "claims" in bench.capabilities:
            store, gate = Store(), bench.gate()
            short = tagged(bench, store, ttl=SHORT, stale_while_revalidate=LONG)
            slow, read = [tagged(bench, store, held, stale_while_revalidate=LONG) for held in (gate, None)]
            bench.call(short, 1, 1)
            bench.advance(SHORT)
            assert bench.call(slow, 1, 1) == 0
            gate.wait_for_load()
            with bench.block(bench.cache().invalidating(tags=["org:1"])):
                store.rows[(1, 1)] = "new"
            assert bench.call(read, 1, 1) == "new"
            gate.open()
            settled(slow)
            assert [bench.call(each, 1, 1) for each in (slow, read)] == ["new", "new"]


def tagged(bench: Bench, store: Store, gate: Gate | None = None, **options: Any) -> Any:
    """A cached read with a tag, in a process of its own as it were."""

    def read(org: Any, row: Any) -> Any:
        return store.read((org, row))

    options = {"key": "{org}:{row}", "ttl": LONG, "tags": ("org:{org}",), **options}
    return bench.cache().cached(**options)(bench.function(read, gate))


def writer(store: Store) -> Callable[[Any, Any, Any], None]:
    """A write of a row of an org."""

    def write(org: Any, row: Any, value: Any) -> None:
        store.rows[(org, row)] = value

    return write
