"""A web application with one session for each request, which its dependency commits when the endpoint has returned."""

# Without `from __future__ import annotations`: FastAPI could not find what is local here.
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


def application(shop: Any, commits: bool = True) -> FastAPI:
    """The application on a shop.

    Args:
        shop: an `AsyncShop` that is opened.
        commits: False: nothing is committed, and the endpoints tell what they read after their write.
    """
    app = FastAPI()

    async def async_session() -> AsyncIterator[AsyncSession]:
        async with shop.asessions() as session:
            yield session
            if commits:
                await session.commit()

    def plain_session() -> Iterator[Session]:
        with shop.sessions() as session:
            session.execute(text("SELECT 1"))  # so the transaction begins in the thread pool, in a context of its own
            yield session
            if commits:
                session.commit()

    @app.put("/async/{user_id}")
    async def aput(
        user_id: int, name: str, tasks: BackgroundTasks, session: Annotated[AsyncSession, Depends(async_session)]
    ) -> Any:
        await shop.arename(session, user_id, name)
        tasks.add_task(shop.aseen, user_id)
        return None if commits else await shop.aget_by(session, user_id)

    @app.put("/sync/{user_id}")
    def put(
        user_id: int, name: str, tasks: BackgroundTasks, session: Annotated[Session, Depends(plain_session)]
    ) -> Any:
        shop.rename(session, user_id, name)
        tasks.add_task(shop.seen, user_id)
        return None if commits else shop.get_by(session, user_id)

    return app
