"""The code itself as a model: its generators, stepped one server command at a time, against real backends.

    places.py       where entries live: memory, Redis, memcached; a command at a time, and what time or a fault does
    calls.py        one read or one write under way: the library's own code, advanced by one step when the test says so
    world.py        a store, some processes, the calls in them, and the judge: no read older than a completed write
    surroundings.py what happens by itself: expiry, eviction, late arrivals
    explore.py      all interleavings of a small cast, depth first
    mutations.py    the protocol with one of its rules taken out

Nothing here re-tells the protocol. What decides is `engine.Reader.read`, `writes.Write` with `core.Core` under it, and
the backend's own scripts and commands; only the drivers, which decide nothing, are replaced by the test's hand.
"""
