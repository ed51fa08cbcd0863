"""The tables, and what is in them at first."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "products"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    category: Mapped[str] = mapped_column(index=True)
    price: Mapped[int]
    stock: Mapped[int]
    version: Mapped[int] = mapped_column(default=1)


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id), index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey(Product.id))
    quantity: Mapped[int]


async def create(connection: AsyncConnection) -> None:
    """Make the tables anew, with 20 products in two categories and 10 users."""
    await connection.run_sync(Base.metadata.drop_all)
    await connection.run_sync(Base.metadata.create_all)
    products = [
        {"name": f"product {number}", "category": ("books", "games")[number % 2], "price": 100, "stock": 1_000_000}
        for number in range(20)
    ]
    await connection.execute(Product.__table__.insert(), products)
    await connection.execute(User.__table__.insert(), [{"name": f"user {number}"} for number in range(10)])
