"""Hears of new rows on PostgreSQL, over a psycopg connection of its own."""

from __future__ import annotations

from typing import Any


class Listener:
    """LISTEN on one channel.

    Args:
        connection: a psycopg connection that is used for nothing else.
        channel: a plain name.
    """

    def __init__(self, connection: Any, channel: str) -> None:
        self._connection = connection
        connection.rollback()
        connection.autocommit = True
        connection.execute(f"LISTEN {channel}")

    def fileno(self) -> int:
        """For a selector: it is readable when there may be news."""
        number: int = self._connection.fileno()
        return number

    def heard(self) -> bool:
        """Whether there was any; to be called when it is readable.

        Raises:
            OSError: the connection is lost.
        """
        import psycopg  # it is there: the connection is one of its own

        wire = self._connection.pgconn
        try:
            wire.consume_input()
            news = False
            while wire.notifies() is not None:
                news = True
        except psycopg.Error as error:
            raise OSError(f"the connection that listens is lost: {error}") from error
        return news
