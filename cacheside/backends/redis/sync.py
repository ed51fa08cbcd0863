"""Redis from plain code: moves the commands of `wire.py` over redis-py's own connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from ..base import Busy, Hit, Leased
from .wire import Command, Operation, Protocol


class SyncRedis:
    """The plain calls of `RedisBackend`.

    Args:
        protocol: shared with the awaitable calls.
        make_pool: makes our own pool, or gives that of the user's client.
        owned: whether the pool is ours to close.
    """

    def __init__(self, protocol: Protocol, make_pool: Callable[[], ConnectionPool], owned: bool) -> None:
        self._protocol = protocol
        self._pool = make_pool()
        self._owned = owned

    def lookup(self, key: str, lease: float) -> Hit | Leased | Busy:
        """See `Backend.lookup`."""
        answer: Hit | Leased | Busy = self._run(self._protocol.lookup(key, lease))
        return answer

    def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        answer: Leased | Busy = self._run(self._protocol.replace(key, seen, lease))
        return answer

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        return bool(self._run(self._protocol.fill(key, token, stored, ttl)))

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return bool(self._run(self._protocol.release(key, token)))

    def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        self._run(self._protocol.invalidate(keys))

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        self._run(self._protocol.clear(prefix))

    def close(self) -> None:
        """See `Backend.close`; a client of the user's stays open."""
        if self._owned:
            self._pool.disconnect()

    def _run(self, operation: Operation) -> Any:
        send: Callable[[Any], Command] = operation.send
        reply: Any = None
        while True:
            try:
                command = send(reply)
            except StopIteration as end:
                return end.value
            send = operation.send
            try:
                reply = self._execute(command)
            except (RedisError, OSError) as error:
                reply = error
            except BaseException as error:
                send, reply = operation.throw, error

    def _execute(self, command: Command) -> Any:
        # Below `client.execute_command`, whose retries would send the same bytes again (see wire.py). Replies are
        # bytes whatever the client's decode_responses says.
        connection: Any = self._pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response(disable_decoding=True)
        except ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # a reply may still be under way: nobody must take it for theirs
            raise
        finally:
            self._pool.release(connection)
