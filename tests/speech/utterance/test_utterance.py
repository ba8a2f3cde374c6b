"""One turn's speech: by example, and as a whole against an endpoint on a virtual clock, in any order of events."""

from __future__ import annotations

import math
from collections import deque
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects import deepgram_server as server
from llm2ws.speech.messages import AudioChunk, Cancelled, Ended, Event, Failed, FlushAcked, FlushRefused, Warned
from llm2ws.speech.session.session import Session
from llm2ws.speech.utterance.groups import Released
from llm2ws.speech.utterance.pacing import Pace, Pacing
from llm2ws.speech.utterance.steps import Act, Wait
from llm2ws.speech.utterance.utterance import Utterance
from llm2ws.testing import Coding, Renderer, decode
from llm2ws.text.fragments import Boundary, Fragment
from tests.speech.utterance.fragments import DIALECT, FORMAT, fragments

# Long enough for the seam to see it: 10 ms a character.
CODING = Coding(char_samples=80, word_pause_s=0.06, sentence_pause_s=0.1, lead_in_s=0.0)


# --- by example


def test_marks_alone_are_never_flushed() -> None:
    """Not even when they come after the last text has been sent and its Flush is still to come."""
    for exact in (False, True):
        utterance = Utterance(FORMAT, exact=exact)
        utterance.add(fragments("Hello")[0])
        utterance.say()
        utterance.add(fragments(" —")[0])
        utterance.finish()
        utterance.flush()
        assert utterance.all_said
        assert (utterance.peek(), utterance.unspeakable_chars) == (None, 1)


# --- against an endpoint, in any order


LIMITS = Limits(chars_per_window=300, flushes_per_window=6, flush_reserve=2, window_s=10.0)
WORD = st.text("abc", min_size=1, max_size=5)
FRAGMENT = st.one_of(
    st.lists(WORD, min_size=1, max_size=12).map(lambda words: " " + " ".join(words) + "."),
    st.sampled_from([" —", "...", " ", "\n\n", '"', " ok"]),
)


class _Endpoint:
    """Deepgram, and the wire to it, as a pure model: what was sent but has not arrived is in `up` and `down`."""

    def __init__(self, *, acks_void: bool, frame: int) -> None:
        self.up: deque[tuple[float, str]] = deque()
        self.down: deque[str | bytes] = deque()
        self.log: list[server.SpeakIn | server.FlushIn | server.ClearIn] = []
        self.refuse = False  # the next Flush
        self.refuse_until = 0.0  # and all that were sent before the client knew: its window is full
        self.deaf = False  # to Clear
        self._acks_void = acks_void
        self._frame = frame
        self._meter = server.Meter(server.ServerLimits(chars=300, flushes=6, window_s=10.0))
        self._text = ""
        self._work: deque[str | bytes] = deque()

    def hear(self) -> None:
        """Take the oldest message that is on its way."""
        at, message = self.up.popleft()
        command = server.decode(message)
        assert isinstance(command, server.SpeakIn | server.FlushIn | server.ClearIn)
        self.log.append(command)
        match command:
            case server.SpeakIn(text=text):
                assert self._meter.speak(len(text), now=at), "too many characters"
                assert any(map(str.isalnum, self._text + text)), "marks alone"
                self._text += text
            case server.FlushIn():
                assert self._text, "a Flush of nothing"
                allowed = self._meter.flush(now=at)
                assert allowed, "too many flushes"
                if self.refuse or at <= self.refuse_until:
                    self.refuse, self.refuse_until = False, math.inf
                    self.down.append(server.EXCESSIVE_FLUSH)
                    return
                pcm = Renderer(CODING, FORMAT.sample_rate_hz, Random(0)).say(self._text)
                self._work += [pcm[i : i + self._frame] for i in range(0, len(pcm), self._frame)]
                self._work.append(server.flushed(0))
                self._text = ""
            case server.ClearIn():
                if self.deaf:
                    return
                stale = [item for item in self._work if isinstance(item, str)]
                self._work.clear()
                self._text = ""
                self.down.append(server.cleared(0))
                self.down += stale if self._acks_void else []

    def talk(self) -> bool:
        """Send one more frame or ack. False when there is none."""
        if self._work:
            self.down.append(self._work.popleft())
            return True
        return False


class _Turn:
    def __init__(self, pace: Pace, *, exact: bool) -> None:
        self.utterance = Utterance(FORMAT, exact=exact)
        self.pacing = Pacing(pace)
        self.exact = exact
        self.written: list[str] = []
        self.said: list[str] = []
        self.audio = bytearray()
        self.taken = 0
        self.ref = 0
        self.disturbed = False  # a drop or a refusal: said more than once
        self.sent_end = False
        self.ends = 0
        self.log_from = 0

    # An exact turn may be flushed within a word, which this endpoint then says as two.

    @property
    def words(self) -> str:
        return ("" if self.exact else " ").join("".join(self.written).split())

    @property
    def heard(self) -> str:
        text = decode(bytes(self.audio))
        return text.replace(" ", "") if self.exact else text


class Machine(RuleBasedStateMachine):
    """What a Turn does, with a virtual clock and a model of the endpoint, in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turn: _Turn | None = None
        self.wait_until = math.inf

    @initialize(acks_void=st.booleans(), frame=st.sampled_from([333, 1_001, 8_000]))
    def start(self, acks_void: bool, frame: int) -> None:
        self.acks_void, self.frame = acks_void, frame
        self.connect()

    def connect(self) -> None:
        self.session = Session(DIALECT, now=self.now, limits=LIMITS)
        self.endpoint = _Endpoint(acks_void=self.acks_void, frame=self.frame)

    # What a Turn and its Connection do

    def drive(self) -> None:
        turn = self.turn
        if turn is not None and not turn.ref and self.session.places:
            turn.ref, turn.sent_end, turn.log_from = self.session.begin(self.now), False, len(self.endpoint.log)
        self.wait_until = math.inf
        while turn is not None and turn is self.turn and turn.ref:
            if turn.sent_end and not turn.utterance.open_chars:
                break
            step = turn.pacing.next_step(turn.utterance, self.session, self.now)
            if isinstance(step, Wait):
                if step.cut:  # there is nothing to cut here: the next text goes out at once
                    assert turn.utterance.peek() is None
                else:
                    assert step.until > self.now
                    self.wait_until = step.until
                break
            if step is Act.SPEAK:
                text = turn.utterance.say()
                turn.said.append(text)
                self.session.speak(turn.ref, text, self.now)
                continue
            if turn.utterance.open_chars:
                assert not turn.utterance.half_said
                turn.utterance.flush()
                turn.pacing.flushed(self.now)
            if step is Act.FLUSH or turn.sent_end:
                self.session.flush(turn.ref, self.now)
            else:
                turn.sent_end = True
                self.handle(self.session.end(turn.ref, self.now))
        self.send()

    def send(self) -> None:
        for message in self.session.outgoing():
            assert isinstance(message, str)
            self.endpoint.up.append((self.now, message))

    def handle(self, events: list[Event]) -> None:
        for event in events:
            turn = self.turn
            match event:
                case Failed():
                    self.lose()
                case Warned():
                    pass
                case Cancelled(ref=ref):
                    assert turn is None or ref != turn.ref
                case AudioChunk(data=data, ref=ref):
                    assert turn is not None
                    assert ref == turn.ref
                    turn.pacing.audio_came(self.now)
                    self.release(turn, turn.utterance.received(data))
                case FlushAcked(ref=ref):
                    assert turn is not None
                    assert ref == turn.ref
                    turn.pacing.acked(self.now)
                    self.release(turn, turn.utterance.acked())
                case FlushRefused():
                    assert turn is not None
                    turn.disturbed = True
                    turn.pacing.refused()
                    turn.utterance.refused()
                case Ended(ref=ref):
                    assert turn is not None
                    assert ref == turn.ref
                    self.end(turn)
                case _:
                    pytest.fail(f"{event}")

    def release(self, turn: _Turn, released: list[Released]) -> None:
        for item in released:
            if isinstance(item, bytes):
                assert item
                turn.audio += item

    def end(self, turn: _Turn) -> None:
        """All is said and heard: compare what was written, sent and heard."""
        turn.ends += 1
        assert turn.ends == 1
        assert turn.utterance.complete
        heard, words = turn.heard, turn.words
        assert words.startswith(heard)
        assert not any(map(str.isalnum, words[len(heard) :])), (words, heard)
        if not turn.disturbed:
            spoken = "".join(turn.said)
            if turn.exact:
                assert "".join(turn.written).startswith(spoken)
            else:
                assert spoken == heard + " " if heard else spoken == ""
            while self.endpoint.up:  # what follows the last Speak: one Flush, or nothing if there was none
                self.endpoint.hear()
            kinds = [type(command).__name__ for command in self.endpoint.log[turn.log_from :]]
            assert kinds[-2:] in ([], ["SpeakIn", "FlushIn"])
        spoken_ = turn.utterance.spoken("".join(turn.written))
        assert spoken_.complete
        assert spoken_.split(spoken_.seconds).unheard == ""
        self.turn = None

    def lose(self) -> None:
        """The connection is gone, with everything that was on its way."""
        self.session.receive_close(1006, "")
        self.connect()
        if self.turn is not None:
            self.turn.disturbed = True
            self.turn.ref = 0
            self.turn.pacing.lost()
            assert self.turn.utterance.lost()

    # What may happen

    @precondition(lambda self: self.turn is None)
    @rule(pace=st.sampled_from(Pace), exact=st.booleans())
    def begin(self, pace: Pace, exact: bool) -> None:
        self.turn = _Turn(pace, exact=exact)
        self.drive()

    @precondition(lambda self: self.turn and not self.turn.utterance.finished)
    @rule(texts=st.lists(FRAGMENT, min_size=1, max_size=6))
    def write(self, texts: list[str]) -> None:
        assert self.turn is not None
        for text in texts:
            self.turn.written.append(text)
            # A cut ends a word unless its neighbour begins with white space anyway; the model's texts always do either.
            self.turn.written.append("" if self.turn.exact else " ")
            self.turn.utterance.add(Fragment(0, text, 0, 0, Boundary.SENTENCE, ""))
        self.drive()

    @precondition(lambda self: self.turn and not self.turn.utterance.finished)
    @rule()
    def finish(self) -> None:
        assert self.turn is not None
        self.turn.utterance.finish()
        self.drive()

    @rule(n=st.integers(1, 5))
    def arrive(self, n: int) -> None:
        for _ in range(min(n, len(self.endpoint.up))):
            self.endpoint.hear()

    @rule(n=st.integers(1, 30))
    def talk(self, n: int) -> None:
        for _ in range(n):
            self.endpoint.talk()

    @rule(n=st.integers(1, 30))
    def receive(self, n: int) -> None:
        endpoint = self.endpoint
        for _ in range(min(n, len(endpoint.down))):
            message = endpoint.down.popleft()
            if message == server.EXCESSIVE_FLUSH:
                endpoint.refuse_until = self.now
            self.handle(self.session.receive(message, self.now))
            self.drive()

    @rule()
    def take(self) -> None:
        if self.turn is not None:
            new = len(self.turn.audio) - self.turn.taken
            self.turn.taken += new
            if new:
                self.turn.pacing.handed_out(FORMAT.seconds(new), self.now)
            self.drive()

    @rule(seconds=st.sampled_from([0.01, 0.2, 0.9, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := min(self.wait_until, self.session.next_deadline or math.inf)) <= until:
            self.now = max(self.now, due)
            self.handle(self.session.tick(self.now))
            self.drive()
        self.now = until

    @precondition(lambda self: self.turn)
    @rule()
    def cancel(self) -> None:
        turn, self.turn = self.turn, None
        assert turn is not None
        if turn.ref:
            self.handle(self.session.cancel(turn.ref, self.now))
        self.drive()

    @rule()
    def drop(self) -> None:
        self.lose()
        self.drive()

    @rule()
    def refuse_a_flush(self) -> None:
        self.endpoint.refuse = True

    @rule()
    def go_deaf(self) -> None:
        self.endpoint.deaf = True

    # What must hold

    @invariant()
    def what_is_released_is_what_was_written(self) -> None:
        if self.turn is not None:
            assert len(self.turn.audio) % 2 == 0
            assert self.turn.words.startswith(self.turn.heard)

    @invariant()
    def two_flushes_are_in_flight_at_most(self) -> None:
        if self.turn is not None:
            assert self.turn.utterance.flushes <= 2

    @invariant()
    def every_wait_has_a_deadline(self) -> None:
        turn = self.turn
        if hasattr(self, "session") and (not self.session.places and turn is None):
            assert self.session.next_deadline is not None  # a cancelled turn is confirmed, or given up
        if turn is not None and turn.utterance.flushes:
            assert self.session.next_deadline is not None

    @property
    def over(self) -> bool:
        return self.turn is None

    def teardown(self) -> None:
        """However it stands: when things take their course, the turn ends."""
        if self.turn is None:
            return
        self.endpoint.refuse = False
        if not self.turn.utterance.finished:
            self.finish()
        for _ in range(5_000):
            if self.over:
                return
            before = self.now
            busy = bool(self.endpoint.up or self.endpoint.down)
            self.arrive(100)
            busy |= self.endpoint.talk()
            self.talk(100)
            self.receive(100)
            self.take()
            if not busy and not self.over:
                due = min(self.wait_until, self.session.next_deadline or math.inf)
                assert due < math.inf, "it waits for nothing"
                self.wait(max(0.0, due - self.now))
                assert self.now >= before
        pytest.fail("the turn does not end")


TestTurnsOverAnEndpoint = Machine.TestCase
TestTurnsOverAnEndpoint.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
