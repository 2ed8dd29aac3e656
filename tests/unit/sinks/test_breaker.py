"""Every transition of the breaker's table, with senders that overlap."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from otlp_arrow.sinks.breaker import Breaker, BreakerSettings, Permit, Refused, State


def permitted(breaker: Breaker, now: float = 0.0) -> Permit:
    answer = breaker.ask(now)
    assert isinstance(answer, Permit)
    return answer


def refused(breaker: Breaker, now: float = 0.0) -> float:
    answer = breaker.ask(now)
    assert isinstance(answer, Refused)
    return answer.wait_s


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(BreakerSettings(failures=2, open_s=30))
    for permit in [permitted(breaker), permitted(breaker)]:
        breaker.failed(permit, at)
    assert breaker.state is State.OPEN
    return breaker


def test_closed_lets_everybody_through():
    breaker = Breaker()
    assert len({permitted(breaker).era for _ in range(100)}) == 1


def test_five_failures_in_a_row_open_it_by_default_for_thirty_seconds():
    breaker = Breaker()
    for number in range(5):
        assert breaker.state is State.CLOSED, number
        breaker.failed(permitted(breaker), 100.0)
    assert breaker.state is State.OPEN
    assert refused(breaker, 110.0) == 20.0


def test_a_success_between_failures_forgets_them():
    breaker = Breaker(BreakerSettings(failures=2))
    for _ in range(10):
        breaker.failed(permitted(breaker), 0.0)
        breaker.succeeded(permitted(breaker))
    assert breaker.state is State.CLOSED


def test_failures_of_calls_that_overlap_open_it_once():
    breaker = Breaker(BreakerSettings(failures=2, open_s=30))
    calls = [permitted(breaker) for _ in range(10)]
    for second, call in enumerate(calls):
        breaker.failed(call, float(second))
    assert refused(breaker, 9.0) == 22.0, "open since the second failure, not since the tenth"


def test_open_refuses_and_says_how_long():
    assert refused(opened(at=5.0), now=6.0) == 29.0


def test_after_the_time_exactly_one_call_is_the_probe():
    breaker = opened()
    permitted(breaker, 30.0)
    assert breaker.state is State.HALF_OPEN
    assert [refused(breaker, 30.0 + n) for n in range(5)] == [math.inf] * 5


def test_a_probe_that_succeeds_closes_it():
    breaker = opened()
    breaker.succeeded(permitted(breaker, 30.0))
    assert breaker.state is State.CLOSED
    breaker.failed(permitted(breaker), 31.0)
    assert breaker.state is State.CLOSED, "earlier failures are forgotten"


def test_a_probe_that_fails_opens_it_for_the_whole_time_again():
    breaker = opened()
    breaker.failed(permitted(breaker, 30.0), 33.0)
    assert refused(breaker, 34.0) == 29.0


def test_a_probe_that_is_cancelled_leaves_the_next_one_to_try_at_once():
    breaker = opened()
    breaker.abandoned(permitted(breaker, 30.0), 31.0)
    assert breaker.state is State.OPEN
    permitted(breaker, 31.0)
    assert breaker.state is State.HALF_OPEN


def test_calls_from_before_it_opened_say_nothing_about_the_probe():
    breaker = Breaker(BreakerSettings(failures=1, open_s=30))
    slow, other, cancelled = permitted(breaker), permitted(breaker), permitted(breaker)
    breaker.failed(permitted(breaker), 0.0)
    probe = permitted(breaker, 30.0)
    breaker.failed(slow, 31.0)
    breaker.succeeded(other)
    breaker.abandoned(cancelled, 31.0)
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded(probe)
    assert breaker.state is State.CLOSED


def test_a_cancelled_call_of_a_closed_breaker_changes_nothing():
    breaker = Breaker(BreakerSettings(failures=1))
    breaker.abandoned(permitted(breaker), 0.0)
    assert breaker.state is State.CLOSED


class Senders(RuleBasedStateMachine):
    """Any number of senders in any order: never two probes, never stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(BreakerSettings(failures=3, open_s=10))
        self.now = 0.0
        self.out: list[Permit] = []

    @rule()
    def ask(self) -> None:
        answer = self.breaker.ask(self.now)
        if isinstance(answer, Permit):
            self.out.append(answer)
        else:
            assert answer.wait_s > 0

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0), result=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def come_back(self, which: int, result: str) -> None:
        permit = self.out.pop(which % len(self.out))
        if result == "succeeded":
            self.breaker.succeeded(permit)
        elif result == "failed":
            self.breaker.failed(permit, self.now)
        else:
            self.breaker.abandoned(permit, self.now)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def at_most_one_probe_and_somebody_can_always_try_again(self) -> None:
        current = [p for p in self.out if p.era == self.breaker._era]
        if self.breaker.state is State.HALF_OPEN:
            assert len(current) == 1, "half-open without its probe would stay so for ever"
        if self.breaker.state is State.OPEN:
            assert not current


TestSenders = Senders.TestCase


@given(st.lists(st.booleans(), max_size=50))
def test_it_opens_exactly_when_the_last_results_were_all_failures(results: list[bool]):
    breaker = Breaker(BreakerSettings(failures=4, open_s=10))
    in_a_row = 0
    for ok in results:
        permit = breaker.ask(0.0)
        if isinstance(permit, Refused):
            break
        in_a_row = 0 if ok else in_a_row + 1
        breaker.succeeded(permit) if ok else breaker.failed(permit, 0.0)
        assert (breaker.state is State.OPEN) == (in_a_row >= 4)
