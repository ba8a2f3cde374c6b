"""The protocol state of ONE connection to a speech endpoint: turns, the order of acks, gates. It dies with the connection.

Rules, in which everything here follows the tables of the dialect (`traits`, `limits`) and no vendor's name:

- A turn is OPEN, ENDING, CLEARING or DONE (`turns.py`), and an ack answers one Flush (`acks.py`).
- An End with nothing unflushed sends nothing: there is exactly one final Flush after the last Speak.
- After Cancel, audio is dropped until the confirmation; at that point every Flush that was on its way is void, and an ack
  that comes for it later, with no audio before it, is stale. So no byte of a cancelled turn reaches the next one.
- A turn speaks in a context: its own name on the wire. Where contexts lapse (`context_idle_s`), a Flush ends one and the next
  text begins another; the end of all but the last is an ack.
- Whatever is awaited has a deadline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import assert_never

from ...errors import LocalProtocolError
from ..dialect import Dialect, Limits
from ..messages import (
    Audio,
    Begin,
    Cancel,
    Cancelled,
    CancelRefused,
    Close,
    Command,
    End,
    Ended,
    Event,
    Failed,
    Flush,
    FlushAcked,
    FlushRefused,
    KeepAlive,
    Opened,
    Scope,
    Speak,
    Timed,
    Unknown,
    Warned,
)
from .acks import Acks
from .contexts import Position, State, Turn, Turns
from .governor import Governor

__all__ = ["Counts", "Session"]

# An endpoint may render a whole text before it sends the first byte; the slowest do that some seven times faster than speech.
SECONDS_PER_OWED_CHAR = 0.01
CLEAR_S = 1.0  # for the confirmation of an interruption
UNKNOWN_KINDS = 32  # that are counted by name
PROMPT_CHARS = 100  # a sentence: no more patience for less


@dataclass(slots=True)
class Counts:
    """What was met on this connection that nothing else shows."""

    stray_audio: int = 0  # messages of audio that belong to no turn
    dropped_bytes: int = 0  # of cancelled turns
    stale_acks: int = 0
    refused_flushes: int = 0
    warnings: int = 0
    unknown: dict[str, int] = field(default_factory=dict)


class Session:
    """Commands in, messages out; messages in, events out. Nothing is sent from here: `outgoing` gives what is due.

    `now` is monotonic seconds. After every call, whoever owns the connection sends `outgoing()` and arms a timer for
    `next_deadline`.
    """

    def __init__(self, dialect: Dialect, *, now: float, limits: Limits | None = None, silence_s: float = 10.0) -> None:
        self.counts = Counts()
        self.dialect = dialect
        self.limits = limits or dialect.limits
        self.opened_at = now
        self.audio_came = False  # of any turn, cancelled ones too
        self.retired = False  # it takes no new turn, and is to be closed when it has none
        self._traits = dialect.traits
        self._governor = Governor(self.limits)
        self._silence_s = silence_s
        self._turns = Turns()
        self._acks = Acks()
        self._position = Position()
        self._outgoing: list[str | bytes] = []
        self._last_sent = now
        self._closed = False

    # Commands

    def begin(self, now: float) -> int:
        """Open a turn; its `ref`. Raises LocalProtocolError when there is no place (`places`)."""
        if not self.places:
            raise LocalProtocolError("no place for another turn on this connection")
        return self._turns.begin().ref

    def speak(self, ref: int, text: str, now: float) -> None:
        """Send text. It counts against the limits: ask `speak_at` first."""
        turn = self._turns.step(ref, Speak)
        context = turn.context
        if context is None:
            context = self._turns.begin_context(turn)
            self._send(Begin(context), now)
        turn.unflushed = True
        turn.sent_at = now
        turn.owed_chars += len(text)
        self._governor.spoke(len(text), now)
        self._send(Speak(context, text), now)

    def flush(self, ref: int, now: float) -> None:
        """Have the text since the last Flush spoken. Without such text nothing is sent."""
        if not self._traits.audio_waits_for_flush and self._traits.context_idle_s is None:
            raise LocalProtocolError("this endpoint speaks text as it comes: there is no Flush within a turn")
        turn = self._turns.step(ref, Flush)
        if turn.unflushed:
            turn.complete = self._traits.context_idle_s is not None
            self._flush(turn, Flush, now)

    def end(self, ref: int, now: float) -> list[Event]:
        """No more text. Gives `Ended` at once when there is nothing left to wait for."""
        turn = self._turns.step(ref, End)
        if turn.unflushed or (self._ends_by_name(turn) and not turn.complete):
            turn.complete = True
            self._flush(turn, End, now)
        return self._settle(turn)

    def cancel(self, ref: int, now: float, *, played_ms: int | None = None) -> list[Event]:
        """Stop a turn. Gives `Cancelled` at once when the endpoint has nothing of it left to stop."""
        turn = self._turns.step(ref, Cancel)
        if turn.context is None or not (turn.unflushed or self._acks.waiting(turn.ref) or self._ends_by_name(turn)):
            return self._finish(turn, Cancelled(ref))
        turn.cancelled_at, turn.complete = now, True
        if self._traits.cancels:
            if played_ms is not None and self._traits.played_since_opened:
                played_ms = self._position.of(min(played_ms, self._audio_ms(turn)))
            self._send(Cancel(turn.context, played_ms), now)
        else:
            self.retired = True
        return [] if self._traits.confirms_cancel else self._finish(turn, Cancelled(ref))

    def close(self, now: float) -> bool:
        """Say goodbye: True when the endpoint closes then, False when it knows no such message.

        What is still spoken for open turns is dropped by the caller.
        """
        if not self._closed:
            self._closed = True
            self._send(Close(), now)
        return bool(self.dialect.encode(Close()))

    def outgoing(self) -> list[str | bytes]:
        """The messages to send now, in order. They are given once."""
        messages, self._outgoing = self._outgoing, []
        return messages

    # What comes

    def receive(self, message: str | bytes, now: float) -> list[Event]:
        """A message came. Gives the events that concern turns, each with its `ref`."""
        told: list[Event] = []
        events = self.dialect.decode(message)
        for event in events:
            named = self._turns.named(event)
            told += self._receive(named, now)
            self._heard(getattr(named, "ref", None), now)
        if not events:
            self._heard(None, now)
        return told

    def receive_close(self, code: int, reason: str) -> Failed:
        """The connection has ended. 1006 stands for an end without a close frame."""
        self._turns.live.clear()
        return self.dialect.closed(code, reason)

    # Time

    @property
    def next_deadline(self) -> float | None:
        """When `tick` wants to be called, None for never."""
        times = [at for _, at in self._keepalives()] + [self._due_at(turn) for turn in self._turns.live.values()]
        first = min(times, default=math.inf)
        return None if first == math.inf else first

    def tick(self, now: float) -> list[Event]:
        """Act on what has not come in time."""
        for context, at in self._keepalives():
            if now >= at:
                self._send(KeepAlive(context), now)
                if context is not None:
                    self._turns.contexts[context].sent_at = now
        events: list[Event] = []
        for turn in list(self._turns.live.values()):
            if now < self._due_at(turn):
                continue
            if turn.state is State.CLEARING:
                what = "the endpoint did not confirm an interruption in time"
                events += self._give_up(turn, Cancelled(turn.ref), what)
            elif turn.waiting_since is not None:
                what = f"the endpoint has sent nothing for {now - turn.waiting_since:.3g} s though text was to be spoken"
                failed = Failed(Scope.CONTEXT, what, "look at the endpoint; try again", retry_s=0.0, ref=turn.ref)
                events += self._give_up(turn, failed, what)
        return events

    # Questions

    @property
    def places(self) -> int:
        """How many more turns may be opened now."""
        if self._closed or self.retired:
            return 0
        return max(0, self._traits.turns_at_once - len(self._turns.live))

    @property
    def clearing(self) -> bool:
        """A place will be free in a moment: its turn waits for the confirmation of its Cancel, and not for long."""
        return not self._traits.audio_has_ref and any(turn.state is State.CLEARING for turn in self._turns.live.values())

    def speak_at(self, n_chars: int, now: float) -> float:
        """The earliest time at which the limits allow so many characters."""
        return self._governor.speak_at(n_chars, now)

    def flush_at(self, now: float, *, final: bool = False) -> float:
        """The earliest time at which the limits allow a Flush; `final`: the one that ends a turn."""
        return self._governor.flush_at(now, final=final)

    def spread_at(self, speech_s: float, now: float) -> float:
        """When a Flush for which so much speech waits should be sent, so that they do not run out."""
        return self._governor.spread_at(speech_s, now)

    def quiet_since(self, ref: int) -> float:
        """When text of an open turn was last sent, or audio of it last came."""
        turn = self._turns.live[ref]
        return max(turn.sent_at, turn.audio_at)

    # How

    def _send(self, command: Command, now: float) -> None:
        messages = self.dialect.encode(command)
        if messages:
            self._outgoing += messages
            self._last_sent = now

    def _ends_by_name(self, turn: Turn) -> bool:
        """Whether the endpoint will say when the turn's context is over."""
        return turn.context is not None and not self._traits.ends_with_flush_ack

    def _keepalives(self) -> list[tuple[int | None, float]]:
        """What is to be kept open, and when: each context that may get more text; the connection when there is none."""
        keepalive_s = self._traits.keepalive_s
        if keepalive_s is None or self._closed:
            return []
        open_ones = [(context, turn.sent_at) for context, turn in self._turns.contexts.items() if not turn.complete]
        idle = open_ones if self._turns.contexts else [(None, self._last_sent)]
        return [(context, at + keepalive_s) for context, at in idle]

    def _due_at(self, turn: Turn) -> float:
        """When patience ends: for the confirmation of an interruption, or for what the endpoint owes. inf: it owes nothing."""
        if turn.state is State.CLEARING:
            # Longer where nobody else has to wait for it.
            return turn.cancelled_at + (self._silence_s if self._traits.audio_has_ref else CLEAR_S)
        if turn.waiting_since is None:
            return math.inf
        # The more text it was given, the longer.
        return turn.waiting_since + self._silence_s + SECONDS_PER_OWED_CHAR * max(0, turn.owed_chars - PROMPT_CHARS)

    def _flush(self, turn: Turn, verb: type[Flush | End], now: float) -> None:
        turn.unflushed = False
        if self._traits.ends_with_flush_ack or verb is Flush:
            self._acks.sent(turn.ref)
        self._governor.flushed(now)
        turn.sent_at = now
        if turn.context is not None:
            self._send(verb(turn.context), now)
        if turn.waiting_since is None:
            turn.waiting_since = now

    def _heard(self, ref: int | None, now: float) -> None:
        """A sign of life came, for one turn or (None) for all: wait on only while the endpoint owes something.

        It does not while a refused final Flush waits for its window.
        """
        for turn in self._turns.live.values():
            if ref is not None and ref != turn.ref:
                continue
            if self._acks.waiting(turn.ref) or (turn.state is State.ENDING and self._ends_by_name(turn)):
                turn.waiting_since = now
            else:
                turn.waiting_since, turn.owed_chars = None, 0

    def _give_up(self, turn: Turn, event: Event, what: str) -> list[Event]:
        """The endpoint does not do its part. Where turns have names, the others go on; its place may be lost."""
        if not self._traits.audio_has_ref:
            return [Failed(Scope.LINK, what, "look at the endpoint; try again", retry_s=0.0)]
        self.retired = True
        return self._finish(turn, event)

    def _receive(self, event: Event, now: float) -> list[Event]:
        match event:
            case Audio():
                return self._audio(event, now)
            case FlushAcked():
                return self._flush_acked(event)
            case FlushRefused():
                return self._flush_refused(event, now)
            case Ended() | Cancelled():
                return self._over(event)
            case CancelRefused():
                self._cancel_refused(event, now)
                return []
            case Timed(ref=ref):
                turn = self._turns.of(ref)
                return [replace(event, ref=turn.ref)] if turn and turn.state is not State.CLEARING else []
            case Failed(scope=Scope.CONTEXT, ref=ref):
                turn = self._turns.of(ref)
                return self._finish(turn, replace(event, ref=turn.ref)) if turn else []
            case Unknown(kind=kind):
                if kind not in self.counts.unknown and len(self.counts.unknown) >= UNKNOWN_KINDS:
                    kind = "others"
                self.counts.unknown[kind] = self.counts.unknown.get(kind, 0) + 1
                return []
            case Warned():
                self.counts.warnings += 1
                return [event]
            case Opened() | Failed():
                return [event]
            case _:
                assert_never(event)

    def _audio(self, event: Audio, now: float) -> list[Event]:
        self.audio_came = True
        turn = self._turns.of(event.ref)
        # A turn whose text has not been sent has no audio: it is a cancelled one's, and came after its Cleared.
        if turn is None or not turn.begun:
            self.counts.stray_audio += 1
            return []
        turn.audio_at = now
        turn.audio_bytes += len(event.data)
        if turn.state is State.CLEARING:
            self.counts.dropped_bytes += len(event.data)
            if turn.cancel_again and turn.context is not None:
                turn.cancel_again = False
                self._send(Cancel(turn.context), now)
            return []
        self._acks.audio()
        return [event if event.ref is not None else Audio(event.data, turn.ref)]

    def _flush_acked(self, event: FlushAcked) -> list[Event]:
        ref = self._acks.acked(event.ref)
        if ref is None:
            self.counts.stale_acks += 1
            return []
        turn = self._turns.live[ref]
        if turn.state is State.CLEARING:
            return []
        return [FlushAcked(turn.ref), *self._settle(turn)]

    def _flush_refused(self, event: FlushRefused, now: float) -> list[Event]:
        self.counts.refused_flushes += 1
        self._governor.refused(now)
        ref = self._acks.refused(event.ref)
        if ref is None or (turn := self._turns.live[ref]).state is State.CLEARING:
            return []
        turn.unflushed = True
        return [FlushRefused(turn.ref)]

    def _over(self, event: Ended | Cancelled) -> list[Event]:
        turn = self._turns.of(event.ref)
        if turn is None:
            return []
        was_clearing = turn.state is State.CLEARING
        lapses = self._traits.context_idle_s is not None
        if lapses and isinstance(event, Ended) and not was_clearing and self._acks.waiting(turn.ref):
            self._turns.end_context(turn)
            return self._flush_acked(FlushAcked(turn.ref))
        self._turns.step(turn.ref, type(event))
        self._position.over(self._audio_ms(turn), event.played_ms if isinstance(event, Cancelled) else None)
        if isinstance(event, Cancelled) or was_clearing:
            if event.ref is None:
                self._acks.void(turn.ref)
            return self._finish(turn, replace(event, ref=turn.ref) if isinstance(event, Cancelled) else Cancelled(turn.ref))
        return self._finish(turn, Ended(turn.ref))

    def _cancel_refused(self, event: CancelRefused, now: float) -> None:
        """Some have nothing to cancel before there is audio. So that there will be some, the turn is ended."""
        turn = self._turns.of(event.ref)
        if turn is None or turn.state is not State.CLEARING:
            return
        turn.cancel_again = True
        if turn.unflushed:
            self._flush(turn, End, now)

    def _audio_ms(self, turn: Turn) -> int:
        return round(1_000 * self.dialect.format.seconds(turn.audio_bytes))

    def _settle(self, turn: Turn) -> list[Event]:
        """The end of a turn that ends with its last ack, once that has come."""
        if turn.state is not State.ENDING or turn.unflushed or self._acks.waiting(turn.ref):
            return []
        return [] if self._ends_by_name(turn) else self._finish(turn, Ended(turn.ref))

    def _finish(self, turn: Turn, event: Event) -> list[Event]:
        self._turns.finish(turn)
        self._acks.forget(turn.ref)
        return [event]
