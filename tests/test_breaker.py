"""The circuit breaker: nobody waits for a server that does not answer, and one call now and then finds out whether it
answers again."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cacheside import CacheUnavailable, breaker
from cacheside.breaker import FIRST, LONGEST, Breaker
from cacheside.testing import FakeClock

TIMEOUT = 0.25


@pytest.fixture
def clock() -> FakeClock:
    """What the breaker goes by."""
    return FakeClock(1000.0)


@pytest.fixture
def subject(clock: FakeClock) -> Breaker:
    """A new one; closed, as all are."""
    return Breaker("redis://h:1", TIMEOUT, clock)


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without jitter: probes come as late as they may."""
    monkeypatch.setattr(breaker.random, "uniform", lambda low, high: high)


def admits(subject: Breaker) -> bool:
    """Whether a command may be sent now."""
    try:
        subject.admit()
    except CacheUnavailable:
        return False
    return True


def wait_of(subject: Breaker, clock: FakeClock) -> float:
    """The seconds until the next probe, which is sent then."""
    passed = 0.0
    while not admits(subject):
        clock.advance(0.005)
        passed += 0.005
        assert passed < 10
    return passed


def test_closed(subject: Breaker) -> None:
    """A new breaker is closed: all commands go out, and their success changes nothing."""
    for _ in range(3):
        assert not subject.open
        subject.admit()
        subject.succeeded()


def test_one_failure_opens(subject: Breaker) -> None:
    """One failure is enough: the next command is refused before it is sent, with the server's name and the reason."""
    subject.failed(TimeoutError("no answer in 0.25 s"))
    assert subject.open
    for _ in range(3):
        with pytest.raises(CacheUnavailable, match=r"redis://h:1 .*no answer in 0\.25 s") as refused:
            subject.admit()
        assert refused.value.sent is False
        assert refused.value.keys is None


def test_urgent(subject: Breaker) -> None:
    """What is urgent goes out as long as failing costs no time; one time-out, and it waits for a probe as well."""
    subject.failed("refused", at_once=True)
    for _ in range(3):
        subject.admit(urgent=True)
        assert not admits(subject)
    subject.failed("timed out")
    with pytest.raises(CacheUnavailable):
        subject.admit(urgent=True)
    subject.failed("refused", at_once=True)
    subject.admit(urgent=True)


def test_the_last_reason_is_told(subject: Breaker) -> None:
    """What a refused caller is told is what happened last."""
    subject.failed("first")
    subject.failed("second")
    with pytest.raises(CacheUnavailable, match="second"):
        subject.admit()


def test_one_probe(subject: Breaker, clock: FakeClock, latest: None) -> None:
    """When its time has come one command goes out, and the others are refused while that one is under way."""
    subject.failed("gone")
    clock.advance(FIRST - 0.001)
    assert not admits(subject)
    clock.advance(0.001)
    assert [admits(subject) for _ in range(5)] == [True, False, False, False, False]
    clock.advance(TIMEOUT)
    assert not admits(subject)
    assert subject.open


def test_probe_that_succeeds(subject: Breaker, clock: FakeClock, latest: None) -> None:
    """An answer to the probe closes the breaker: all commands go out at once."""
    subject.failed("gone")
    clock.advance(FIRST)
    subject.admit()
    subject.succeeded()
    assert not subject.open
    assert [admits(subject) for _ in range(3)] == [True] * 3


def test_probe_that_vanishes(subject: Breaker, clock: FakeClock, latest: None) -> None:
    """A probe that nobody hears of again (its caller was cancelled) blocks nobody for ever: there is another."""
    subject.failed("gone")
    clock.advance(FIRST)
    subject.admit()
    clock.advance(TIMEOUT + FIRST - 0.001)
    assert not admits(subject)
    clock.advance(0.002)
    assert [admits(subject), admits(subject)] == [True, False]


def test_back_off(subject: Breaker, clock: FakeClock, latest: None) -> None:
    """Each probe that fails doubles the wait for the next, up to the longest."""
    waits = []
    for _ in range(7):
        subject.failed("gone")
        waits.append(round(wait_of(subject, clock), 1))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert (waits[0], waits[-1]) == (FIRST, LONGEST)


def test_success_resets_the_back_off(subject: Breaker, clock: FakeClock, latest: None) -> None:
    """After an answer the next outage begins with the first wait."""
    for _ in range(5):
        subject.failed("gone")
    subject.succeeded()
    subject.failed("gone again")
    assert round(wait_of(subject, clock), 1) == FIRST


def test_late_success_closes(subject: Breaker) -> None:
    """An answer is an answer, be it to a command that was sent before the breaker opened."""
    subject.admit()
    subject.failed("another's")
    subject.succeeded()
    assert admits(subject)


def test_crowd_that_fails_together(subject: Breaker, clock: FakeClock, latest: None) -> None:
    """A hundred commands under way that all fail are one failure: only a probe that fails lengthens the wait."""
    for _ in range(100):
        subject.failed("gone")
    assert wait_of(subject, clock) <= FIRST + 0.01


def test_jitter(clock: FakeClock) -> None:
    """The waits are spread over the upper half, so that many processes do not knock in step."""
    for failures, longest in ((1, FIRST), (2, FIRST * 2), (9, LONGEST)):
        waits = []
        for _ in range(30):
            subject = Breaker("s", TIMEOUT, clock)
            for _ in range(failures - 1):
                subject.failed("gone")
                wait_of(subject, clock)  # up to a probe
            subject.failed("gone")
            waits.append(wait_of(subject, clock))
        assert min(waits) >= longest / 2 - 0.01
        assert max(waits) <= longest + 0.01
        assert max(waits) - min(waits) > longest / 10


def test_threads_share_one_probe(subject: Breaker, clock: FakeClock) -> None:
    """Of many threads that come at the moment of the probe one gets it."""
    with ThreadPoolExecutor(16) as threads:
        for _ in range(30):
            subject.failed("gone")
            clock.advance(LONGEST)
            together = threading.Barrier(16)

            def come(together: threading.Barrier = together) -> bool:
                together.wait()
                return admits(subject)

            calls = [threads.submit(come) for _ in range(16)]
            assert [call.result() for call in calls].count(True) == 1


def test_threads_that_fail_and_succeed(clock: FakeClock) -> None:
    """Whatever the threads report, the last word stands: the breaker is closed after a success, and open after a
    failure."""
    subject = Breaker("s", TIMEOUT, clock)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            reports: list[Any] = [subject.succeeded, lambda: subject.failed("gone")] * 20
            for call in [threads.submit(report) for report in reports]:
                call.result()
            subject.failed("gone")
            assert not admits(subject)
            subject.succeeded()
            assert admits(subject)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of 3.12, of forking beside threads
def test_fork(subject: Breaker) -> None:
    """A child that is forked while another thread is in the breaker can use it, and knows what the parent knew."""
    subject.failed("gone")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with subject._lock:
            held.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        known = subject.open and not admits(subject)  # without a lock of its own it would wait here
        subject.succeeded()
        os._exit(0 if known and not subject.open else 1)
    release.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    assert subject.open
