"""The outbox of the site: each transaction leaves what it held in a row, which it writes itself, before its commit.

So a row is there exactly if the transaction was committed, and it has the keys of all writes in it that were not rolled
back. When they have been delivered it is removed; what a process that died has left the relay delivers (see
`cacheside.outbox`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ...outbox import Outbox
from .blocks import Block

_outbox: Outbox | None = None


def use(outbox: Outbox | None) -> None:
    """Have all connections write into `outbox` from now on; None: into none."""
    global _outbox
    _outbox = outbox


def outbox() -> Outbox | None:
    """That of the site."""
    return _outbox


class Records:
    """The rows of one connection. They go into the database of the write: each that is written to needs the table."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._outbox: Outbox | None = None
        self._row: tuple[str, Collection[str]] | None = None  # just written: its id, its keys
        self._done: list[str] = []  # ids of rows that can be removed

    def write(self, block: Block) -> None:
        """Write the row of a transaction, in it; and remove what could not be removed before, with autocommit off.

        Raises:
            DatabaseError: it could not be written; as any error of a statement it fails the transaction.
        """
        self._row = None
        self.remove(in_transaction=True)
        outbox = self._outbox = _outbox
        if outbox is None:
            return
        keys = block.keys(outbox.core)
        row = outbox.row(keys)
        if row is not None:
            with self._connection.cursor() as cursor:
                cursor.execute(outbox.insert_with("%s"), tuple(row))
            self._row = (row.id, keys)

    def delivered(self) -> None:
        """The transaction was committed, and its keys delivered, or else they are pending: then the relay has them."""
        if self._row is not None and self._outbox is not None:
            row, keys = self._row
            if not self._outbox.core.pending.blocks(*keys):
                self._done.append(row)

    def remove(self, in_transaction: bool = False) -> None:
        """Remove the rows of what has been delivered. It raises no error, but in a transaction that would be lost."""
        done, self._done = self._done, []
        if done and self._outbox is not None:
            try:
                with self._connection.cursor() as cursor:
                    cursor.executemany(self._outbox.delete_with("%s"), [(row,) for row in done])
            except Exception as error:  # whatever the driver says; the write is done, and the relay will do the rest
                if in_transaction:
                    raise
                self._outbox.left_behind(repr(error))
