"""An example: a small shop on FastAPI, SQLAlchemy (async), PostgreSQL and Redis.

    export SHOP_DATABASE=postgresql+asyncpg://postgres@localhost/shop SHOP_CACHE=redis://localhost:6379/0
    cd tests/apps && python -m shop_fastapi && uvicorn --workers 2 shop_fastapi.app:app
    python drive.py http://127.0.0.1:8000

`tables.py` has the tables, `services.py` what the shop does and what of it is cached, `app.py` the endpoints, and the
session of a request: it commits once, at the end, and only then the cache hears of what was written.
"""
