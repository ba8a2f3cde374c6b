"""When to say, flush and wait: decisions one by one, and whole answers on a virtual clock."""

from __future__ import annotations

import heapq
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import DEEPGRAM_LIMITS, Meter
from llm2ws.speech.session.session import Session
from llm2ws.speech.utterance.pacing import AHEAD_S, DRY_LEAST_S, Pace, Pacing, pause_s
from llm2ws.speech.utterance.steps import Act, Step, Wait
from llm2ws.speech.utterance.utterance import Utterance
from llm2ws.text.fragments import Boundary, Fragment, Hold

FORMAT = AudioFormat(sample_rate_hz=8_000)
DIALECT = Deepgram(Setup("", "", FORMAT))
OPEN = Limits()


def sentence(index: int, chars: int = 60) -> Fragment:
    return Fragment(index, "x" * (chars - 2) + ".", index * chars, (index + 1) * chars, Boundary.SENTENCE, "")


def utterance(n: int, *, finished: bool = False, chars: int = 60) -> Utterance:
    made = Utterance(FORMAT)
    for index in range(n):
        made.add(sentence(index, chars))
    if finished:
        made.finish()
    return made


def waits(step: Step, *, cut: bool | None = False) -> float:
    """Until when a step waits. `cut`: whether it wants a clause, None for either."""
    assert isinstance(step, Wait)
    assert cut is None or step.cut is cut
    return step.until


def audio(seconds: float) -> bytes:
    return b"\x01" * FORMAT.bytes_for(seconds)


@pytest.mark.parametrize(
    ("hold", "gap_s", "wait_s"),
    [
        (Hold.NOTHING, 0.1, math.inf),
        (Hold.SURE, 0.1, 0.12),
        (Hold.CAPITAL, 3.0, 0.12),
        (Hold.DOUBT, 0.1, 1.0),
        (Hold.DOUBT, 0.5, 2.0),
    ],
)
def test_how_long_a_pause_is_waited_out(hold: Hold, gap_s: float, wait_s: float) -> None:
    assert pause_s(hold, gap_s) == wait_s


def test_what_was_heard_is_what_is_reported_or_what_can_have_been() -> None:
    pacing = Pacing(Pace.LISTENER)
    assert pacing.played_s(5.0) == 0.0
    pacing.handed_out(2.0, 10.0)
    assert [pacing.played_s(now) for now in (10.0, 11.5, 20.0)] == [0.0, 1.5, 2.0]
    pacing.handed_out(4.0, 20.0)  # after a silence, that is not made up for
    assert [pacing.played_s(now) for now in (20.0, 21.5, 30.0)] == [2.0, 3.5, 6.0]
    pacing.played(0.5, 12.0)
    assert pacing.played_s(20.0) == 0.5
    pacing.played(99.0, 12.0)
    assert pacing.played_s(20.0) == 6.0
    hurried = Pacing(Pace.NONE)
    hurried.handed_out(2.0, 10.0)
    assert hurried.played_s(10.0) == 2.0


@pytest.mark.parametrize("pace", Pace)
def test_the_first_text_is_flushed_at_once(pace: Pace) -> None:
    pacing, spoken, gate = Pacing(pace), utterance(3), Session(DIALECT, now=0.0, limits=OPEN)
    assert pacing.next_step(spoken, gate, 0.0) is Act.SPEAK
    spoken.say()
    assert pacing.next_step(spoken, gate, 0.0) is Act.FLUSH


@pytest.mark.parametrize("pace", Pace)
def test_the_last_text_is_flushed_with_the_end(pace: Pace) -> None:
    pacing, spoken, gate = Pacing(pace), utterance(1, finished=True), Session(DIALECT, now=0.0, limits=OPEN)
    assert pacing.next_step(spoken, gate, 0.0) is Act.SPEAK
    spoken.say()
    assert pacing.next_step(spoken, gate, 0.0) is Act.END
    nothing = utterance(0, finished=True)
    assert Pacing(pace).next_step(nothing, gate, 0.0) is Act.END


@pytest.mark.parametrize("pace", Pace)
def test_two_groups_are_asked_for_at_most(pace: Pace) -> None:
    pacing, spoken, gate = Pacing(pace), utterance(100, finished=True), Session(DIALECT, now=0.0, limits=OPEN)
    while (step := pacing.next_step(spoken, gate, 0.0)) in (Act.SPEAK, Act.FLUSH):
        if step is Act.SPEAK:
            spoken.say()
        else:
            spoken.flush()
            pacing.flushed(0.0)
        assert spoken.flushes <= 2
    # A listener who has 3.9 s to hear needs no second one yet.
    waits(step)
    assert spoken.flushes == (2 if pace is Pace.NONE else 1)
    assert spoken.outstanding_s <= AHEAD_S


def test_a_refused_or_lost_flush_is_no_longer_counted() -> None:
    pacing, spoken, gate = Pacing(Pace.NONE), utterance(1), Session(DIALECT, now=0.0, limits=OPEN)
    spoken.say()
    spoken.flush()
    pacing.flushed(0.0)
    pacing.refused()
    spoken.refused()
    assert pacing.next_step(spoken, gate, 0.0) is Act.FLUSH
    pacing.flushed(1.0)
    pacing.lost()
    pacing.audio_came(9.0)  # belongs to no flush: teaches nothing
    assert pacing.flush_latency_s == 0.3


def test_the_time_from_flush_to_audio_is_learnt() -> None:
    pacing = Pacing(Pace.LISTENER)
    pacing.flushed(0.0)
    pacing.flushed(0.0)
    pacing.audio_came(0.1)
    pacing.audio_came(5.0)
    pacing.acked(6.0)
    pacing.audio_came(6.5)  # counted from when the endpoint was free for it
    assert pacing.flush_latency_s == pytest.approx(0.5)


def test_a_group_too_small_for_a_flush_takes_what_is_written_and_waits_no_longer_than_flushes_last() -> None:
    pacing, spoken, gate = Pacing(Pace.LISTENER), utterance(1), Session(DIALECT, now=0.0)
    ref = gate.begin(0.0)
    gate.speak(ref, spoken.say(), 0.0)
    gate.flush(ref, 0.0)
    spoken.flush()
    pacing.flushed(0.0)
    pacing.audio_came(0.1)
    spoken.received(audio(2.0))
    pacing.handed_out(2.0, 0.1)
    gate.receive('{"type": "Flushed"}', 0.2)
    pacing.acked(0.2)
    spoken.acked()
    spoken.add(sentence(1, 10))
    gate.speak(ref, spoken.say(), 2.0)
    step = pacing.next_step(spoken, gate, 2.2)
    until = waits(step, cut=True)
    assert 2.2 < until < 60.0 / 11 * 2
    assert pacing.next_step(spoken, gate, until) is Act.FLUSH
    spoken.add(sentence(2, 200))
    spoken.say()
    assert pacing.next_step(spoken, gate, 2.2) is Act.FLUSH


class Slow:
    """A turn of a slow model, on a connection with Deepgram's limits: so many sentences have been flushed, and have come."""

    def __init__(self, sentences: int, *, every_s: float, chars: int = 60) -> None:
        self.pacing, self.spoken, self.gate = Pacing(Pace.LISTENER), utterance(0), Session(DIALECT, now=0.0)
        self.ref, self.now, self.index = self.gate.begin(0.0), 0.0, 0
        for _ in range(sentences):
            self.say(chars)
            self.gate.flush(self.ref, self.now)
            self.spoken.flush()
            self.pacing.flushed(self.now)
            seconds = chars * self.spoken.seconds_per_char
            self.pacing.audio_came(self.now)
            self.gate.receive(data := audio(seconds), self.now)
            self.spoken.received(data)
            self.pacing.handed_out(seconds, self.now)
            self.gate.receive('{"type": "Flushed"}', self.now)
            self.pacing.acked(self.now)
            self.spoken.acked()
            self.now += every_s

    def say(self, chars: int) -> None:
        self.spoken.add(sentence(self.index, chars))
        self.index += 1
        self.gate.speak(self.ref, self.spoken.say(), self.now)

    def step(self, now: float) -> Step:
        return self.pacing.next_step(self.spoken, self.gate, now)


def test_a_clause_is_asked_for_even_when_its_flush_has_to_wait() -> None:
    """How much there is tells how long."""
    slow = Slow(5, every_s=4.0)
    assert slow.gate.spread_at(0.0, slow.now) > slow.now
    assert waits(slow.step(slow.now), cut=True) == math.inf


def test_what_a_fast_model_has_written_waits_less_for_a_flush_and_no_longer_while_it_waits() -> None:
    flushed_at = []
    for writing_s in (1.5, 2.2):  # for 1.95 s of speech
        slow = Slow(1, every_s=writing_s, chars=20)
        slow.say(30)
        step = slow.step(writing_s)
        until = waits(step, cut=True)
        assert waits(slow.step(until - 0.01), cut=True) == until
        assert slow.step(until) is Act.FLUSH
        flushed_at.append(until)
    assert flushed_at[0] < flushed_at[1] - 0.5


def test_the_flush_for_the_end_may_go_earlier_if_the_end_can_wait_for_another() -> None:
    slow = Slow(11, every_s=4.5)
    more_at = 60.0 * (1 + 1 / 60)  # when the first one is forgotten
    assert slow.gate.spread_at(math.inf, slow.now) == pytest.approx(more_at)
    slow.say(60)
    step = slow.step(slow.now)
    # The group lasts 3.9 s, and what follows is needed a little before that is over.
    until = waits(step, cut=True)
    assert until == pytest.approx(more_at - 3.9 + DRY_LEAST_S, abs=0.01)
    assert slow.step(until) is Act.FLUSH


def test_the_last_flush_waits_for_its_place_while_there_is_something_to_hear() -> None:
    slow = Slow(12, every_s=4.5)
    slow.now = 50.5
    slow.say(60)
    slow.spoken.finish()
    step = slow.step(slow.now)
    until = waits(step)
    assert slow.now < until < 61.0
    assert slow.step(until) is Act.END  # from the reserve: the listener needs it


def test_limits_make_it_wait_and_say_until_when() -> None:
    limits = Limits(chars_per_window=100, window_s=60.0)
    pacing, spoken, gate = Pacing(Pace.NONE), utterance(3), Session(DIALECT, now=0.0, limits=limits)
    ref = gate.begin(0.0)
    gate.speak(ref, spoken.say(), 0.0)
    spoken.flush()
    pacing.flushed(0.0)
    step = pacing.next_step(spoken, gate, 0.0)
    until = waits(step)
    assert until == pytest.approx(61.0)
    assert pacing.next_step(spoken, gate, until) is Act.SPEAK


def test_an_endpoint_that_speaks_as_text_comes_is_given_it_and_one_end() -> None:
    pacing, spoken, gate = (
        Pacing(Pace.NONE),
        Utterance(FORMAT, exact=True, group_s=math.inf),
        Session(DIALECT, now=0.0, limits=OPEN),
    )
    for index in range(10):
        spoken.add(sentence(index, 20))
    for _ in range(10):
        assert pacing.next_step_streaming(spoken, gate, 0.0, quiet_since=0.0) is Act.SPEAK
        spoken.say()
    waits(pacing.next_step_streaming(spoken, gate, 0.0, quiet_since=0.0))
    spoken.finish()
    assert pacing.next_step_streaming(spoken, gate, 0.0, quiet_since=0.0) is Act.END


def streaming(pace: Pace = Pace.LISTENER) -> tuple[Pacing, Utterance, Session]:
    return Pacing(pace), Utterance(FORMAT, group_s=math.inf), Session(DIALECT, now=0.0, limits=OPEN)


def test_a_context_is_ended_before_it_lapses_and_the_next_one_waits_for_that() -> None:
    pacing, spoken, gate = streaming(Pace.NONE)
    spoken.add(sentence(0))
    spoken.say()
    step = pacing.next_step_streaming(spoken, gate, 10.0, quiet_since=10.0, context_idle_s=1.0)
    assert waits(step) == 10.5
    assert waits(pacing.next_step_streaming(spoken, gate, 10.5, quiet_since=10.2, context_idle_s=1.0)) == 10.7
    assert pacing.next_step_streaming(spoken, gate, 10.7, quiet_since=10.2, context_idle_s=1.0) is Act.FLUSH
    spoken.flush()
    spoken.add(sentence(1))
    step = pacing.next_step_streaming(spoken, gate, 10.8, quiet_since=10.7, context_idle_s=1.0)
    assert waits(step) == math.inf
    spoken.received(audio(1.0))
    spoken.acked()
    assert pacing.next_step_streaming(spoken, gate, 11.0, quiet_since=10.7, context_idle_s=1.0) is Act.SPEAK


def test_a_listener_who_is_about_to_hear_silence_is_given_a_clause() -> None:
    pacing, spoken, gate = streaming()
    spoken.add(sentence(0))
    spoken.say()
    spoken.received(audio(3.9))
    pacing.handed_out(3.9, 0.0)
    step = pacing.next_step_streaming(spoken, gate, 0.0, quiet_since=0.0)
    assert waits(step) == 1.0  # by then it is known that no more audio comes
    step = pacing.next_step_streaming(spoken, gate, 2.0, quiet_since=0.0)
    assert waits(step) == pytest.approx(3.35)
    waits(pacing.next_step_streaming(spoken, gate, 3.4, quiet_since=0.0), cut=True)


def test_a_voice_that_is_faster_than_expected_does_not_stop_the_turn() -> None:
    pacing, spoken, gate = streaming()
    for index in range(40):
        spoken.add(sentence(index))
    now = 0.0
    while spoken.backlog_chars:
        step = pacing.next_step_streaming(spoken, gate, now, quiet_since=now - 1.0)
        if step is Act.SPEAK:
            spoken.say()
            spoken.received(audio(1.0))  # the estimate is 3.9 s
            pacing.handed_out(1.0, now)
        else:
            now = waits(step)
            assert now < math.inf
    assert now < 20.0


class Answer:
    """A whole answer on a virtual clock: what the listener heard of it, and when."""

    def __init__(self, pace: Pace, *, sentences: int, gap_s: float, speed: float, first_byte_s: float) -> None:
        self.silence_s = 0.0  # within the answer
        self.first_audio_at = math.inf
        self.flushed_at: list[float] = []
        self.ahead_s = 0.0  # asked for and not heard, at most
        self.over_at = 0.0
        self._clock(pace, sentences, gap_s, speed, first_byte_s)

    def _clock(self, pace: Pace, sentences: int, gap_s: float, speed: float, first_byte_s: float) -> None:
        pacing, spoken = Pacing(pace), Utterance(FORMAT)
        session, meter = Session(DIALECT, now=0.0), Meter(DEEPGRAM_LIMITS)
        ref, now, free_at, dry_at, group_chars, ended = session.begin(0.0), 0.0, 0.0, 0.0, 0, False
        order = 0
        events: list[tuple[float, int, str, float]] = []

        def later(at: float, what: str, value: float = 0.0) -> None:
            nonlocal order
            order += 1
            heapq.heappush(events, (at, order, what, value))

        for index in range(sentences):
            later(index * gap_s, "text", index)
        later(sentences * gap_s, "finish")
        while events:
            now, _, what, value = heapq.heappop(events)
            if what == "text":
                spoken.add(sentence(int(value)))
            elif what == "finish":
                spoken.finish()
            elif what == "audio":
                if self.first_audio_at == math.inf:
                    self.first_audio_at = dry_at = now
                self.silence_s += max(0.0, now - dry_at)
                dry_at = max(now, dry_at) + value
                session.receive(data := audio(value), now)
                pacing.audio_came(now)
                spoken.received(data)
                pacing.handed_out(value, now)
            elif what == "ack":
                session.receive('{"type": "Flushed"}', now)
                pacing.acked(now)
                spoken.acked()
            while not ended or spoken.open_chars:
                step = pacing.next_step(spoken, session, now)
                if step is Act.SPEAK:
                    text = spoken.say()
                    group_chars += len(text)
                    session.speak(ref, text, now)
                    assert meter.speak(len(text), now=now), "the endpoint would close the connection"
                elif step in (Act.FLUSH, Act.END):
                    ended = step is Act.END
                    if group_chars:
                        spoken.flush()
                        pacing.flushed(now)
                        self.flushed_at.append(now)
                        assert meter.flush(now=now), "the endpoint would refuse it"
                        begin = max(now + first_byte_s, free_at)
                        for part in range(10):  # in ten frames
                            later(begin + part / 10 * group_chars * 0.065 / speed, "audio", group_chars * 0.0065)
                        free_at = begin + group_chars * 0.065 / speed
                        later(free_at, "ack")
                    group_chars = 0
                    (session.end if ended else session.flush)(ref, now)
                else:
                    if (at := waits(step, cut=None)) < math.inf:
                        later(at, "look")
                    break
            self.ahead_s = max(self.ahead_s, spoken.released_s + spoken.outstanding_s - pacing.played_s(now))
        assert spoken.complete, "it stopped before its end"
        self.over_at = now


@settings(max_examples=40)
@given(
    pace=st.sampled_from(Pace),
    sentences=st.integers(1, 40),
    gap_s=st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    speed=st.sampled_from([1.2, 3.0, 100.0]),
    first_byte_s=st.sampled_from([0.08, 0.3]),
)
def test_an_answer_is_heard_to_its_end_within_every_limit(
    pace: Pace, sentences: int, gap_s: float, speed: float, first_byte_s: float
) -> None:
    answer = Answer(pace, sentences=sentences, gap_s=gap_s, speed=speed, first_byte_s=first_byte_s)
    assert answer.first_audio_at == pytest.approx(first_byte_s)
    assert answer.ahead_s <= AHEAD_S + 0.065 * 60


@pytest.mark.parametrize("speed", [1.2, 3.0, 100.0])
@pytest.mark.parametrize("first_byte_s", [0.08, 0.3])
@pytest.mark.parametrize("gap_s", [0.0, 0.5, 2.0])
def test_a_listener_hears_no_silence_while_there_is_text(gap_s: float, speed: float, first_byte_s: float) -> None:
    """A sentence is 3.9 s of speech, so the text is always ahead of it."""
    answer = Answer(Pace.LISTENER, sentences=40, gap_s=gap_s, speed=speed, first_byte_s=first_byte_s)
    assert answer.silence_s <= 0.05
    for at in answer.flushed_at:
        assert sum(at - 60 < other <= at for other in answer.flushed_at) <= 12


def test_twenty_thousand_characters_take_hardly_longer_than_the_limit_demands() -> None:
    answer = Answer(Pace.NONE, sentences=20_000 // 60, gap_s=0.0, speed=100.0, first_byte_s=0.1)
    demanded_s = (math.ceil(20_000 / 2_400) - 1) * 60
    # What is above it comes from the flushes: twelve early ones a minute, each for three of these sentences.
    assert demanded_s <= answer.over_at < demanded_s * 1.15
