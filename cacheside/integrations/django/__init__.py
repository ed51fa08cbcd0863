"""Django 5: ``INSTALLED_APPS = [..., "cacheside.integrations.django"]`` and ``CACHESIDE = "memcached://..."``.

The app configures the default cache from `settings.CACHESIDE`, and ties invalidations to the transactions of all
connections: what is invalidated inside `transaction.atomic()` is told to the cache after the commit, and forgotten on a
rollback.

configuration.py  what stands in the settings
ties.py           notices when transactions begin and end
blocks.py         what one transaction holds
records.py        its row in the outbox, if there is one
migrations/       the table of the outbox
"""
