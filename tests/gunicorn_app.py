"""The application of `test_gunicorn.py`: a cache that is used, in both colours, before gunicorn forks its workers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from cacheside import Cache

cache = Cache(os.environ["APP_CACHE"], namespace=os.environ["APP_NAMESPACE"], timeout=5)


@cache.cached("by-{who}:{row}")
def get(who: str, row: int) -> list[Any]:
    return [who, row, os.getpid()]


@cache.cached("async:by-{who}:{row}")
async def aget(who: str, row: int) -> list[Any]:
    return [who, row, os.getpid()]


get("master", 0)
asyncio.run(aget("master", 0))  # type: ignore[arg-type]  # it is a coroutine


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """/get/1 and /aget/1 read a row, /drop/1 invalidates it in both colours; each row is read twice, by two names."""
    _, verb, text = environ["PATH_INFO"].split("/")
    row, own = int(text), f"worker-{os.getpid()}"
    if verb == "drop":
        get.invalidate("all", row)
        asyncio.run(aget.invalidate("all", row))
        rows = None
    elif verb == "get":
        rows = [get(own, row), get("all", row)]
    else:
        rows = [asyncio.run(aget(own, row)), asyncio.run(aget("all", row))]  # type: ignore[arg-type]  # as above
    errors = get.cache_info().errors + aget.cache_info().errors
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "rows": rows, "errors": errors}).encode()]
