"""Drives a shop over HTTP with clients that read and write at the same time, and checks every response.

    python tests/apps/drive.py http://127.0.0.1:8000 --seconds 60

A response is **stale** if it is older than a write that had been acknowledged, to any client, before its request began:
a row with a lower version, or a list of orders without one of them. It is **torn** if a version of a row has another
content than the same version had elsewhere: then something was seen that never was committed. It is an **error** if its
status is not the expected one, or if there is none.

What a shop has to serve (JSON both ways). Wherever they appear, a *product* is `{"id", "name", "category", "price",
"stock", "version"}`, a *user* `{"id", "name", "version"}`, an *order* `{"id", "user_id", "product_id", "quantity"}`.
Every write of a product or a user raises its version by one, in the statement that writes it, so that versions have the
order of the commits. Products 1 to 20 and users 1 to 10 are there from the beginning, with a large stock; the
categories are those that the products name.

    GET  /products/{id}                             a product
    GET  /products?ids=1,2,3                        products, in this order
    GET  /categories/{category}/products?page=1     the products of a category by id, five a page, from page 1
    GET  /users/{id}                                a user
    GET  /users/{id}/orders                         the user's orders, all of them
    PUT  /products/{id}/price    {"price": 7}       the product after it
    PUT  /users/{id}/name        {"name": "Ann 7"}  the user after it
    POST /orders    {"user_id": 1, "product_id": 2, "quantity": 3}
                                                    {"order": order, "product": the product after it, with less stock};
                                                    409 if the stock is too small: all that was written is rolled back
    GET  /stats     {"worker": pid, "hits": 7, "misses": 8}    of the process that answers

All answer 200. A write may answer 503 with the header `Retry-After`: nothing was done, as with a strict write while the
cache is down. The client comes back until it is done, as a real one would; these are counted as `refused`, and only who
is refused for `PATIENCE` seconds is an error.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PRODUCTS = 20
USERS = 10
PAGES = 2
PATIENCE = 20.0  # seconds
TIMEOUT = 30.0  # seconds
REQUESTS_PER_CONNECTION = 50  # so that every client comes to every worker

Row = dict[str, Any]
Key = tuple[str, int]  # "product" or "user", and the id


class Violation(NamedTuple):
    """A response that must not be."""

    what: str
    """"stale" or "torn"."""
    path: str
    key: str
    seen: Any
    expected: Any
    at: float
    """Seconds since the beginning."""


@dataclass
class Report:
    """What came of it."""

    seconds: float = 0.0
    reads: int = 0
    writes: int = 0
    refused: int = 0
    """Answers 503: writes that were not begun, and tried again."""
    rolled_back: int = 0
    """Answers 409."""
    stale: list[Violation] = field(default_factory=list)
    torn: list[Violation] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    hits: int = 0
    misses: int = 0
    workers: int = 0
    """How many processes answered."""

    @property
    def requests(self) -> int:
        """All that were answered as expected."""
        return self.reads + self.writes + self.refused + self.rolled_back

    @property
    def hit_rate(self) -> float:
        """The part of the calls of cached functions that were hits, from 0 to 1."""
        return self.hits / (self.hits + self.misses or 1)

    def __str__(self) -> str:
        lines = [
            f"{self.requests:,} requests in {self.seconds:.1f} s to {self.workers} workers: {self.reads:,} reads, "
            f"{self.writes:,} writes, {self.rolled_back:,} rolled back, {self.refused:,} refused",
            f"hit rate {self.hit_rate:.1%}; stale {len(self.stale)}, torn {len(self.torn)}, errors {len(self.errors)}",
        ]
        lines += [
            f"{each.what} at {each.at:.3f} s: {each.path}: {each.key}: seen {each.seen}, expected {each.expected}"
            for each in [*self.stale, *self.torn][:10]
        ]
        return "\n".join(lines + self.errors[:10])


class Ledger:
    """What has been acknowledged so far. All clients share it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._versions: dict[Key, int] = {}
        self._contents: dict[tuple[Key, int], Row] = {}
        self._orders: dict[int, list[int]] = {}

    def count(self, what: str) -> None:
        """One more of a kind of answers, as the report names it."""
        with self._lock:
            setattr(self._report, what, getattr(self._report, what) + 1)

    def promised(self) -> tuple[dict[Key, int], dict[int, int]]:
        """To be taken before a request: the versions acknowledged by now, and how many orders of each user."""
        with self._lock:
            return dict(self._versions), {user: len(orders) for user, orders in self._orders.items()}

    def acknowledged(self, kind: str, row: Row) -> None:
        """A write has been answered with the row that it left."""
        with self._lock:
            key = (kind, row["id"])
            self._versions[key] = max(self._versions.get(key, 0), row["version"])

    def ordered(self, order: Row) -> None:
        """An order has been acknowledged."""
        with self._lock:
            self._orders.setdefault(order["user_id"], []).append(order["id"])

    def saw(self, path: str, promised: dict[Key, int], kind: str, rows: Iterable[Row]) -> None:
        """Check rows of the answer to a request before which `promised` held."""
        for row in rows:
            key, version = (kind, row["id"]), row["version"]
            with self._lock:
                before = self._contents.setdefault((key, version), row)
            if version < promised.get(key, 0):
                self._note(self._report.stale, "stale", path, f"{kind} {row['id']}", version, promised[key])
            if row != before:
                self._note(self._report.torn, "torn", path, f"{kind} {row['id']}", row, before)

    def saw_orders(self, path: str, user: int, promised: int, orders: Iterable[Row]) -> None:
        """Check a list of orders, `promised` of which were acknowledged before the request."""
        with self._lock:
            expected = self._orders.get(user, [])[:promised]
        if missing := set(expected) - {order["id"] for order in orders}:
            self._note(self._report.stale, "stale", path, f"orders of user {user}", "not there", sorted(missing))

    def _note(self, where: list[Violation], what: str, path: str, key: str, seen: Any, expected: Any) -> None:
        where.append(Violation(what, path, key, seen, expected, time.monotonic() - self._begun))


class Refused(Exception):
    """503: the write was not begun."""


class Http:
    """One client's connection: a new one after some requests, and after each error."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._connection: http.client.HTTPConnection | None = None
        self._sent = 0

    def __call__(self, method: str, path: str, body: Row | None = None, expected: int = 200) -> Any:
        """The answer, decoded.

        Raises:
            Refused: it was 503, and may be tried again.
            RuntimeError: it had another status than expected.
            OSError, http.client.HTTPException: there was none.
        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        self._sent += 1
        try:
            sent = None if body is None else json.dumps(body)
            self._connection.request(method, path, sent, {"Content-Type": "application/json"} if body else {})
            response = self._connection.getresponse()
            data = response.read()
            if response.status == 503 and response.getheader("Retry-After") is not None:
                raise Refused
            if response.status != expected:
                raise RuntimeError(f"{response.status}: {data[:300].decode(errors='replace')}")
            return json.loads(data)
        except BaseException:
            self.close()
            raise
        finally:
            if self._sent % REQUESTS_PER_CONNECTION == 0:
                self.close()

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Client:
    """One of the clients: a loop of random requests."""

    def __init__(self, url: str, number: int, seed: int, categories: list[str], ledger: Ledger, report: Report) -> None:
        self._number = number
        self._http = Http(url)
        self._random = random.Random(f"{seed}:{number}")
        self._categories = categories
        self._ledger = ledger
        self._report = report
        self._written = 0

    def run(self, until: float) -> None:
        """Read and write until then."""
        kinds: dict[Callable[[], str], int] = {
            self._product: 30, self._some_products: 10, self._category: 12, self._user: 14, self._orders: 14,
            self._price: 8, self._rename: 5, self._order: 5, self._too_large_order: 2,
        }  # fmt: skip
        while time.monotonic() < until:
            (kind,) = self._random.choices([*kinds], [*kinds.values()])
            try:
                count = kind()
            except Exception as error:
                self._report.errors.append(f"{kind.__name__}: {type(error).__name__}: {error}")
            else:
                self._ledger.count(count)
        self._http.close()

    def _any_product(self) -> int:
        return self._random.randint(1, PRODUCTS)

    def _any_user(self) -> int:
        return self._random.randint(1, USERS)

    def _look(self, path: str, kind: str) -> str:
        versions, _ = self._ledger.promised()
        found = self._http("GET", path)
        self._ledger.saw(path, versions, kind, found if isinstance(found, list) else [found])
        return "reads"

    def _product(self) -> str:
        return self._look(f"/products/{self._any_product()}", "product")

    def _some_products(self) -> str:
        wanted = self._random.sample(range(1, PRODUCTS + 1), 4)
        return self._look(f"/products?ids={','.join(map(str, wanted))}", "product")

    def _category(self) -> str:
        category = urllib.parse.quote(self._random.choice(self._categories))
        return self._look(f"/categories/{category}/products?page={self._random.randint(1, PAGES)}", "product")

    def _user(self) -> str:
        return self._look(f"/users/{self._any_user()}", "user")

    def _orders(self) -> str:
        user = self._any_user()
        path = f"/users/{user}/orders"
        _, counts = self._ledger.promised()
        self._ledger.saw_orders(path, user, counts.get(user, 0), self._http("GET", path))
        return "reads"

    def _write(self, method: str, path: str, body: Row, expected: int = 200) -> Any:
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                return self._http(method, path, body, expected)
            except Refused:
                if time.monotonic() > patience:
                    raise
                self._ledger.count("refused")
                time.sleep(0.1)

    def _value(self) -> int:
        """Never the same twice, of all clients."""
        self._written += 1
        return self._number + 1000 * self._written

    def _put(self, path: str, kind: str, body: Row) -> str:
        versions, _ = self._ledger.promised()
        row = self._write("PUT", path, body)
        self._ledger.acknowledged(kind, row)
        self._ledger.saw(path, versions, kind, [row])
        return "writes"

    def _price(self) -> str:
        return self._put(f"/products/{self._any_product()}/price", "product", {"price": self._value()})

    def _rename(self) -> str:
        return self._put(f"/users/{self._any_user()}/name", "user", {"name": f"user {self._value()}"})

    def _order(self) -> str:
        versions, _ = self._ledger.promised()
        wanted = {"user_id": self._any_user(), "product_id": self._any_product(), "quantity": 1}
        made = self._write("POST", "/orders", wanted)
        self._ledger.acknowledged("product", made["product"])
        self._ledger.ordered(made["order"])
        self._ledger.saw("/orders", versions, "product", [made["product"]])
        return "writes"

    def _too_large_order(self) -> str:
        wanted = {"user_id": self._any_user(), "product_id": self._any_product(), "quantity": 1_000_000_000}
        self._write("POST", "/orders", wanted, expected=409)
        return "rolled_back"


def stats(url: str) -> dict[int, tuple[int, int]]:
    """Hits and misses of each worker."""
    found: dict[int, tuple[int, int]] = {}
    for _ in range(40):  # a new connection each time, so that each worker gets some
        ask = Http(url)
        told = ask("GET", "/stats")
        ask.close()
        found[told["worker"]] = (told["hits"], told["misses"])
    return found


def drive(
    url: str, seconds: float = 10.0, clients: int = 16, seed: int = 0, meanwhile: Callable[[], object] | None = None
) -> Report:
    """Drive the shop at `url`.

    Args:
        seconds: how long.
        clients: so many at once, a thread each.
        seed: of what they do.
        meanwhile: is called over and over in this thread while they are at it.
    """
    report = Report()
    before = stats(url)
    ask = Http(url)
    categories = [ask("GET", f"/products/{number}")["category"] for number in range(1, PRODUCTS + 1)]
    ask.close()
    ledger = Ledger(report)
    begun = time.monotonic()
    until = begun + seconds
    made = [Client(url, number, seed, categories, ledger, report) for number in range(clients)]
    threads = [threading.Thread(target=client.run, args=(until,), daemon=True) for client in made]
    for thread in threads:
        thread.start()
    while meanwhile is not None and time.monotonic() < until:
        meanwhile()
    for thread in threads:
        thread.join()
    report.seconds = time.monotonic() - begun
    after = stats(url)
    for worker, (hits, misses) in after.items():
        hits_before, misses_before = before.get(worker, (0, 0))
        report.hits += hits - hits_before
        report.misses += misses - misses_before
    report.workers = len(after)
    return report


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="Drive a shop over HTTP, and look for stale responses.")
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    report = drive(asked.url, asked.seconds, asked.clients, asked.seed)
    print(report)
    return 1 if report.stale or report.torn or report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
