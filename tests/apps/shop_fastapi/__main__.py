"""`python -m shop_fastapi`: make the tables anew."""

import asyncio

from .app import engine
from .tables import create


async def main() -> None:
    async with engine.begin() as connection:
        await create(connection)
    await engine.dispose()


asyncio.run(main())
