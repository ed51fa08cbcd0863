"""The endpoints, and the session of a request.

The session commits when the endpoint has returned. `bind` makes invalidations wait for that: made when the decorated
function returns, they would come before the commit, and a reader in between would fill the old row for a whole ttl.

`scope="function"` makes FastAPI (0.121 or later) end the dependency, and so commit and invalidate, *before* the
response is sent. Without it what comes after `yield` runs after the response: the client is told "done" when nothing is
committed yet, and may read the old row after that, with or without a cache; and nobody hears of a commit that fails.

For the tests: with SHOP_PLAIN=1 nothing is bound, and invalidations come too early; SHOP_PAUSE is how many seconds
a request that has used the database waits before it commits, so that it shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import BackgroundTasks, Body, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from cacheside import CacheUnavailable

from .services import Orders, OutOfStock, Products, Users, cache

engine = create_async_engine(os.environ.get("SHOP_DATABASE", "postgresql+asyncpg://postgres@localhost/shop"))
sessions = async_sessionmaker(engine, expire_on_commit=False)
if not os.environ.get("SHOP_PLAIN"):
    from cacheside.integrations.sqlalchemy import bind

    bind(sessions, cache)
PAUSE = float(os.environ.get("SHOP_PAUSE", "0"))


@asynccontextmanager
async def unit_of_work() -> AsyncIterator[AsyncSession]:
    """A session that commits at the end, or rolls back on an exception."""
    async with sessions.begin() as session:
        yield session
        if session.in_transaction():
            await asyncio.sleep(PAUSE)


async def session_of_request() -> AsyncIterator[AsyncSession]:
    async with unit_of_work() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session_of_request, scope="function")]
Field = Body(embed=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await cache.aclose()
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/products/{product_id}")
async def product(product_id: int, session: Session) -> dict[str, Any]:
    return await Products(session).get(product_id)


@app.get("/products")
async def products(ids: str, session: Session) -> list[dict[str, Any]]:
    found = await Products(session).get_many([int(each) for each in ids.split(",")])
    return list(found.values())


@app.get("/categories/{category}/products")
async def products_in_category(category: str, session: Session, page: int = 1) -> list[dict[str, Any]]:
    return await Products(session).in_category(category, page)


@app.put("/products/{product_id}/price")
async def change_price(product_id: int, price: Annotated[int, Field], session: Session) -> dict[str, Any]:
    return await Products(session).change_price(product_id, price)


@app.get("/users/{user_id}")
async def user(user_id: int, session: Session) -> dict[str, Any]:
    return await Users(session).get(user_id)


@app.get("/users/{user_id}/orders")
async def orders(user_id: int, session: Session) -> list[dict[str, Any]]:
    return await Users(session).orders(user_id)


@app.put("/users/{user_id}/name")
async def rename(user_id: int, name: Annotated[str, Field], session: Session) -> dict[str, Any]:
    return await Users(session).rename(user_id, name)


@app.post("/orders")
async def place_order(
    user_id: Annotated[int, Field],
    product_id: Annotated[int, Field],
    quantity: Annotated[int, Field],
    session: Session,
) -> dict[str, dict[str, Any]]:
    return await Orders(session).place(user_id, product_id, quantity)


@app.post("/products/{product_id}/deliveries", status_code=202)
async def deliver(product_id: int, quantity: Annotated[int, Field], background: BackgroundTasks) -> None:
    """More of a product, some time after the response."""
    background.add_task(restock, product_id, quantity)


async def restock(product_id: int, quantity: int) -> None:
    """In a session of its own, since that of the request is over: invalidated at its own commit."""
    async with unit_of_work() as session:
        await Products(session).take(product_id, -quantity)


@app.get("/stats")
async def stats() -> dict[str, int]:
    found = cache.stats()
    return {"worker": os.getpid(), "hits": found.totals.hits, "misses": found.totals.misses}


@app.exception_handler(NoResultFound)
async def not_found(request: Request, error: NoResultFound) -> JSONResponse:
    return JSONResponse({"detail": "there is none"}, 404)


@app.exception_handler(OutOfStock)
async def out_of_stock(request: Request, error: OutOfStock) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 409)


@app.exception_handler(CacheUnavailable)
async def refused(request: Request, error: CacheUnavailable) -> JSONResponse:
    """A strict write was not begun, since the cache cannot be told of it. It may be tried again."""
    return JSONResponse({"detail": "not now"}, 503, {"Retry-After": "1"})
