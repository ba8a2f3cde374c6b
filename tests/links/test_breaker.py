"""Which endpoint may be tried, and when again."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llm2ws.links.breaker import FAILURES, LONGEST_REST_S, REST_S, Breaker


def failed(breaker: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breaker.trying(now)
        breaker.failed(now)


def test_a_few_failures_do_no_harm() -> None:
    breaker = Breaker()
    failed(breaker, FAILURES - 1)
    assert breaker.allows(0.0)
    assert breaker.rests_until == float("-inf")
    breaker.succeeded()
    failed(breaker, FAILURES - 1)
    assert breaker.allows(0.0)


def test_after_more_it_rests_then_one_may_try() -> None:
    breaker = Breaker()
    failed(breaker, FAILURES, now=1.0)
    assert not breaker.allows(1.0)
    assert breaker.rests_until == 1.0 + REST_S
    assert not breaker.allows(1.0 + REST_S - 0.01)
    assert breaker.allows(1.0 + REST_S)
    breaker.trying(1.0 + REST_S)
    assert not breaker.allows(1.0 + REST_S)  # somebody is trying
    breaker.opened()
    assert breaker.allows(1.0 + REST_S)


def test_a_try_that_is_given_up_tells_nothing() -> None:
    breaker = Breaker()
    failed(breaker, FAILURES)
    breaker.trying(REST_S)
    breaker.gave_up()
    assert breaker.allows(REST_S)
    assert breaker.rests_until == REST_S


def test_each_failed_try_makes_the_rest_longer_up_to_its_end() -> None:
    breaker, now, rests = Breaker(), 0.0, list[float]()
    failed(breaker, FAILURES)
    for _ in range(6):
        rests.append(breaker.rests_until - now)
        now = breaker.rests_until
        failed(breaker, 1, now)
    assert rests == [5.0, 10.0, 20.0, 40.0, 60.0, LONGEST_REST_S]
    breaker.trying(breaker.rests_until)
    breaker.opened()
    breaker.succeeded()
    failed(breaker, FAILURES, now)
    assert breaker.rests_until == now + REST_S


def test_an_endpoint_that_takes_connections_and_gives_no_audio_is_not_healthy() -> None:
    breaker = Breaker()
    for n in range(FAILURES):
        assert breaker.allows(float(n))
        breaker.trying(float(n))
        breaker.opened()
        breaker.failed(float(n))
    assert not breaker.allows(FAILURES)


class AnyOrder(RuleBasedStateMachine):
    """Whatever is told in whatever order: it is never closed for ever, and never tried by two right after a rest."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now, self.trying = Breaker(), 0.0, False

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def try_it(self) -> None:
        self.breaker.trying(self.now)
        self.trying = True

    @precondition(lambda self: self.trying)
    @rule(end=st.sampled_from(("failed", "gave_up", "opened")))
    def end_try(self, end: str) -> None:
        self.trying = False
        match end:
            case "failed":
                self.breaker.failed(self.now)
            case "gave_up":
                self.breaker.gave_up()
            case _:
                self.breaker.opened()

    @rule()
    def audio_came(self) -> None:
        self.breaker.succeeded()
        assert self.breaker.allows(self.now)

    @rule()
    def a_connection_died(self) -> None:
        self.breaker.failed(self.now)

    @invariant()
    def rests_end(self) -> None:
        assert self.breaker.rests_until <= self.now + LONGEST_REST_S
        if not self.trying:
            assert self.breaker.allows(max(self.now, self.breaker.rests_until))


TestAnyOrder = AnyOrder.TestCase
