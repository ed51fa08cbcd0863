"""The settings, and the WSGI application.

For the tests: with SHOP_PLAIN=1 the integration is left out, and invalidations come when the decorated function
returns, before the commit: too early.
"""

from __future__ import annotations

import os
import urllib.parse

import pymysql
from django.core.wsgi import get_wsgi_application

import cacheside

pymysql.install_as_MySQLdb()
_database = urllib.parse.urlsplit(os.environ.get("SHOP_DATABASE", "mysql://root@localhost:3306/shop"))

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.mysql",  # "read committed", which is Django's default there, is what is needed
        "HOST": _database.hostname,
        "PORT": _database.port,
        "USER": _database.username,
        "PASSWORD": _database.password or "",
        "NAME": _database.path[1:],
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": None,
    }
}
INSTALLED_APPS = ["shop_django", "cacheside.integrations.django"]
CACHESIDE = {"URL": os.environ.get("SHOP_CACHE", "memcached://localhost:11211"), "TTL": 300}
MIDDLEWARE = ["shop_django.views.Refusals"]
ROOT_URLCONF = "shop_django.views"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

if os.environ.get("SHOP_PLAIN"):
    INSTALLED_APPS = ["shop_django"]
    cacheside.configure(CACHESIDE["URL"], ttl=300)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop_django.settings")
application = get_wsgi_application()
