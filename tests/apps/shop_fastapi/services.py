"""What the shop does. Reads are cached, and writes say what they make old; nothing here commits.

A service works in the session of one request. The session is in no key: whoever misses loads for all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cacheside import Cache

from .tables import Order, Product, User

cache = Cache(os.environ.get("SHOP_CACHE", "redis://localhost:6379/0?namespace=shop"), ttl=300)

PAGE = 5

Row = dict[str, Any]

product_columns = Product.__table__.columns
user_columns = User.__table__.columns
order_columns = Order.__table__.columns


class OutOfStock(Exception):
    """There is less of a product than was ordered."""


class Service:
    """The base of all: rows as dicts, which any cache can store."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def one(self, statement: Executable) -> Row:
        """NoResultFound if there is none."""
        return dict((await self.session.execute(statement)).mappings().one())

    async def all(self, statement: Executable) -> list[Row]:
        return [dict(row) for row in (await self.session.execute(statement)).mappings()]


class Products(Service):
    @cache.cached(key="product:{product_id}")
    async def get(self, product_id: int) -> Row:
        return await self.one(select(*product_columns).where(Product.id == product_id))

    @cache.cached_many(key="product:{product_id}")  # the same entries, one by one
    async def get_many(self, product_ids: Sequence[int]) -> dict[int, Row]:
        rows = await self.all(select(*product_columns).where(Product.id.in_(product_ids)))
        return {row["id"]: row for row in rows}

    @cache.cached(key="category:{category}:{page}", tags=("category:{category}",))
    async def in_category(self, category: str, page: int) -> list[Row]:
        products = select(*product_columns).where(Product.category == category).order_by(Product.id)
        return await self.all(products.limit(PAGE).offset(PAGE * (page - 1)))

    # Nobody may pay an old price, come what may: strict. All pages of the category show it: one tag.
    @cache.invalidates(get, strict=True)
    @cache.invalidates(tags=("category:{result[category]}",))
    async def change_price(self, product_id: int, price: int) -> Row:
        return await self._change(product_id, price=price)

    @cache.invalidates(get, tags=("category:{result[category]}",))
    async def take(self, product_id: int, quantity: int) -> Row:
        """The product with so much less in stock; less than nothing, perhaps."""
        return await self._change(product_id, stock=Product.stock - quantity)

    async def _change(self, product_id: int, **values: Any) -> Row:
        changed = update(Product).where(Product.id == product_id).values(**values, version=Product.version + 1)
        return await self.one(changed.returning(*product_columns))


class Users(Service):
    @cache.cached(key="user:{user_id}")
    async def get(self, user_id: int) -> Row:
        return await self.one(select(*user_columns).where(User.id == user_id))

    @cache.cached(key="user:{user_id}:orders")
    async def orders(self, user_id: int) -> list[Row]:
        return await self.all(select(*order_columns).where(Order.user_id == user_id).order_by(Order.id))

    @cache.updates(get)  # it returns what `get` would
    async def rename(self, user_id: int, name: str) -> Row:
        changed = update(User).where(User.id == user_id).values(name=name, version=User.version + 1)
        return await self.one(changed.returning(*user_columns))


class Orders(Service):
    @cache.invalidates(Users.orders)
    async def place(self, user_id: int, product_id: int, quantity: int) -> dict[str, Row]:
        """The order, and the product as it is now.

        Raises:
            OutOfStock: after the stock has been written: the request rolls back, and nothing is invalidated.
        """
        product = await Products(self.session).take(product_id, quantity)
        if product["stock"] < 0:
            raise OutOfStock(f"not enough of product {product_id}")
        order = insert(Order).values(user_id=user_id, product_id=product_id, quantity=quantity)
        return {"order": await self.one(order.returning(*order_columns)), "product": product}
