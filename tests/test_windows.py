"""Ages of values, and what is stored about them: without a server, and without waiting."""

from __future__ import annotations

from cacheside import Cache
from cacheside.testing import FakeClock


def test_row_of_an_entry_with_a_window() -> None:
    """Who hits an entry that others keep past its ttl finds it by a row until that ttl is over, and no longer."""
    clock = FakeClock()
    cache, values = Cache("memory://", clock=clock), ["old"]

    @cache.cached(key="row:{row}", ttl=60, stale_while_revalidate=600)
    def windowed(row: int) -> str:
        return values[0]

    @cache.cached(key="row:{row}", ttl=60)
    def plain(row: int) -> str:
        return values[0]

    windowed(1)
    values[0] = "new"
    assert [plain(1) for _ in range(3)] == ["old"] * 3
    clock.advance(59)
    assert [plain(1) for _ in range(3)] == ["old"] * 3
    clock.advance(2)
    assert [plain(1) for _ in range(3)] == ["new"] * 3
