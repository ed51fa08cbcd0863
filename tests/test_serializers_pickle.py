"""The pickle serializer: nothing is unpickled that was not signed with a secret of ours."""

from __future__ import annotations

import base64
import hmac
import pickle
import threading
from collections import OrderedDict
from typing import Any

import pytest
from serializer_values import SECRET, STRICT, MyStr, Plain, back

from cacheside import serializers
from cacheside.errors import ConfigurationError, DecodeError, NotCacheableError


class Boom:
    """Shows that it was unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Boom, "ran", True))


def test_pickle_comes_back() -> None:
    """Any picklable value comes back, under a secret as text or bytes."""
    for secret in (SECRET, SECRET.encode(), [SECRET], (b"x" * 16, SECRET)):
        signed = serializers.create("pickle", secret)
        for value in ([OrderedDict(a=1), MyStr("x")], range(3), Plain(1, "a")):
            assert back(signed, value) == value
            assert type(back(signed, value)) is type(value)


def test_pickle_rotation() -> None:
    """The first secret signs, each verifies; one that was taken away verifies no longer."""
    old, new = "o" * 32, "n" * 32
    before = serializers.create("pickle", old)
    during = serializers.create("pickle", [new, old])
    after = serializers.create("pickle", [new])
    assert during.loads(before.dumps(1)) == 1
    assert after.loads(during.dumps(2)) == 2
    for reader, data in ((after, before.dumps(1)), (before, during.dumps(1))):
        with pytest.raises(DecodeError, match="signature"):
            reader.loads(data)


def test_pickle_is_not_read_before_it_is_verified() -> None:
    """A pickle that is unsigned, signed otherwise, changed or cut is not unpickled at all."""
    signed = serializers.create("pickle", SECRET)
    evil = pickle.dumps(Boom())
    good = signed.dumps(Boom())
    forged = [
        evil,
        b"\0" * 32 + evil,
        hmac.digest(b"w" * 32, evil, "sha256") + evil,
        hmac.digest(SECRET.encode(), evil, "sha1") + evil,
        hmac.digest(SECRET.encode(), evil, "md5") + evil,
        base64.b64encode(good),
        good[:-1],
        good + b"x",
        good[:31],
        b"",
        *(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good))),
    ]
    for data in forged:
        with pytest.raises(DecodeError):
            signed.loads(data)
    assert not Boom.ran
    signed.loads(good)
    assert Boom.ran
    Boom.ran = False


def test_pickle_refuses_what_cannot_be_pickled() -> None:
    """Locks, lambdas and endless nesting are refused as by the others."""
    signed = serializers.create("pickle", SECRET)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (threading.Lock(), lambda: 1, deep):
        with pytest.raises(NotCacheableError, match="cache_if="):
            signed.dumps(value)


def test_signed_pickle_that_cannot_be_read() -> None:
    """A class that is gone is a miss, whatever its unpickling raises."""
    signed = serializers.create("pickle", SECRET)
    for payload in (b"cno_such_module\nThing\n.", b"cos\nno_such_name\n.", b"", b"garbage"):
        with pytest.raises(DecodeError):
            signed.loads(hmac.digest(SECRET.encode(), payload, "sha256") + payload)


@pytest.mark.parametrize(
    "secret", ["", b"", "short", b"x" * 15, [], [SECRET, "short"], [SECRET, ""], [5], 5, bytearray(32)]
)
def test_weak_secrets(secret: Any) -> None:
    """Short, empty and strange secrets are refused, with the way to make a good one; the message shows none of it."""
    with pytest.raises(ConfigurationError, match=r"secrets\.token_hex\(32\)") as caught:
        serializers.create("pickle", secret)
    assert SECRET not in str(caught.value)
    assert "short" not in str(caught.value)


def test_secret_rules() -> None:
    """pickle needs a secret, the others and ready-made objects take none."""
    with pytest.raises(ConfigurationError, match=r"secrets\.token_hex\(32\)"):
        serializers.create("pickle")
    for serializer in ("msgpack", "json", STRICT[0]):
        with pytest.raises(ConfigurationError, match="secret="):
            serializers.create(serializer, SECRET)
    assert SECRET not in repr(vars(serializers.create("pickle", SECRET)).keys())
    assert SECRET not in repr(serializers.create("pickle", SECRET))
