"""Misuse, one mistake a line marked `# wrong`: mypy --strict and pyright refuse each of these lines, and no other."""

from __future__ import annotations

from cacheside import Cache, cached, invalidates, updates

cache = Cache()


@cached(key="user:{user_id}", ttl=60)
def get(user_id: int, *, deep: bool = False) -> str:
    return ""


@cached
async def fetch(user_id: int) -> bytes:
    return b""


class Repository:
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
