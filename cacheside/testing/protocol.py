"""What a backend promises to `Backend` and `AsyncBackend`: leases, fills, invalidations, expiry.

Values are bytes here. A backend that keeps objects keeps bytes as well. `Busy()` and `Guarded()` are equal as tuples:
the tests look at the type.
"""

from __future__ import annotations

from typing import get_args

from ..backends.base import Busy, Capability, Hit, Leased, Size
from ..backends.beyond import Batching, Claiming
from .bench import CROWD, LONG, SHORT, Bench, Promises, promise


class ProtocolPromises(Promises):
    """The tests of the backend protocol."""

    # Leases.

    @promise
    def test_miss_hit(self, bench: Bench) -> None:
        """A miss gives one caller the lease, the others hear that it is taken, and what is filled is what all find."""
        key = bench.key()
        token = bench.token(key)
        assert type(bench.lookup(key)) is Busy
        assert type(bench.lookup(key)) is Busy
        assert bench.fill(key, token, b"value") is True
        assert bench.hit(key).stored == b"value"
        assert bench.hit(key).stored == b"value"

    @promise
    def test_one_lease_for_a_crowd(self, bench: Bench) -> None:
        """However many ask for a key at the same time, one gets the lease."""
        for round_ in range(5):
            key = bench.key(f"round{round_}")
            calls = [bench.start(bench.form.lookup, key, 60) for _ in range(CROWD)]
            kinds = [type(call.result()) for call in calls]
            assert kinds.count(Leased) == 1
            assert kinds.count(Busy) == CROWD - 1

    @promise
    def test_no_fill_after_invalidate(self, bench: Bench) -> None:
        """What was loaded before an invalidation is refused after it, whether the key is free again or leased anew."""
        key = bench.key()
        old = bench.token(key)
        bench.invalidate(key)
        assert bench.fill(key, old, b"old") is False
        new = bench.token(key)
        assert bench.fill(key, old, b"old") is False
        assert type(bench.lookup(key)) is Busy
        assert bench.fill(key, new, b"new") is True
        assert bench.hit(key).stored == b"new"

    @promise
    def test_no_fill_over_a_newer_value(self, bench: Bench) -> None:
        """A lease that was lost does not overwrite what another has filled since."""
        key = bench.key()
        old = bench.token(key)
        bench.invalidate(key)
        bench.store(key, b"new")
        assert bench.fill(key, old, b"old") is False
        assert bench.hit(key).stored == b"new"

    @promise
    def test_no_fill_after_release(self, bench: Bench) -> None:
        """A lease that was given back fills nothing, and the next caller gets another one."""
        key = bench.key()
        token = bench.token(key)
        assert bench.release(key, token) is True
        assert bench.fill(key, token, b"late") is False
        assert bench.release(key, token) is False
        assert isinstance(bench.lookup(key), Leased)

    @promise
    def test_no_fill_after_clear(self, bench: Bench) -> None:
        """Clearing kills the leases as well."""
        key = bench.key()
        token = bench.token(key)
        bench.clear(bench.key("") if "clear" in bench.capabilities else None)
        assert bench.fill(key, token, b"old") is False
        assert isinstance(bench.lookup(key), Leased)

    @promise
    def test_no_fill_after_the_lease(self, bench: Bench) -> None:
        """A lease ends by itself: a load that died blocks nobody, and one that took too long fills nothing."""
        key = bench.key()
        old = bench.token(key, SHORT)
        assert bench.expired(key, SHORT)
        assert bench.fill(key, old, b"late") is False
        assert not isinstance(bench.lookup(key), Hit)

    @promise
    def test_token_of_another_key(self, bench: Bench) -> None:
        """The token of one key is worth nothing on another."""
        keys = [bench.key(str(number)) for number in range(12)]
        tokens = [bench.token(key) for key in keys]
        for key, own in zip(keys, tokens, strict=True):
            for token in tokens:
                if token is not own:
                    assert bench.release(key, token) is False
                    assert bench.fill(key, token, b"wrong") is False
        for key, token in zip(keys, tokens, strict=True):
            assert bench.fill(key, token, b"right") is True

    @promise
    def test_tokens_are_never_used_again(self, bench: Bench) -> None:
        """Each lease has a token that no lease before it has had."""
        key = bench.key()
        tokens = []
        for _ in range(10):
            tokens.append(bench.token(key))
            bench.invalidate(key)
        assert all(token not in tokens[:place] for place, token in enumerate(tokens))

    @promise
    def test_release_of_a_lost_lease(self, bench: Bench) -> None:
        """Giving back a lease that was lost is answered False, and takes nothing from whoever came after."""
        key = bench.key()
        old = bench.token(key)
        bench.invalidate(key)
        assert bench.release(key, old) is False
        new = bench.token(key)
        assert bench.release(key, old) is False
        assert type(bench.lookup(key)) is Busy
        assert bench.fill(key, new, b"new") is True
        assert bench.release(key, old) is False
        assert bench.release(key, new) is False
        assert bench.hit(key).stored == b"new"

    # Replacing a value that cannot be used.

    @promise
    def test_replace(self, bench: Bench) -> None:
        """The entry that was seen becomes a lease, and nobody gets to see it any more."""
        key = bench.key()
        bench.store(key, b"old")
        answer = bench.replace(key, bench.hit(key).seen)
        assert isinstance(answer, Leased)
        assert type(bench.lookup(key)) is Busy
        assert bench.fill(key, answer.token, b"new") is True
        assert bench.hit(key).stored == b"new"

    @promise
    def test_replace_of_something_else(self, bench: Bench) -> None:
        """What has changed since it was seen is not replaced, be it another entry of the same bytes, or a lease."""
        key = bench.key()
        bench.store(key, b"value")
        seen = bench.hit(key).seen
        bench.invalidate(key)
        token = bench.token(key)
        assert type(bench.replace(key, seen)) is Busy
        assert bench.fill(key, token, b"value") is True
        assert type(bench.replace(key, seen)) is Busy
        assert bench.hit(key).stored == b"value"

    @promise
    def test_replace_of_nothing(self, bench: Bench) -> None:
        """If the entry is gone the lease is free: for the replacing caller, or, if it is told Busy, for its lookup."""
        key = bench.key()
        bench.store(key, b"old")
        seen = bench.hit(key).seen
        bench.invalidate(key)
        answer = bench.replace(key, seen)
        if type(answer) is Busy:
            answer = bench.lookup(key)
        assert isinstance(answer, Leased)
        assert bench.fill(key, answer.token, b"new") is True
        assert bench.hit(key).stored == b"new"

    @promise
    def test_one_replaces(self, bench: Bench) -> None:
        """Of many who saw the same useless entry, one gets the lease."""
        key = bench.key()
        bench.store(key, b"old")
        seen = bench.hit(key).seen
        calls = [bench.start(bench.form.replace, key, seen, 60) for _ in range(CROWD)]
        kinds = [type(call.result()) for call in calls]
        assert kinds.count(Leased) == 1
        assert kinds.count(Busy) == CROWD - 1

    @promise
    def test_replaced_lease_can_be_lost(self, bench: Bench) -> None:
        """A lease that was won by replacing is one like any other: it dies by invalidation, and can be given back."""
        key = bench.key()
        for end in (lambda token: bench.invalidate(key), lambda token: bench.release(key, token)):
            bench.store(key, b"old")
            answer = bench.replace(key, bench.hit(key).seen)
            assert isinstance(answer, Leased)
            end(answer.token)
            assert bench.fill(key, answer.token, b"late") is False

    # Invalidation.

    @promise
    def test_invalidate_many(self, bench: Bench) -> None:
        """One call drops the values and kills the leases of all keys, however many, and does not mind absent ones."""
        values = [bench.key(f"value{number}") for number in range(20)]
        leases = [bench.key(f"lease{number}") for number in range(20)]
        absent = [bench.key(f"absent{number}") for number in range(2000)]
        for key in values:
            bench.store(key, b"old")
        tokens = [bench.token(key) for key in leases]
        bench.invalidate(*values[:10], *leases[:10], *absent, *leases[10:], *values[10:])
        assert all(isinstance(bench.lookup(key), Leased) for key in (*values, *absent[:5]))
        assert not any(bench.fill(key, token, b"old") for key, token in zip(leases, tokens, strict=True))

    @promise
    def test_invalidate_spares_others(self, bench: Bench) -> None:
        """An invalidation touches no key but its own."""
        kept, leased, dropped = bench.key("kept"), bench.key("leased"), bench.key("dropped")
        bench.store(kept, b"kept")
        bench.store(dropped, b"dropped")
        token = bench.token(leased)
        bench.invalidate(dropped)
        assert bench.hit(kept).stored == b"kept"
        assert bench.fill(leased, token, b"filled") is True

    # Values, keys, time.

    @promise
    def test_values(self, bench: Bench) -> None:
        """Bytes come back as they were: none at all, each there is, line ends, and 100 kB."""
        for number, stored in enumerate((b"", bytes(range(256)), b"\r\nEND\r\n", b"x" * 100_000, b"\x00")):
            key = bench.key(str(number))
            bench.store(key, stored)
            assert bench.hit(key).stored == stored

    @promise
    def test_keys(self, bench: Bench) -> None:
        """Each key is itself and nothing else: patterns, escapes, case, any visible character, 300 of them."""
        texts = ["a", "A", "*", "a*", "?", "[a]", "[^b]", "\\", "%41", "%2A", "%none", "a:b", "{a}", "'\"`$;|<>#&~"]
        texts += ["x" * 300, "x" * 299 + "y", "x" * 301]
        keys = [bench.key(text) for text in texts]
        for key in keys:
            bench.store(key, key.encode())
        for gone, key in enumerate(keys):
            assert [bench.hit(other).stored for other in keys[gone:]] == [other.encode() for other in keys[gone:]]
            bench.invalidate(key)
            assert isinstance(bench.lookup(key), Leased)

    @promise
    def test_ttl(self, bench: Bench) -> None:
        """An entry is gone after its ttl, and not before; without one it stays."""
        short, long, endless = bench.key("short"), bench.key("long"), bench.key("endless")
        bench.store(long, b"long", LONG)
        bench.store(endless, b"endless", None)
        bench.store(short, b"short", SHORT)
        assert bench.expired(short, SHORT)
        assert bench.hit(long).stored == b"long"
        assert bench.hit(endless).stored == b"endless"

    @promise
    def test_very_long_ttl(self, bench: Bench) -> None:
        """A ttl of days or years is no problem, though some servers read large numbers as dates."""
        for days in (29, 31, 365, 36_500):
            key = bench.key(str(days))
            bench.store(key, b"value", days * 86_400.0)
            assert bench.hit(key).stored == b"value"

    # The whole.

    @promise
    def test_clear_everything(self, bench: Bench) -> None:
        """Everything goes, and the server is as good as new."""
        keys = [bench.key(str(number)) for number in range(30)]
        for key in keys:
            bench.store(key, b"old")
        bench.clear(None)
        for key in keys:
            bench.store(key, b"new")
            assert bench.hit(key).stored == b"new"

    @promise
    def test_clear_prefix(self, bench: Bench) -> None:
        """Keys with the prefix go, all others stay; a backend that cannot do this does not claim to."""
        for prefix, others in (
            ("mine:", ("mine", "mine;1", "min:1", "Mine:1", "x:mine:1")),
            ("a*[b]?:", ("axb1:", "a*b1:1", "a*[b]1:1")),  # a prefix is no pattern
        ):
            gone = [bench.key(prefix + text) for text in ("", "1", "*", prefix)]
            kept = [bench.key(text) for text in others]
            for key in (*gone, *kept):
                bench.store(key, b"value")
            try:
                bench.clear(bench.key(prefix))
            except Exception:
                assert "clear" not in bench.capabilities
                assert all(isinstance(bench.lookup(key), Hit) for key in (*gone, *kept))
            else:
                assert all(isinstance(bench.lookup(key), Leased) for key in gone)
                assert all(isinstance(bench.lookup(key), Hit) for key in kept)

    @promise
    def test_capabilities(self, bench: Bench) -> None:
        """What a backend says of itself is known, fits together, and is the same in both colours."""
        said = bench.capabilities
        assert said <= set(get_args(Capability))
        assert "stores" in said
        assert "in_process" not in said or bench.aio is None
        assert "copies" not in said or "objects" in said
        forms = [form for form in (bench.plain, bench.aio) if form is not None]
        assert all(form.capabilities == said for form in forms)
        assert "claims" not in said or all(isinstance(form, Claiming) for form in forms)
        assert "batches" not in said or all(isinstance(form, Batching) for form in forms)

    @promise
    def test_size(self, bench: Bench) -> None:
        """How many entries there are is told right, or not at all."""
        for number in range(3):
            bench.store(bench.key(str(number)), b"value")
        if bench.plain is not None:
            size = bench.plain.size()
            assert isinstance(size, Size)
            assert size.entries in (3, None)
            assert size.limit is None or size.limit >= 3

    @promise
    def test_objects(self, bench: Bench) -> None:
        """A backend that keeps objects gives back the very object; another one gives back bytes."""
        key, stored = bench.key(), [1, {"deep": set()}] if "objects" in bench.capabilities else b"bytes"
        bench.store(key, stored)
        found = bench.hit(key).stored
        assert found is stored if "objects" in bench.capabilities else type(found) is bytes

    @promise
    def test_close_is_not_the_end(self, bench: Bench) -> None:
        """Closing, once or twice, gives connections back; the next call opens new ones."""
        bench.store(bench.key("before"), b"value")
        bench.close()
        bench.close()
        bench.store(bench.key("after"), b"value")
        assert bench.hit(bench.key("after")).stored == b"value"
        bench.invalidate(bench.key("before"))
        assert isinstance(bench.lookup(bench.key("before")), Leased)
