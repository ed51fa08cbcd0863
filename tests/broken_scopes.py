"""Backends with one thing wrong each, and the promises about transactions that have to notice it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import broken_backends
import broken_claims

from cacheside.backends.memory import MemoryBackend


class ForgetsInvalidations(MemoryBackend):
    """It says yes, and drops nothing."""

    def invalidate(self, keys: Sequence[str]) -> None:
        """Do nothing."""


class StoresNothing(MemoryBackend):
    """It says that it has stored a value, and has not."""

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        return self.release(key, token)


MUTANTS: list[tuple[type[MemoryBackend], str]] = [
    (ForgetsInvalidations, "test_transaction"),
    (ForgetsInvalidations, "test_transaction_that_raises"),
    (ForgetsInvalidations, "test_nested_transactions"),
    (ForgetsInvalidations, "test_transaction_over_two_caches"),
    (ForgetsInvalidations, "test_verbs_in_a_transaction"),
    (ForgetsInvalidations, "test_peek_in_a_transaction"),
    (ForgetsInvalidations, "test_batch_in_a_transaction"),
    (StoresNothing, "test_transaction_rolled_back"),
    (broken_backends.FillsWithoutLease, "test_load_during_a_transaction"),
    (broken_backends.InvalidatesOnlyValues, "test_load_during_a_transaction"),
    (broken_claims.InvalidatesNoTags, "test_tags_in_a_transaction"),
    (broken_claims.MarksNothing, "test_windows_in_a_transaction"),
    (broken_backends.GuardsNothing, "test_strict_write_in_a_transaction"),
    (broken_backends.OneToken, "test_strict_write_in_a_transaction"),
    (broken_backends.NeverFrees, "test_strict_write_rolled_back"),
    (broken_backends.NeverUpdates, "test_update_in_a_transaction"),
    (broken_backends.NeverFrees, "test_update_rolled_back"),
    (broken_backends.NeverUpdates, "test_update_in_a_transaction_that_raises"),
    (broken_backends.NeverUpdates, "test_update_beside_a_rollback"),
    (broken_backends.UpdatesAnyway, "test_update_in_a_transaction_beside_other_writes"),
]
