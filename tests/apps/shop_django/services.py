"""What the shop does. Reads are cached, and writes say what they make old; nothing here commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import F, Value

from cacheside import cached, cached_many, invalidates, updates

from .models import Order, Product, User

PAGE = 5

Row = dict[str, Any]  # rows as dicts, which any cache can store


class OutOfStock(Exception):
    """There is less of a product than was ordered."""


class Products:
    @cached(key="product:{product_id}")
    def get(self, product_id: int) -> Row:
        return Product.objects.values().get(id=product_id)

    @cached_many(key="product:{product_id}")  # the same entries, one by one
    def get_many(self, product_ids: Sequence[int]) -> dict[int, Row]:
        return {row["id"]: row for row in Product.objects.filter(id__in=product_ids).values()}

    @cached(key="category:{category}:{page}", tags=("category:{category}",))
    def in_category(self, category: str, page: int) -> list[Row]:
        return list(Product.objects.filter(category=category).order_by("id").values()[PAGE * (page - 1) : PAGE * page])

    # Nobody may pay an old price, come what may: strict. All pages of the category show it: one tag.
    @invalidates(get, strict=True)
    @invalidates(tags=("category:{result[category]}",))
    def change_price(self, product_id: int, price: int) -> Row:
        return self._change(product_id, price=Value(price))

    @invalidates(get, tags=("category:{result[category]}",))
    def take(self, product_id: int, quantity: int) -> Row:
        """The product with so much less in stock; less than nothing, perhaps."""
        return self._change(product_id, stock=F("stock") - quantity)

    def _change(self, product_id: int, **values: Any) -> Row:
        Product.objects.filter(id=product_id).update(**values, version=F("version") + 1)
        return Product.objects.values().get(id=product_id)


class Users:
    @cached(key="user:{user_id}")
    def get(self, user_id: int) -> Row:
        return User.objects.values().get(id=user_id)

    @cached(key="user:{user_id}:orders")
    def orders(self, user_id: int) -> list[Row]:
        return list(Order.objects.filter(user_id=user_id).order_by("id").values())

    @updates(get)  # it returns what `get` would
    def rename(self, user_id: int, name: str) -> Row:
        User.objects.filter(id=user_id).update(name=name, version=F("version") + 1)
        return User.objects.values().get(id=user_id)


class Orders:
    @invalidates(Users.orders)
    def place(self, user_id: int, product_id: int, quantity: int) -> dict[str, Row]:
        """The order, and the product as it is now.

        Raises:
            OutOfStock: after the stock has been written: the request rolls back, and nothing is invalidated.
        """
        product = products.take(product_id, quantity)
        if product["stock"] < 0:
            raise OutOfStock(f"not enough of product {product_id}")
        order = Order.objects.create(user_id=user_id, product_id=product_id, quantity=quantity)
        return {"order": Order.objects.values().get(id=order.id), "product": product}


products, users, orders = Products(), Users(), Orders()
