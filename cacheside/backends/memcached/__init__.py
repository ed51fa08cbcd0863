"""Memcached: one server or several, for plain and async functions.

`ring.py` says which server holds a key; `wire.py` says what is sent and what an answer means; `pool.py` says which
connection may carry it. None of them does I/O. `sync.py` and `aio.py` only move the bytes. Two rules reach across:

**Leases.** `mg` with N plants an empty item where there is none, and hands its winner a CAS: the lease. A fill is a
`ms` with that CAS. Whatever deletes or replaces the item ends the lease.

**The connection rule.** A server counts CAS from 1 again when it restarts, so the CAS of a dead lease may name another
item by now. A connection does not outlive its server: a CAS is therefore used only over a connection that was *opened
before* the command that brought the CAS was *sent*. Where no such connection is left, the lease is lost.
"""

from .sync import MemcachedBackend

__all__ = ["MemcachedBackend"]
