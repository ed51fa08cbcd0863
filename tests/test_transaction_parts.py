"""What integrations build on: transactions found by arguments, what they have written, recorders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest
from recorder import Recorder
from transaction_rows import Rows

from cacheside import Cache, scopes
from cacheside.transactions import Transaction


@pytest.fixture
def backend() -> Recorder:
    """Tells what was invalidated."""
    return Recorder()


@pytest.fixture
def rows(backend: Recorder) -> Iterator[Rows]:
    """A store. At the end of the test no key may count as being changed."""
    made = Rows(Cache(backend))
    yield made
    assert made.held() == []


@pytest.fixture
def find() -> Iterator[list[Any]]:
    """Transactions that every write finds by its arguments, as integrations do."""
    found: list[Any] = []

    def finder(values: Mapping[str, Any]) -> list[Any]:
        return found

    scopes.finders.append(finder)
    yield found
    scopes.finders.remove(finder)


def begin_elsewhere(transaction: Transaction) -> None:
    """Begin it in another context, so that it is only found by arguments."""
    copy_context().run(transaction.begin)


@pytest.mark.parametrize("writing", [True, False])
def test_transaction_that_has_written_nothing(rows: Rows, backend: Recorder, find: list[Any], writing: bool) -> None:
    """Where none has written anything, the write was made by another way, and is delivered at once as well."""
    session = Transaction(writing=lambda: writing)
    begin_elsewhere(session)
    find.append(session)
    rows.write(1, "new")
    assert backend.dropped == ([] if writing else ["row:1"])
    session.finish()
    assert backend.dropped == ["row:1"] * (1 if writing else 2)


def test_several_transactions(rows: Rows, backend: Recorder, find: list[Any]) -> None:
    """Of several sessions each delivers at its own end, whichever it was that wrote; a rollback drops its own only."""
    sessions = [Transaction(writing=partial(bool, answer)) for answer in (True, False, True)]
    for session in sessions:
        begin_elsewhere(session)
    find += sessions
    rows.write(1, "new")
    assert backend.dropped == []
    sessions[0].finish()
    assert backend.dropped == ["row:1"]
    asyncio.run(sessions[1].afinish(rolled_back=True))
    assert backend.dropped == ["row:1"]
    sessions[2].finish()
    assert backend.dropped == ["row:1"] * 2


def test_commit_inside_a_write(rows: Rows, backend: Recorder, find: list[Any]) -> None:
    """A write that commits a transaction of its own is delivered at its end, though another session is open."""
    session = Transaction()
    begin_elsewhere(session)
    find.append(session)

    def commits() -> None:
        own = Transaction()
        own.begin()
        own.finish()

    rows.writing = commits
    rows.write(1, "new")
    assert backend.dropped == ["row:1"]
    session.finish(rolled_back=True)
    assert backend.dropped == ["row:1"]


def test_transaction_that_ends_during_a_write(rows: Rows, backend: Recorder, find: list[Any]) -> None:
    """A write whose transaction ends, in another thread, just as it does is held by the one around that."""

    class Ends(Transaction):
        def hold(self, *args: Any) -> bool:
            self.finish()
            return super().hold(*args)

    outer = Transaction()
    inner = Ends([outer])
    for each in (outer, inner):
        begin_elsewhere(each)
    find.append(inner)
    rows.write(1, "new")
    assert backend.dropped == []
    outer.finish()
    assert backend.dropped == ["row:1"]


def test_known_value_in_a_transaction(rows: Rows) -> None:
    """What `.set` is given inside a transaction that has written, in whatever way, may be uncommitted: refused."""

    class HasWritten(Transaction):
        def changes(self, core: Any, key: str) -> bool:
            return True

    cache = Cache("memory://")
    read = cache.cached("row:{row}")(rows.load)
    block = HasWritten()
    with block:
        assert read.set("never", 1) is False
    assert read(1) == "old"
    assert read.set("known", 1) is True


def test_closed_before_its_end(rows: Rows, backend: Recorder) -> None:
    """A transaction that an integration closes in a hurry, and ends later, leaves nothing behind; nor do two ends."""
    session = Transaction()
    session.begin()
    rows.write(1, "new")
    session.open = False
    session.finish()
    assert (backend.dropped, rows.held()) == (["row:1"], [])
    with rows.cache.transaction():
        rows.write(1, "newer")
        session.finish()
        assert rows.held() == ["row:1"]


def test_keys_that_no_client_can_tell() -> None:
    """Where a cache lacks a client of the colour all keys of a delivery are pending, though one of them was before."""
    pytest.importorskip("redis")
    import redis.asyncio

    from cacheside import telling
    from cacheside.backends.redis import RedisBackend
    from cacheside.scopes import Delivery

    core = Cache(RedisBackend(aclient=redis.asyncio.Redis(port=1)))._core
    core.undelivered({"a": None})
    (failure,) = telling.deliver([Delivery(core, {"a": None, "b": None}, {}, 0.0)])
    assert "has only an async client" in str(failure)
    assert core.pending.blocks("b")


class Notes:
    """A recorder that notes its calls, and fails if it is told to."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails = False

    def record(self, core: Any, keys: Any) -> None:
        self.calls.append(sorted(keys))
        if self.fails:
            raise LookupError("the table is gone")

    def delivered(self) -> None:
        self.calls.append("delivered")


def test_recorder(rows: Rows, backend: Recorder) -> None:
    """A recorder is told of the keys as each write ends, and once more when all have been delivered."""
    notes = Notes()
    with Transaction(recorder=notes):
        rows.write(1, "new")
        assert notes.calls == [["row:1"]]
        with rows.cache.transaction():
            rows.write(2, "new")
        assert notes.calls == [["row:1"], ["row:2"]]
    assert notes.calls == [["row:1"], ["row:2"], "delivered"]
    assert sorted(backend.dropped) == ["row:1", "row:2"]


@pytest.mark.parametrize("nested", [False, True])
def test_recorder_that_fails(rows: Rows, backend: Recorder, nested: bool) -> None:
    """What a recorder raises reaches the write, or the end of a nested block; what it was told of is not lost."""
    notes = Notes()
    notes.fails = True
    with Transaction(recorder=notes):
        with pytest.raises(LookupError), rows.cache.transaction() if nested else contextlib.nullcontext():
            rows.write(1, "new")
        assert rows.cache.stats().pending == 1
    assert "row:1" in backend.dropped
