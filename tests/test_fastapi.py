"""Cached functions and methods as FastAPI dependencies and endpoints: FastAPI reads their parameters as if undecorated.

The annotations here are texts (`from __future__`), as in many applications: FastAPI has to find what they mean through
the decorator.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from colours import until
from fastapi import APIRouter, Depends, FastAPI, HTTPException

from cacheside import cached, configure, invalidates

loads: Counter[str] = Counter()
threads: dict[str, str] = {}
names: dict[int, str] = {}


@dataclass(frozen=True)
class User:
    """What a dependency provides."""

    id: int
    name: str


def select(user_id: int, reader: str) -> User:
    """The store."""
    loads[reader] += 1
    threads[reader] = threading.current_thread().name
    if user_id not in names:
        raise HTTPException(404, f"no user {user_id}")
    return User(user_id, names[user_id])


@cached(key="user:{user_id}", ttl=60)
def get_user(user_id: int) -> User:
    """A plain dependency: FastAPI runs it in its thread pool."""
    return select(user_id, "get_user")


@cached(key="user:{user_id}", ttl=60)
async def aget_user(user_id: int) -> User:
    """An async dependency that shares its entries with the plain one."""
    return select(user_id, "aget_user")


class Users:
    """A service: its bound methods are dependencies and endpoints."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    @cached(key="greeting:{self.greeting}:{user_id}:{loud}", ttl=60)
    def greet(self, user_id: int, loud: bool = False) -> str:
        text = f"{self.greeting}, {select(user_id, 'greet').name}"
        return text.upper() if loud else text

    @cached(key="agreeting:{self.greeting}:{user_id}", ttl=60)
    async def agreet(self, user_id: int) -> str:
        return f"{self.greeting}, {select(user_id, 'agreet').name}"

    @cached(key="anybody:{user_id}", ttl=60)
    @classmethod
    def anybody(cls, user_id: int) -> str:
        return f"{cls.__name__} {select(user_id, 'anybody').name}"

    @invalidates(get_user, lambda self, user_id, name: self.keys(user_id))
    async def rename(self, user_id: int, name: str) -> User:
        names[user_id] = name
        return User(user_id, name)

    def keys(self, user_id: int) -> list[str]:
        """All that is cached of one user."""
        return [*(self.greet.key(user_id, loud) for loud in (False, True)), self.agreet.key(user_id)]


users = Users("Hello")
guests = Users("Welcome")
router = APIRouter(prefix="/users", tags=["users"])


@router.get("/plain/{user_id}")
def plain_endpoint(user: Annotated[User, Depends(get_user)]) -> User:
    return user


@router.get("/async/{user_id}")
async def async_endpoint(user: Annotated[User, Depends(aget_user)]) -> User:
    return user


@router.get("/both/{user_id}")
async def both_endpoint(user: User = Depends(get_user), again: User = Depends(aget_user)) -> list[User]:  # noqa: B008  # FastAPI's older spelling of a dependency
    return [user, again]


@router.get("/greet/{user_id}")
async def greeting_endpoint(text: Annotated[str, Depends(users.greet)]) -> str:
    return text


@router.get("/agreet/{user_id}")
def async_greeting_endpoint(text: Annotated[str, Depends(users.agreet)]) -> str:
    return text


@router.get("/anybody/{user_id}")
def classmethod_endpoint(text: Annotated[str, Depends(Users.anybody)]) -> str:
    return text


# The cached functions themselves as endpoints, and a decorated write.
router.add_api_route("/direct/{user_id}", get_user)
router.add_api_route("/adirect/{user_id}", aget_user)
router.add_api_route("/welcome/{user_id}", guests.greet)
router.add_api_route("/awelcome/{user_id}", guests.agreet)
router.add_api_route("/{user_id}", users.rename, methods=["PUT"])


@router.get("/lengths/{text}")
@cached(key="length:{text}:{unit}", ttl=60)
async def length(text: str, unit: int = 1) -> dict[str, float]:
    """Decorated in place, with a path and a query parameter."""
    loads["length"] += 1
    return {"length": len(text) / unit}


app = FastAPI()
app.include_router(router)


class Client:
    """Requests to the application, each without a server: one event loop for all of them."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")

    def __call__(self, method: str, *paths: str) -> list[httpx.Response]:
        """Send requests at the same time."""

        async def send() -> list[httpx.Response]:
            return await asyncio.gather(*(self._client.request(method, f"/users{path}") for path in paths))

        return self._runner.run(send())

    def get(self, path: str) -> Any:
        """The answer to one GET."""
        (response,) = self("GET", path)
        assert response.status_code == 200, response.text
        return response.json()

    def close(self) -> None:
        """End the client."""
        self._runner.run(self._client.aclose())


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def client(request: pytest.FixtureRequest, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of the application, whose cache is each kind."""
    monkeypatch.setattr("cacheside.cache._default", None)  # puts back what was there before
    loads.clear()
    threads.clear()
    names.update({1: "Ann", 2: "Bob"})
    url = "memory://" if request.param == "memory" else request.getfixturevalue(request.param).url
    with asyncio.Runner() as runner, configure(url, namespace=namespace, timeout=5) as cache:
        made = Client(runner)
        yield made
        made.close()
        runner.run(cache.aclose())


@pytest.mark.parametrize(
    ("path", "answer", "reader"),
    [
        ("plain", {"id": 1, "name": "Ann"}, "get_user"),
        ("async", {"id": 1, "name": "Ann"}, "aget_user"),
        ("greet", "Hello, Ann", "greet"),
        ("agreet", "Hello, Ann", "agreet"),
        ("anybody", "Users Ann", "anybody"),
        ("direct", {"id": 1, "name": "Ann"}, "get_user"),
        ("adirect", {"id": 1, "name": "Ann"}, "aget_user"),
        ("welcome", "Welcome, Ann", "greet"),
        ("awelcome", "Welcome, Ann", "agreet"),
    ],
)
def test_second_request_is_a_hit(client: Client, path: str, answer: Any, reader: str) -> None:
    """As a dependency and as an endpoint, plain and async, bound and not: parameters arrive, and it is cached."""
    assert [client.get(f"/{path}/1") for _ in range(3)] == [answer] * 3
    assert loads == {reader: 1}
    cached_functions = {"get_user": get_user, "aget_user": aget_user, "greet": users.greet, "agreet": users.agreet}
    info = cached_functions.get(reader, Users.anybody).cache_info()
    assert (info.hits, info.misses, info.loads) == (2, 1, 1)


@pytest.mark.parametrize(
    "path", ["plain", "async", "both", "greet", "agreet", "anybody", "direct", "adirect", "welcome", "awelcome"]
)
def test_bad_parameter_is_refused(client: Client, path: str) -> None:
    """A path parameter of the wrong type is FastAPI's 422, since it knows the annotation; nothing is called."""
    (response,) = client("GET", f"/{path}/ann")
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["path", "user_id"]
    assert not loads


def test_defaults_and_query_parameters(client: Client) -> None:
    """Defaults of the signature are optional query parameters, and part of the key where the key has them."""
    assert client.get("/greet/1") == "Hello, Ann"
    assert client.get("/greet/1?loud=true") == "HELLO, ANN"
    assert client.get("/greet/1?loud=false") == "Hello, Ann"
    assert loads == {"greet": 2}
    assert [client.get("/lengths/four"), client.get("/lengths/four?unit=2")] == [{"length": 4}, {"length": 2}]
    assert client.get("/lengths/four?unit=2") == {"length": 2}
    assert loads["length"] == 2


def test_the_schema_knows_the_parameters() -> None:
    """OpenAPI shows the parameters of what was decorated, and no *args or self."""
    paths = app.openapi()["paths"]
    for path in ("plain", "adirect", "agreet", "awelcome", "anybody"):
        found = paths[f"/users/{path}/{{user_id}}"]["get"]["parameters"]
        assert [(each["name"], each["in"], each["schema"]["type"]) for each in found] == [
            ("user_id", "path", "integer")
        ]
    found = paths["/users/welcome/{user_id}"]["get"]["parameters"]
    assert [(each["name"], each["required"]) for each in found] == [("user_id", True), ("loud", False)]
    assert paths["/users/direct/{user_id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/User"
    }


def test_plain_dependency_runs_in_the_thread_pool(client: Client) -> None:
    """FastAPI sees which function is plain and which is async; the two share one entry."""
    main = threading.current_thread().name
    client.get("/plain/1")
    assert threads["get_user"] != main
    client.get("/async/2")
    assert threads["aget_user"] == main
    assert client.get("/both/1") == [{"id": 1, "name": "Ann"}] * 2
    assert client.get("/both/2") == [{"id": 2, "name": "Bob"}] * 2
    assert loads == {"get_user": 1, "aget_user": 1}


def test_requests_at_the_same_time_share_a_load(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and async requests that come together for one cold key cost the store one load."""

    def slow_select(user_id: int, reader: str) -> User:
        if reader == "get_user":  # in a thread; an async load must not hold up its loop
            until(lambda: get_user.cache_info().misses + aget_user.cache_info().misses == 20)
        return fast_select(user_id, reader)

    fast_select = select
    monkeypatch.setitem(globals(), "select", slow_select)
    answers = client("GET", *(["/plain/1", "/async/1"] * 10))
    assert [each.json() for each in answers] == [{"id": 1, "name": "Ann"}] * 20
    assert loads.total() == 1


def test_write_endpoint_invalidates(client: Client) -> None:
    """After a PUT through a decorated write, every cached read shows the new name."""
    paths = ["/plain/1", "/async/1", "/greet/1", "/greet/1?loud=1", "/agreet/1"]
    for path in paths:
        client.get(path)
    (response,) = client("PUT", "/1?name=Anne")
    assert response.json() == {"id": 1, "name": "Anne"}
    user = {"id": 1, "name": "Anne"}
    assert [client.get(path) for path in paths] == [user, user, "Hello, Anne", "HELLO, ANNE", "Hello, Anne"]


def test_error_of_a_dependency_is_not_stored(client: Client) -> None:
    """A 404 raised inside a cached dependency is a 404, each time anew."""
    for path in ("/plain/7", "/async/7"):
        (response,) = client("GET", path)
        assert (response.status_code, response.json()) == (404, {"detail": "no user 7"})
    assert loads.total() == 2
    names[7] = "Eve"
    try:
        assert client.get("/plain/7") == {"id": 7, "name": "Eve"}
    finally:
        del names[7]
