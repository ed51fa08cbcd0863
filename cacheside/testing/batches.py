"""What a backend with the capability "batches" promises: many keys at once, and tags."""

from __future__ import annotations

from collections.abc import Callable

from ..backends.base import Busy, Fill, Guarded, Hit, Leased, Stale
from ..backends.beyond import Version
from .bench import CROWD, LONG, SHORT, Bench, Promises, promise_of
from .guards import guarded


class BatchPromises(Promises):
    """The tests of batches and tags in the backend protocol."""

    # Batches.

    @promise_of("batches")
    def test_lookup_many(self, bench: Bench) -> None:
        """Each key is answered as a lookup would, in its place: a value, another's lease, a guard, or a lease."""
        value, leased, locked, free, other = keys = [bench.key(text) for text in ("v", "l", "g", "f", "o")]
        bench.store(value, b"value")
        held = bench.token(leased)
        mark = bench.guard(locked)
        answers, _ = bench.lookup_many(keys)
        assert [type(answer) for answer in answers] == [Hit, Busy, Guarded, Leased, Leased]
        assert answers[0].stored == b"value"
        again, _ = bench.lookup_many(list(reversed(keys)))
        assert [type(answer) for answer in again] == [Busy, Busy, Guarded, Busy, Hit]
        assert bench.fill(free, answers[3].token, b"filled") is True
        assert bench.release(other, answers[4].token) is True
        assert bench.fill(leased, held, b"filled") is True
        assert isinstance(bench.replace(value, answers[0].seen), Leased)
        assert bench.unguard(mark) == 0

    @promise_of("batches")
    def test_lookup_many_without_a_lease(self, bench: Bench) -> None:
        """Who wants no leases gets none: where there is nothing, or another's lease, the answer is None."""
        value, leased, locked, free = keys = [bench.key(text) for text in ("v", "l", "g", "f")]
        bench.store(value, b"value")
        held = bench.token(leased)
        mark = bench.guard(locked)
        for _ in range(2):
            answers, _ = bench.lookup_many(keys, None)
            assert [type(answer) for answer in answers] == [Hit, type(None), Guarded, type(None)]
            assert answers[0].stored == b"value"
        assert isinstance(bench.lookup(free), Leased)
        assert bench.fill(leased, held, b"filled") is True
        assert bench.unguard(mark) == 0

    @promise_of("batches")
    def test_stale_in_a_batch(self, bench: Bench) -> None:
        """A batch tells stale values from others, and fills and gives back claims as it does leases."""
        if "claims" in bench.capabilities:
            keys = [bench.key(text) for text in ("marked", "fresh", "marked_too")]
            for key in keys:
                bench.store(key, key.encode())
            bench.mark_stale(keys[0], keys[2])
            for lease in (60, None):
                answers, _ = bench.lookup_many(keys, lease)
                assert [type(answer) for answer in answers] == [Stale, Hit, Stale]
                assert [answer.stored for answer in answers] == [key.encode() for key in keys]
            claims = [bench.claim(key, answer.seen) for key, answer in zip(keys, answers, strict=True)]
            tokens = [claim.token for claim in claims if isinstance(claim, Leased)]
            assert len(tokens) == len(keys)
            done, _ = bench.fill_many([Fill(keys[0], tokens[0], b"new", 60), Fill(keys[1], tokens[1], b"new", 60)])
            assert done == [True, True]
            assert bench.release_many([(keys[2], tokens[2])]) == [True]
            answers, _ = bench.lookup_many(keys)
            assert [type(answer) for answer in answers] == [Hit, Hit, Stale]
            assert [answer.stored for answer in answers] == [b"new", b"new", keys[2].encode()]

    @promise_of("batches")
    def test_many_keys(self, bench: Bench) -> None:
        """A batch may be long: each answer is that of its own key."""
        keys = [bench.key(str(number)) for number in range(500)]
        answers, _ = bench.lookup_many(keys)
        assert all(isinstance(answer, Leased) for answer in answers)
        fills = [Fill(key, answer.token, key.encode(), 60) for key, answer in zip(keys, answers, strict=True)]
        done, _ = bench.fill_many(fills[:400])
        assert done == [True] * 400
        assert bench.release_many([fill[:2] for fill in fills]) == [False] * 400 + [True] * 100
        answers, _ = bench.lookup_many(keys, None)
        assert [answer and answer.stored for answer in answers] == [key.encode() for key in keys[:400]] + [None] * 100

    @promise_of("batches")
    def test_one_lease_for_a_crowd_of_batches(self, bench: Bench) -> None:
        """However many batches ask for the same keys at the same time, of each key one gets the lease."""
        for round_ in range(3):
            keys = [bench.key(f"{round_}{text}") for text in "abcde"]
            orders = [keys[place % 5 :] + keys[: place % 5] for place in range(CROWD)]
            calls = [bench.start(bench.beyond.lookup_many, order, 60) for order in orders]
            won = [
                key
                for order, call in zip(orders, calls, strict=True)
                for key, answer in zip(order, call.result()[0], strict=True)
                if type(answer) is Leased
            ]
            assert sorted(won) == keys

    @promise_of("batches")
    def test_leases_of_a_batch(self, bench: Bench) -> None:
        """A lease won in a batch is one like any other: an invalidation kills it, and it ends by itself."""
        lost, ended, kept = keys = [bench.key(text) for text in ("lost", "ended", "kept")]
        answers, _ = bench.lookup_many([lost, kept], LONG)
        brief, _ = bench.lookup_many([ended], SHORT)
        bench.invalidate(lost)
        assert bench.expired(ended, SHORT)
        tokens = [answers[0].token, brief[0].token, answers[1].token]
        done, _ = bench.fill_many([Fill(key, token, b"late", 60) for key, token in zip(keys, tokens, strict=True)])
        assert done == [False, False, True]
        assert bench.free(lost)
        assert not isinstance(bench.lookup(ended), Hit)
        assert bench.hit(kept).stored == b"late"

    @promise_of("batches")
    def test_fill_many(self, bench: Bench) -> None:
        """Each fill is accepted or refused by itself, in its place, and has its own value and ttl."""
        short, lost, long, foreign, endless = keys = [bench.key(text) for text in ("s", "lost", "l", "f", "e")]
        tokens = [bench.token(key) for key in keys]
        bench.invalidate(lost)
        tokens[3] = tokens[2]
        ttls = [SHORT, 60, LONG, 60, None]
        fills = [Fill(key, token, key.encode(), ttl) for key, token, ttl in zip(keys, tokens, ttls, strict=True)]
        done, _ = bench.fill_many(fills)
        assert done == [True, False, True, False, True]
        assert bench.expired(short, SHORT)
        assert [bench.hit(key).stored for key in (long, endless)] == [long.encode(), endless.encode()]
        assert bench.free(lost)
        assert type(bench.lookup(foreign)) is Busy

    @promise_of("batches")
    def test_fill_many_leaves_guards(self, bench: Bench) -> None:
        """A batch puts nothing over a writer's guard."""
        key, other = bench.key(), bench.key("other")
        tokens = [bench.token(key), bench.token(other)]
        mark = bench.guard(key)
        done, _ = bench.fill_many([Fill(key, tokens[0], b"old", 60), Fill(other, tokens[1], b"new", 60)])
        assert done == [False, True]
        assert bench.release_many([(key, tokens[0])]) == [False]
        assert guarded(bench, key)
        assert bench.update(mark, key, b"written") is True

    @promise_of("batches")
    def test_release_many(self, bench: Bench) -> None:
        """Each lease is given back by itself: those alive free their keys, and those lost take nothing from others."""
        alive, lost, filled, foreign = keys = [bench.key(text) for text in ("alive", "lost", "filled", "foreign")]
        tokens = [bench.token(key) for key in keys]
        bench.invalidate(lost)
        newer = bench.token(lost)
        assert bench.fill(filled, tokens[2], b"value") is True
        tokens[3] = tokens[0]
        assert bench.release_many(list(zip(keys, tokens, strict=True))) == [True, False, False, False]
        assert bench.free(alive)
        assert bench.fill(lost, newer, b"new") is True
        assert bench.hit(filled).stored == b"value"
        assert type(bench.lookup(foreign)) is Busy

    @promise_of("batches")
    def test_replace_many(self, bench: Bench) -> None:
        """Each entry that was seen is replaced by a lease of its own; those that have changed since are left alone."""
        seen, changed, held = keys = [bench.key(text) for text in ("seen", "changed", "held")]
        for key in keys:
            bench.store(key, b"old")
        entries = [(key, bench.hit(key).seen) for key in keys]
        bench.invalidate(changed)
        bench.store(changed, b"newer")
        mark = bench.guard(held)
        replaced, *left = bench.replace_many(entries)
        assert isinstance(replaced, Leased)
        assert [type(answer) for answer in left] == [Busy, Busy]
        assert [type(answer) for answer in bench.replace_many(entries)] == [Busy] * 3
        assert bench.hit(changed).stored == b"newer"
        assert bench.update(mark, held, b"written") is True
        assert bench.fill(seen, replaced.token, b"new") is True
        keys = [bench.key(str(number)) for number in range(500)]
        bench.fill_many([Fill(key, bench.token(key), b"old", 60) for key in keys])
        answers = bench.replace_many([(key, bench.hit(key).seen) for key in keys])
        done, _ = bench.fill_many(
            [Fill(key, each.token, key.encode(), 60) for key, each in zip(keys, answers, strict=True)]
        )
        assert done == [True] * 500
        assert [bench.hit(key).stored for key in keys] == [key.encode() for key in keys]

    @promise_of("batches")
    def test_claim_many(self, bench: Bench) -> None:
        """Each entry that was seen is claimed by one, and served meanwhile; those that have changed since are not."""
        if "claims" in bench.capabilities:
            seen, changed, marked, claimed = keys = [
                bench.key(text) for text in ("seen", "changed", "marked", "claimed")
            ]
            for key in keys:
                bench.store(key, b"old")
            bench.mark_stale(marked)
            found, _ = bench.lookup_many(keys)
            entries = [(key, answer.seen) for key, answer in zip(keys, found, strict=True)]
            bench.invalidate(changed)
            bench.store(changed, b"newer")
            assert isinstance(bench.claim(*entries[3]), Leased)
            answers = bench.claim_many(entries)
            assert [type(answer) for answer in answers] == [Leased, Busy, Leased, Busy]
            assert [type(answer) for answer in bench.claim_many(entries)] == [Busy] * 4
            assert [bench.hit(key).stored for key in (seen, changed, claimed)] == [b"old", b"newer", b"old"]
            fills = [Fill(keys[place], answers[place].token, b"new", 60) for place in (0, 2)]
            assert bench.fill_many(fills)[0] == [True, True]
            assert [bench.hit(key).stored for key in (seen, marked)] == [b"new", b"new"]

    @promise_of("batches")
    def test_batch_of_nothing(self, bench: Bench) -> None:
        """No keys have no answers."""
        assert bench.lookup_many([]) == ([], [])
        assert bench.lookup_many([], None) == ([], [])
        assert bench.fill_many([]) == ([], [])
        assert bench.release_many([]) == []
        assert bench.replace_many([]) == []
        assert bench.claim_many([]) == []
        assert bench.plant() == []

    # Tags.

    @promise_of("batches")
    def test_plant(self, bench: Bench) -> None:
        """A tag has no version until one is planted: 16 visible characters, the same for all who ask from then on."""
        tags = [bench.key(text) for text in "abc"]
        assert bench.lookup_many([], None, tags) == ([], [None] * 3)
        assert bench.fill_many([], tags) == ([], [None] * 3)
        made = bench.plant(tags[0], tags[2])
        assert all(type(version) is bytes and len(version) == 16 for version in made)
        assert all(33 <= character <= 126 for version in made for character in readable(version))
        assert made[0] != made[1]
        for _ in range(2):
            assert bench.lookup_many([], 60, tags)[1] == [made[0], None, made[1]]
            assert bench.fill_many([], tags[::-1])[1] == [made[1], None, made[0]]
        both = bench.plant(*tags)
        assert [both[0], both[2]] == made
        assert both[1] not in (None, *made)
        assert bench.plant(*tags) == both

    @promise_of("batches")
    def test_tags_beside_keys(self, bench: Bench) -> None:
        """Lookups and fills tell versions in the same exchange, and mix nothing up."""
        tags, keys = [bench.key(f"tag{text}") for text in "abc"], [bench.key(text) for text in "abc"]
        made = bench.plant(*tags[:2])
        bench.store(keys[1], b"value")
        answers, versions = bench.lookup_many(keys, 60, tags)
        assert [type(answer) for answer in answers] == [Leased, Hit, Leased]
        assert versions == [*made, None]
        fills = [Fill(key, answers[0].token, b"filled", 60) for key in keys[:2]]  # one has it not
        done, versions = bench.fill_many(fills, tags)
        assert (list(done), list(versions)) == ([True, False], [*made, None])
        answers, versions = bench.lookup_many(keys[:2], None, tags[1:])
        assert [answer.stored for answer in answers] == [b"filled", b"value"]
        assert versions == [made[1], None]

    @promise_of("batches")
    def test_one_version_for_a_crowd(self, bench: Bench) -> None:
        """However many plant a version at the same time, they all get the same one."""
        for round_ in range(5):
            tags = [bench.key(f"{round_}{text}") for text in "ab"]
            calls = [bench.start(bench.beyond.plant, tags) for _ in range(CROWD)]
            planted = [list(call.result()) for call in calls]
            assert planted == [planted[0]] * CROWD
            assert bench.lookup_many([], None, tags)[1] == planted[0]

    @promise_of("batches")
    def test_turned_tag(self, bench: Bench) -> None:
        """A version is gone when its key is invalidated, and never comes back; other tags are spared."""
        turned, spared = bench.key("turned"), bench.key("spared")
        versions = bench.plant(turned, spared)
        kept = versions.pop()
        for _ in range(10):
            bench.invalidate(turned)
            assert bench.lookup_many([], None, [turned, spared])[1] == [None, kept]
            assert bench.fill_many([], [turned])[1] == [None]
            versions += bench.plant(turned)
        assert len(set(versions)) == 11
        assert bench.plant(spared) == [kept]

    @promise_of("batches")
    def test_guarded_tag(self, bench: Bench) -> None:
        """A strict writer's guard takes a version away, and lets none be planted until it is taken back."""
        tag, absent, other = tags = [bench.key(text) for text in ("planted", "absent", "other")]
        old, spared = bench.plant(tag, other)
        mark = bench.guard(tag, absent)
        asks: list[Callable[[], list[Version]]] = [
            lambda: bench.lookup_many([], 60, tags)[1],
            lambda: bench.fill_many([], tags)[1],
            lambda: bench.plant(*tags),
        ]
        for ask in asks:
            versions = ask()
            assert [type(version) for version in versions] == [Guarded, Guarded, bytes]
            assert versions[2] == spared
        bench.invalidate(absent)
        assert type(bench.plant(absent)[0]) is Guarded
        assert bench.unguard(mark) == 0
        assert bench.lookup_many([], None, tags)[1] == [None, None, spared]
        assert bench.plant(tag)[0] not in (None, old)

    @promise_of("batches")
    def test_lost_mark_turns_a_tag(self, bench: Bench) -> None:
        """Taking back a mark that is not there turns the tag: who planted since may have read an older value."""
        tag = bench.key()
        mark = bench.guard(tag)
        assert bench.unguard(mark) == 0
        bench.plant(tag)
        assert bench.unguard(mark) == 1
        assert bench.lookup_many([], None, [tag])[1] == [None]

    @promise_of("batches")
    def test_cleared_tags(self, bench: Bench) -> None:
        """Clearing drops versions with all else."""
        tag, other = bench.key("mine:tag"), bench.key("other")
        old, kept = bench.plant(tag, other)
        if "clear" in bench.capabilities:
            bench.clear(bench.key("mine:"))
            assert bench.lookup_many([], None, [tag, other])[1] == [None, kept]
            assert bench.plant(tag)[0] not in (None, old)
        bench.clear(None)
        assert bench.lookup_many([], None, [tag, other])[1] == [None, None]
        assert bench.plant(other)[0] not in (None, kept)


def readable(version: Version) -> bytes:
    """The version, which has to be one."""
    assert isinstance(version, bytes), f"there should have been a version, and it is {version!r}"
    return version
