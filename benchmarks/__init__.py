"""``python -m benchmarks``: cacheside beside its peers and beside itself, in one run, from a checkout.

effort.py       how long things are measured: in full, quickly, or just enough to see that they run
measure.py      rounds in turns, ratios, medians and spreads
sides.py        what is timed, and the proof that each timed call was a hit of the right value
peers.py        each peer as its documentation says, with its fastest honest setting
servers.py      servers of our own: a free port of loopback, memory only, ended by their pid
machine.py      where it ran, and the versions of all that took part

hit.py          part "hit": memory, by nanoseconds; footprint.py: by bytes
on_redis.py     part "redis"
on_memcached.py part "memcached"
tagged.py       part "tags": a hit with a tag beside one without
batches.py      part "batch": cached_many beside as many calls
refresh.py      part "refresh": stale_while_revalidate beside a plain ttl
stampede.py     part "stampede": threads and tasks; crowd.py: processes
imports.py      part "import"
hitrate.py      part "hitrate": policies over traces; traces.py, simulate.py, optimum.py

parts.py        runs a part in a process of its own
command.py      runs the parts that were asked for, and writes
results.py      one JSON file a part; report.py: all of them as Markdown; charts.py: as pictures

No result depends on the others: a part that is run again replaces its own file, and the Markdown and the charts are
made from all files that are there.
"""
