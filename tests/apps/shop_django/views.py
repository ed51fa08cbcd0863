"""The endpoints. Each is a transaction, which an exception rolls back."""

from __future__ import annotations

import json
import os
from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from cacheside import CacheUnavailable, default_cache

from .services import OutOfStock, orders, products, users


def answer(found: Any, status: int = 200, **headers: str) -> JsonResponse:
    return JsonResponse(found, safe=False, status=status, headers=headers)


def product(request: HttpRequest, product_id: int) -> JsonResponse:
    return answer(products.get(product_id))


def some_products(request: HttpRequest) -> JsonResponse:
    found = products.get_many([int(each) for each in request.GET["ids"].split(",")])
    return answer(list(found.values()))


def products_in_category(request: HttpRequest, category: str) -> JsonResponse:
    return answer(products.in_category(category, int(request.GET.get("page", 1))))


def change_price(request: HttpRequest, product_id: int) -> JsonResponse:
    return answer(products.change_price(product_id, **json.loads(request.body)))


def user(request: HttpRequest, user_id: int) -> JsonResponse:
    return answer(users.get(user_id))


def orders_of_user(request: HttpRequest, user_id: int) -> JsonResponse:
    return answer(users.orders(user_id))


def rename(request: HttpRequest, user_id: int) -> JsonResponse:
    return answer(users.rename(user_id, **json.loads(request.body)))


def place_order(request: HttpRequest) -> JsonResponse:
    return answer(orders.place(**json.loads(request.body)))


@transaction.non_atomic_requests
def stats(request: HttpRequest) -> JsonResponse:
    totals = default_cache().stats().totals
    return answer({"worker": os.getpid(), "hits": totals.hits, "misses": totals.misses})


class Refusals:
    """What is told when a service raised. By then the transaction has been rolled back."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> JsonResponse | None:
        if isinstance(error, ObjectDoesNotExist):
            return answer({"detail": "there is none"}, 404)
        if isinstance(error, OutOfStock):
            return answer({"detail": str(error)}, 409)
        if isinstance(error, CacheUnavailable):  # a strict write, not begun: it may be tried again
            return answer({"detail": "not now"}, 503, **{"Retry-After": "1"})
        return None


urlpatterns = [
    path("products", some_products),
    path("products/<int:product_id>", product),
    path("products/<int:product_id>/price", change_price),
    path("categories/<str:category>/products", products_in_category),
    path("users/<int:user_id>", user),
    path("users/<int:user_id>/orders", orders_of_user),
    path("users/<int:user_id>/name", rename),
    path("orders", place_order),
    path("stats", stats),
]
