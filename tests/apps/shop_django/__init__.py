"""An example: a small shop on Django, MariaDB and memcached.

    export SHOP_DATABASE=mysql://root@localhost:3306/shop SHOP_CACHE=memcached://localhost:11211
    cd tests/apps && python -m shop_django
    gunicorn --workers 2 --threads 8 shop_django.settings:application
    python drive.py http://127.0.0.1:8000

`settings.py` has what there is to configure, `models.py` the tables, `services.py` what the shop does and what of it is
cached, `views.py` the endpoints. Each request is one transaction (ATOMIC_REQUESTS): it commits before the response is
sent, and only then the cache hears of what was written.
"""
