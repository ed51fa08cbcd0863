"""Django 5: ``INSTALLED_APPS = [..., "cacheside.integrations.django"]`` and ``CACHESIDE = "memcached://..."``.

The app configures the default cache from `settings.CACHESIDE` (see `configuration.py`), and ties invalidations to the
transactions of all connections: what is invalidated inside `transaction.atomic()` is told to the cache after the commit,
and forgotten on a rollback (see `ties.py`).
"""
