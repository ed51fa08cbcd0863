"""The map of a Redis Cluster: which server holds which of its 16384 slots. Pure.

Sources: redis.io, "Redis cluster specification" and "CLUSTER SLOTS".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from .rounds import Address


class SlotMap:
    """Who holds what, as one server told it. Threads may share it.

    Args:
        reply: to CLUSTER SLOTS.
        asked: the address of the server that gave it.
    """

    def __init__(self, reply: Sequence[Any] = (), asked: Address = ("", 0)) -> None:
        self._masters: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self.servers: dict[Address, None] = {}
        """Masters and replicas, in the order in which they were told."""
        for first, last, *servers in reply:
            addresses = [_address(server, asked) for server in servers]
            self.servers.update(dict.fromkeys(addresses))
            self._masters[first : last + 1] = [addresses[0]] * (last + 1 - first)

    def master(self, slot: int) -> Address | None:
        """The server of a slot; None: nobody is known to have it."""
        return self._masters[slot]

    def masters(self) -> list[Address]:
        """All servers that hold slots."""
        return list({address: None for address in self._masters if address is not None})

    def moved(self, slot: int, address: Address) -> None:
        """One slot is there now, and will stay."""
        self._masters[slot] = address


def slot_of(key: str) -> int:
    """The slot of a key, by its hash tag if it has one."""
    return int(key_slot(key.encode()))


def _address(server: Sequence[Any], asked: Address) -> Address:
    """Of one server in the reply: preferred host, port, id, and since Redis 7 what else is known of it."""
    host, port = _text(server[0]), int(server[1])
    if host == "?" and len(server) > 3:  # it should have a host name, and has none: the rest has its IP address
        known = [_text(each) for each in server[3]]
        host = dict(zip(known[::2], known[1::2], strict=False)).get("ip", "")
    return (host if host not in ("", "?") else asked[0], port)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
