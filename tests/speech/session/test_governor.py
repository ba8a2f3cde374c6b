from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import Meter
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Allowed
from llm2ws.speech.session.governor import MARGIN, Governor

# Steps of a sender: a wait in seconds, then so many characters; 0 stands for a Flush, -1 for a final one.
STEPS = st.lists(st.tuples(st.floats(0, 30), st.integers(-1, 120)), max_size=80)


def limits(chars: int, flushes: int, reserve: int = 0) -> Limits:
    return Limits(chars_per_window=chars, flushes_per_window=flushes, flush_reserve=reserve, window_s=60.0)


@given(STEPS, st.lists(st.floats(0, 59 * MARGIN), min_size=80, max_size=80))
def test_an_endpoint_that_counts_exactly_has_nothing_to_refuse(steps: list[tuple[float, int]], lags: list[float]) -> None:
    """Whatever is asked for, and though each message takes another time to arrive."""
    governor, meter, now, arrival = Governor(limits(120, 5, 2)), Meter(Allowed(120, 5, 60.0)), 0.0, 0.0
    for (wait_s, n), lag in zip(steps, lags, strict=False):
        now += wait_s
        if n > 0:
            now = governor.speak_at(n, now)
            governor.spoke(n, now)
        else:
            now = governor.flush_at(now, final=n < 0)
            governor.flushed(now)
        arrival = max(arrival, now + lag)  # messages keep their order
        assert meter.speak(n, now=arrival) if n > 0 else meter.flush(now=arrival)


@given(STEPS)
def test_it_never_waits_longer_than_its_window_demands(steps: list[tuple[float, int]]) -> None:
    window_s = 60 * (1 + MARGIN)
    governor, now, spoken, flushes = Governor(limits(120, 5, 2)), 0.0, list[tuple[float, int]](), list[float]()
    for wait_s, n in steps:
        now += wait_s
        at = governor.speak_at(n, now) if n > 0 else governor.flush_at(now, final=n < 0)
        if at > now:  # a moment before, the window was full
            before = at - 1e-6
            if n > 0:
                assert sum(m for t, m in spoken if t > before - window_s) + n > 120
            else:
                assert sum(t > before - window_s for t in flushes) >= (5 if n < 0 else 3)
        now = at
        if n > 0:
            governor.spoke(n, now)
            spoken.append((now, n))
        else:
            governor.flushed(now)
            flushes.append(now)


@given(STEPS)
def test_asking_changes_nothing(steps: list[tuple[float, int]]) -> None:
    governor, now = Governor(limits(120, 5)), 0.0
    for wait_s, n in steps:
        now += wait_s
        assert governor.speak_at(max(1, n), now) == governor.speak_at(max(1, n), now)
        governor.spoke(max(1, n), now)


def test_the_reserve_is_for_final_flushes() -> None:
    governor = Governor(limits(2_400, 20, 8))
    for second in range(12):
        assert governor.flush_at(second, final=False) == second
        governor.flushed(second)
    assert governor.flush_at(12.0, final=False) == pytest.approx(60 * (1 + MARGIN))
    for second in range(12, 20):
        assert governor.flush_at(second, final=True) == second
        governor.flushed(second)
    assert governor.flush_at(20.0, final=True) == pytest.approx(60 * (1 + MARGIN))


@pytest.mark.parametrize(("flushes", "reserve"), [(1, 8), (5, 8), (8, 8)])
def test_a_reserve_as_large_as_the_limit_leaves_one_flush(flushes: int, reserve: int) -> None:
    governor = Governor(limits(100, flushes, reserve))
    assert governor.flush_at(1.0, final=False) == 1.0
    governor.flushed(1.0)
    assert governor.flush_at(2.0, final=False) > 60.0


def test_after_a_refusal_the_window_is_taken_to_be_full() -> None:
    governor = Governor(limits(2_400, 20))
    for second in (0, 10, 20):
        governor.flushed(second)
    governor.refused(21.0)
    assert governor.flush_at(21.0, final=True) == pytest.approx(60 * (1 + MARGIN))
    governor = Governor(Limits())
    governor.flushed(0.0)
    governor.refused(0.1)
    assert 0.1 < governor.flush_at(0.1, final=True) <= 70.0


def test_without_limits_nothing_waits() -> None:
    governor = Governor(Limits())
    for _ in range(100):
        assert governor.speak_at(10**6, 1.0) == governor.flush_at(1.0, final=False) == 1.0
        governor.spoke(10**6, 1.0)
        governor.flushed(1.0)


def test_flushes_are_kept_apart_the_farther_the_fewer_are_left() -> None:
    governor = Governor(limits(2_400, 20, 8))
    assert governor.spread_at(0.0, 5.0) == 5.0  # none has been sent
    gaps = []
    now = 0.0
    for _ in range(10):
        governor.flushed(now)
        at = governor.spread_at(2.0, now)
        gaps.append(at - now)
        assert governor.spread_at(4.0, now) <= at  # what lasts longer waits less
        assert governor.spread_at(60.0, now) == now
        now += 3.0  # oftener than that
    assert gaps == sorted(gaps)
    governor.flushed(now)
    # One of the twelve that are not kept for final ones is left for the turn's own end.
    assert governor.spread_at(60.0, now) == pytest.approx(60 * (1 + MARGIN))
    assert governor.flush_at(now, final=False) == now


@given(STEPS)
def test_spread_flushes_keep_the_limit_and_leave_one_for_the_end(steps: list[tuple[float, int]]) -> None:
    governor, now, sent = Governor(limits(2_400, 20, 8)), 0.0, list[float]()
    for wait_s, speech_s in steps:
        now = max(now + wait_s, governor.spread_at(max(0.0, speech_s / 10), now + wait_s))
        governor.flushed(now)
        sent.append(now)
        assert sum(now - 60.0 < at <= now for at in sent) <= 11


def test_without_a_limit_flushes_are_not_kept_apart() -> None:
    governor = Governor(Limits())
    governor.flushed(0.0)
    assert governor.spread_at(0.0, 0.0) == 0.0


def test_a_connection_can_carry_an_answer_while_enough_of_its_limits_is_left() -> None:
    governor = Governor(Limits(chars_per_window=1_000, flushes_per_window=10, flush_reserve=4))
    assert governor.can_carry(200, 4, 0.0)
    assert governor.can_carry(2_000, 20, 0.0)  # more than the limits ever allow: an unused connection is the best there is
    governor.spoke(800, 1.0)
    for _ in range(2):
        governor.flushed(1.0)
    assert governor.can_carry(200, 4, 2.0)
    assert not governor.can_carry(201, 4, 2.0)
    assert not governor.can_carry(200, 5, 2.0)
    assert governor.can_carry(201, 5, 70.0)
    governor.refused(71.0)
    assert not governor.can_carry(1, 1, 72.0)
    assert Governor(Limits()).can_carry(10_000, 1_000, 0.0)
