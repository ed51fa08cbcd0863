"""Memcached: one server or several, for plain and async functions.

`backend.py` is what applications see, and `protocol.py` what its calls are made of: `wire.py` says what is sent and
what an answer means, `changes.py` how keys are invalidated and guarded, `marker.py` what a guard looks like; `ring.py`
says which server holds a key, `known.py` what is known of that server, and `..pool` which connection may carry a
command. None of them does I/O. `sync.py` and `aio.py` only move the bytes. Three rules reach across:

**Leases.** `mg` with N plants an empty item where there is none, and hands its winner a CAS: the lease. A fill is a
`ms` with that CAS. Whatever deletes or replaces the item ends the lease.

**Guards.** A marker item holds a mark of each writer at work on the key. It is changed only on condition of its CAS, so
nobody erases what he has not seen; `@updates` puts its value in by the CAS of its own mark, if that was alone.

**The connection rule.** A server counts CAS from 1 again when it restarts, so the CAS of a dead lease or guard may name
another item by now. A connection does not outlive its server: a CAS is therefore used only over a connection that was
*opened before* the command that brought the CAS was *sent*. Where no such connection is left, the lease is lost.
"""

from .backend import MemcachedBackend

__all__ = ["MemcachedBackend"]
