"""Memcached: one server or several, for plain and async functions.

`backend.py` and `aio_backend.py` are what applications see, and `protocol.py` what their calls are made of: `wire.py`
says what is sent and what an answer means, `fills.py` what is too large to be sent, `changes.py` how keys are
invalidated, marked and guarded, `marker.py` what a guard looks like, `claims.py` who may refresh a value, `tags.py`
what a version is, `batches.py` how many keys go in one exchange; `ring.py` says which server holds a key, `known.py`
what is known of that server, and `..pool` which connection may carry a command. None of them does I/O. `sync.py` and
`aio.py` only move the bytes, with `both_ways.py` where there are many. Four rules reach across:

**Leases.** `mg` with N plants an empty item where there is none, and hands its winner a CAS: the lease. A fill is a
`ms` with that CAS. Whatever deletes or replaces the item ends the lease.

**Guards.** A marker item holds a mark of each writer at work on the key. It is changed only on condition of its CAS, so
nobody erases what he has not seen; `@updates` puts its value in by the CAS of its own mark, if that was alone.

**Claims.** An entry is claimed by planting an item beside it, and refreshed by its own CAS, like a lease. A stale mark
is the server's own (`md` with I): it changes the CAS, so it ends leases and claims, and leaves the value.

**The connection rule.** A server counts CAS from 1 again when it restarts, so the CAS of a dead lease or guard may name
another item by now. A connection does not outlive its server: a CAS is therefore used only over a connection that was
*opened before* the command that brought the CAS was *sent*. Where no such connection is left, the lease is lost.
"""

from .backend import MemcachedBackend

__all__ = ["MemcachedBackend"]
