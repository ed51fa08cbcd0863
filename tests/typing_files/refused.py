"""Misuse, one mistake a line marked `# wrong`: mypy --strict and pyright refuse each of these lines, and no other."""

from __future__ import annotations

from collections.abc import Sequence

from cacheside import MISSING, Cache, cached, cached_many, invalidates, updates

cache = Cache()


@cached(key="user:{user_id}", ttl=60)
def get(user_id: int, *, deep: bool = False) -> str:
    return ""


@cached
async def fetch(user_id: int) -> bytes:
    return b""


@cached_many(key="user:{user_id}", ttl=60)
def get_users(user_ids: Sequence[int]) -> dict[int, str]:
    return {}


@cached_many("user:{user_id}")
async def fetch_users(user_ids: Sequence[int]) -> dict[int, str]:
    return {}


class Repository:
    @cached_many("user:{user_id}")
    def get_many(self, user_ids: Sequence[int]) -> dict[int, str]:
        return {}

    @cached(key="user:{user_id}")
    def get(self, user_id: int) -> str:
        return ""

    @cached
    @classmethod
    def count(cls, where: str) -> int:
        return 0

    @invalidates("user:{user_id}")
    def rename(self, user_id: int, name: str) -> bool:
        return True

    @invalidates("user:{user_id}", strict=True)
    def strict(self, user_id: int, name: str) -> bool:
        return True

    @updates(get)
    def replace(self, user_id: int, name: str) -> str:
        return name


repository = Repository()

get("1")  # wrong
get(1, True)  # wrong
get.invalidate()  # wrong
get.key(name="x")  # wrong
number: int = get(1)  # wrong
get.refresh(1, deep=3)  # wrong
get.nothing(1)  # wrong
repository.get("1")  # wrong
repository.get.invalidate("1")  # wrong
repository.get()  # wrong
Repository.count(5)  # wrong
repository.rename(1)  # wrong
text: bytes = fetch(1)  # wrong
cached(ttl="soon")  # wrong
cached(jitter="much")  # wrong
cached(nonsense=True)  # wrong
Cache(namespace=5)  # wrong
cache.invalidate(7)  # wrong
repository.strict(1)  # wrong
repository.replace("1", "x")  # wrong
size: int = repository.replace(1, "x")  # wrong
invalidates("user", strict="yes")  # wrong
invalidates("user", strict=True, hold="long")  # wrong
invalidates("user", ttl=5)  # wrong
updates("user", ttl="soon")  # wrong
updates("user", hold=None)  # wrong
updates("user")(5)  # wrong
cache.updates("user", strict=1)  # wrong
cache.invalidating("user", strict=None)  # wrong
cache.invalidating(7, strict=True)  # wrong
get_users(1)  # wrong
get_users(["1"])  # wrong
get_users.keys("1")  # wrong
get_users.invalidate(1)  # wrong
get_users.peek([1])  # wrong
get_users.warm([1])  # wrong
names: list[str] = get_users([1])  # wrong
found: dict[int, str] = fetch_users([1])  # wrong
repository.get_many(["1"])  # wrong
repository.get_many.invalidate()  # wrong
cached_many()  # wrong
cached_many(ttl=60)  # wrong
cached_many(key=5)  # wrong
cached_many("user:{user_id}", key="user:{user_id}")  # wrong
cached_many("user:{user_id}", max_loads=1)  # wrong
cached_many("user:{user_id}", cache_exceptions=(KeyError,))  # wrong
cached_many("user:{user_id}", ignore=5)  # wrong
cache.cached_many("user:{user_id}", early_refresh="soon")  # wrong
seen: str = get.peek(1)  # wrong
get.peek("1")  # wrong
get.set(5, 1)  # wrong
get.set("known", "1")  # wrong
get.set("known")  # wrong
get.warm(1)  # wrong
get.warm([1], concurrency="two")  # wrong
get.warm([1], progress=5)  # wrong
if (peeked := get.peek(1)) is MISSING:
    peeked.upper()  # wrong
cached(tags=5)  # wrong
cached(stale_while_revalidate="long")  # wrong
cached(stale_if_error=None)  # wrong
cached(early_refresh="yes")  # wrong
cached(load_timeout="soon")  # wrong
cached(max_loads=1.5)  # wrong
cached(max_loads_wait="long")  # wrong
invalidates("user", tags=5)  # wrong
invalidates("user", stale="long")  # wrong
updates("user", tags=("a",))  # wrong
cache.invalidate(tags=5)  # wrong
