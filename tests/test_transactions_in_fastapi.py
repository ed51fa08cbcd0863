"""`cache.transaction()` in dependencies of FastAPI that yield: which of them are around the endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from recorder import Recorder
from transaction_rows import Rows

from cacheside import Cache


@pytest.mark.parametrize("path", ["plain", "async", "service"])
@pytest.mark.parametrize("around", [True, False])
def test_dependencies(path: str, around: bool) -> None:
    """An async dependency is around endpoints of both colours, and other dependencies; a plain one is around none."""
    backend = Recorder()
    rows, app, seen = Rows(Cache(backend)), FastAPI(), []

    async def adependency() -> AsyncIterator[None]:
        async with rows.cache.transaction():
            yield
            seen.append(list(backend.dropped))

    def dependency() -> Iterator[None]:
        with rows.cache.transaction():
            yield
            seen.append(list(backend.dropped))

    def service() -> None:
        rows.write(1, "new")

    block: Any = Depends(adependency if around else dependency)

    @app.get("/plain", dependencies=[block])
    def plain() -> None:
        rows.write(1, "new")

    @app.get("/async", dependencies=[block])
    async def in_task() -> None:
        await rows.awrite(1, "new")

    @app.get("/service", dependencies=[block, Depends(service)])
    async def by_service() -> None:
        """The dependency has written."""

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
            assert (await client.get(f"/{path}")).status_code == 200

    asyncio.run(main())
    assert seen == [[] if around else ["row:1"]]
    assert (backend.dropped, rows.held()) == (["row:1"], [])


@pytest.mark.parametrize("scope", ["function", "request"])
def test_end_and_response(scope: Literal["function", "request"]) -> None:
    """With scope="function" the block ends before the response is sent and background tasks run; else after both."""
    backend = Recorder()
    rows, app, seen = Rows(Cache(backend)), FastAPI(), []

    async def dependency() -> AsyncIterator[None]:
        async with rows.cache.transaction():
            yield
            seen.append("end")

    async def later() -> None:
        await rows.awrite(2, "new")
        seen.append("task")

    @app.get("/", dependencies=[Depends(dependency, scope=scope)])
    async def endpoint(tasks: BackgroundTasks) -> None:
        await rows.awrite(1, "new")
        tasks.add_task(later)

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def tell(message: Any) -> None:
            seen.append(message["type"])
            await send(message)

        await app(scope, receive, tell)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(watched), base_url="http://shop") as client:
            assert (await client.get("/")).status_code == 200

    asyncio.run(main())
    sent = ["http.response.start", "http.response.body"]
    assert seen == (["end", *sent, "task"] if scope == "function" else [*sent, "task", "end"])
    assert backend.dropped == ["row:1", "row:2"]
