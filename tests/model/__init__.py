"""The code itself as a model: its generators, stepped one server command at a time, against real backends.

    place.py        where an entry and its tag live; on_memory.py, on_redis.py, on_memcached.py: a command at a time
    calls.py        one call under way: the library's own code, advanced by one step when the test says so
    readers.py      reads of functions with and without windows and tags, and their refreshes
    writers.py      writes: plain, strict, updating, marking stale, turning a tag; each in a transaction too
    world.py        a store, some processes, the calls in them, and the judge: no read older than a completed write,
                    none of what is not committed but by its own transaction
    machine.py      whatever can happen, in any order, by chance
    explore.py      all interleavings of a small cast, depth first
    mutations.py    the protocol with one of its rules taken out; mutations_of_freshness.py, mutating.py: the same

Nothing here re-tells the protocol. What decides is `engine.py` and `freshness.py` (`batch.py` too, for many rows),
`writes.Write` with `core.Core` under it, and the backend's own scripts and commands; only the drivers, which decide
nothing, are replaced by the test's hand.
"""
