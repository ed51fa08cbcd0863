"""Ties invalidations to the transactions of Django's connections.

Django tells of a commit (`on_commit`), but of no beginning and no rollback, so a *tie* stands before seven methods of
each connection, on the instance, from the moment it is connected. From them it knows when a `Block` begins, what was
rolled back, and when the commit is done: the cache is told then, before any `on_commit` hook of the application runs,
so that a task that such a hook starts elsewhere finds nothing old. Each invalidation is registered with `on_commit` as
well: Django drops it from there with the savepoint it was made in, and `TestCase.captureOnCommitCallbacks` finds it.

A block is found in two ways: by the thread, whose connections Django knows; and by the context, for async code that is
called from inside it (`async_to_sync`), which runs in another thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from django.db import connections
from django.db.backends.signals import connection_created

from ... import scopes
from ...core import Core
from .blocks import Block
from .records import Records

_TIE = "_cacheside_tie"  # the attribute of a connection
_WORD = re.compile(r"[\s(]*(\w+)")
_WRITES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE"})
_READS = frozenset({"SELECT", "BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK", "SET", "SHOW", "EXPLAIN", "PRAGMA"})


class Tie:
    """What stands before the methods of one connection. As the connection it is one thread's at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._block: Block | None = None
        self._old = False
        self._undoing = False  # in `savepoint_rollback`
        self._records = Records(connection)
        self._commit: Callable[[], None] = connection.commit
        self._rollback: Callable[[], None] = connection.rollback
        self._close: Callable[[], None] = connection.close
        self._savepoint: Callable[[], str | None] = connection.savepoint
        self._savepoint_commit: Callable[[str | None], None] = connection.savepoint_commit
        self._savepoint_rollback: Callable[[str | None], None] = connection.savepoint_rollback
        self._set_autocommit: Callable[..., None] = connection.set_autocommit
        connection.commit = self.commit
        connection.rollback = self.rollback
        connection.close = self.close
        connection.savepoint = self.savepoint
        connection.savepoint_commit = self.savepoint_commit
        connection.savepoint_rollback = self.savepoint_rollback
        connection.set_autocommit = self.set_autocommit
        # The first, as `connection.execute_wrapper` takes away the last, and may have been entered already.
        connection.execute_wrappers.insert(0, self.execute)

    def connected(self) -> None:
        """It has been connected, or connected anew."""
        self._old = _reads_old(self._connection)

    def block(self) -> Block | None:
        """The transaction that is open on the connection, if there is one."""
        connection = self._connection
        if connection.connection is None or connection.closed_in_transaction or connection.autocommit:
            return None
        if self._block is None:
            self._block = Block(connection, self._old)
            self._block.begin()
        return self._block

    def set_autocommit(self, autocommit: bool, *args: Any, **options: Any) -> None:
        """Off: a block begins, Django's or one by hand. On: it has ended, and databases commit what was open."""
        connection = self._connection
        block = self._block if autocommit and not connection.in_atomic_block else None
        if block is not None and block.dirty:
            self._record(block)
        try:
            self._set_autocommit(autocommit, *args, **options)
        finally:
            # Also if a hook of the application's has raised, which is called when it is on already.
            if autocommit and connection.autocommit:
                self._end(real=True)
                if block is not None and block.dirty:
                    self._records.delivered()
                self._records.remove()
        if not autocommit:
            self.block()

    def commit(self) -> None:
        """Commit, and deliver; also if it failed, which does not prove that nothing was committed."""
        connection = self._connection
        block = self.block()
        if connection.in_atomic_block or block is None:  # Django forbids it, or there is nothing to tell of
            self._commit()
            return
        connection.validate_thread_sharing()
        if block.dirty:
            self._record(block)
        try:
            self._commit()
        except BaseException:
            self._end(real=True, certain=False)
            raise
        self._end(real=True)
        if block.dirty:
            self._records.delivered()

    def rollback(self) -> None:
        """Roll back, and forget."""
        self._rollback()
        self._end(real=False)

    def close(self) -> None:
        """Close, and forget: the database rolls back what was open."""
        try:
            self._close()
        finally:
            if self._connection.connection is None or self._connection.closed_in_transaction:
                self._end(real=False)

    def savepoint(self) -> str | None:
        """Make a savepoint, and note what is held before it."""
        sid = self._savepoint()
        block = self.block()
        if sid is not None and block is not None:
            block.savepoint(sid)
        return sid

    def savepoint_commit(self, sid: str | None) -> None:
        """Release a savepoint."""
        self._savepoint_commit(sid)
        if sid is not None and self._block is not None:
            self._block.release(sid)

    def savepoint_rollback(self, sid: str | None) -> None:
        """Roll back to a savepoint, and forget what was held since."""
        self._undoing = True
        try:
            self._savepoint_rollback(sid)
        finally:
            self._undoing = False
        if sid is not None and self._block is not None:  # as where the database has none, or SQLite outside of `atomic`
            self._block.roll_back_to(sid)

    def execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """See `connection.execute_wrapper`: notes whether the block writes, or something is committed without one.

        What is doubtful counts as no write of the block, and as a commit without one: the worst of it is that the cache
        is told once more than it need be. A rollback by SQL does not say of which writes, and a statement that fails
        may have rolled back all of them (a deadlock on MySQL): then no value that is held goes in.
        """
        found = _WORD.match(sql) if isinstance(sql, str) else None
        word = "" if found is None else found[1].upper()
        block = self.block()
        if word in ("SET", "PRAGMA") and _makes_old(sql.upper()):
            self._old = True
            if block is not None:
                block.old = True
        if block is None:
            if word not in _READS:
                scopes.committed()
            return execute(sql, params, many, context)
        if word not in _READS:
            block.dirty = True
        try:
            answer = execute(sql, params, many, context)
        except BaseException:
            block.doubt()
            raise
        if word in _WRITES:
            block.wrote = True
        elif not self._undoing and _rolls_back(word, sql):
            block.doubt()
        return answer

    def _record(self, block: Block) -> None:
        """It is about to be committed."""
        block.hold_around()
        self._records.write(block)

    def _end(self, real: bool, certain: bool = True) -> None:
        block, self._block = self._block, None
        if block is not None:
            block.end(real, certain)


def _reads_old(connection: Any) -> bool:
    """Whether transactions on it read from a snapshot, and not what is committed at each statement."""
    if connection.vendor == "sqlite":
        return bool(connection.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")
    level = getattr(connection, "isolation_level", "read committed")  # a text on MySQL, an enum on PostgreSQL
    return getattr(level, "name", level) not in ("read committed", "READ_COMMITTED", "READ_UNCOMMITTED")


def _makes_old(sql: str) -> bool:
    """Whether a statement, in capitals, makes transactions read from a snapshot."""
    return ("ISOLATION" in sql and "READ COMMITTED" not in sql) or ("JOURNAL_MODE" in sql and "WAL" in sql)


def _rolls_back(word: str, sql: Any) -> bool:
    """Whether a statement, which begins with `word` if that can be told, may roll back what was written before it."""
    return word == "ROLLBACK" or (word not in _READS and "ROLLBACK" in repr(sql).upper())


def tie(connection: Any) -> None:
    """Tie a connection that is connected. Several times do no harm."""
    if _TIE not in vars(connection):
        setattr(connection, _TIE, Tie(connection))
    vars(connection)[_TIE].connected()


def install() -> None:
    """Tie all connections of this thread, and every one that is made from now on; once."""
    if find not in scopes.finders:
        scopes.finders.append(find)
        scopes.watchers.append(changes)
    connection_created.connect(_created, dispatch_uid="cacheside")
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            tie(connection)


def find(values: Mapping[str, Any]) -> list[Block]:
    """The blocks that are open in this thread: see `scopes.finders`."""
    ties = [vars(each).get(_TIE) for each in connections.all(initialized_only=True)]
    blocks = [each.block() for each in ties if each is not None]
    return [block for block in blocks if block is not None]


def changes(core: Core, key: str) -> bool:
    """Whether a block in this thread is changing `key`: see `scopes.watchers`."""
    return any(block.changes(core, key) for block in find({}))


def _created(*, connection: Any, **_: Any) -> None:
    tie(connection)
