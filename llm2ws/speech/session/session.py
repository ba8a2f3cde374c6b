"""The protocol state of one connection to a speech endpoint: its turns, the order of acks, its limits.

The rules follow the tables of the dialect (`traits`, `limits`) and no vendor's name:

- A turn is OPEN, ENDING, CLEARING or DONE (`contexts.py`), and an ack answers one Flush (`acks.py`).
- An End with nothing unflushed sends nothing: there is exactly one final Flush after the last Speak.
- After Cancel, audio is dropped until the confirmation; at that point every Flush that was on its way is void, and an ack
  that comes for it later, with no audio before it, is stale. So no byte of a cancelled turn reaches the next one.
- A turn speaks in a context: its own name on the wire. Where contexts lapse (`context_idle_s`), a Flush ends one and the next
  text begins another; the end of all but the last is an ack.
- Whatever is awaited has a deadline.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import assert_never

from ...errors import LocalProtocolError
from ..dialect import Dialect, Limits
from ..messages import (
    AudioChunk,
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
from .contexts import Phase, Position, SessionTurn, Turns
from .counts import Counts
from .governor import Governor

__all__ = ["Session"]

# An endpoint may render a whole text before it sends the first byte; the slowest do that some seven times faster than speech.
SECONDS_PER_OWED_CHAR = 0.01
PROMPT_CHARS = 100  # The patience for a text grows from this length on: a sentence.
CLEAR_S = 1.0  # For the confirmation of an interruption.


class Session:
    """Turns commands into messages, and messages into events. Sends nothing: `outgoing` returns what is to be sent.

    After every call, the owner sends `outgoing()` and sets a timer for `next_deadline`. `now` is monotonic seconds.
    """

    def __init__(self, dialect: Dialect, *, now: float, limits: Limits | None = None, silence_s: float = 10.0) -> None:
        self.counts = Counts()
        self.dialect = dialect
        self.limits = limits or dialect.limits
        self.opened_at = now
        self.audio_came = False  # of any turn, cancelled ones too
        self.retired = False  # takes no new turn, and is to be closed when it has none
        self._traits = dialect.traits
        self._governor = Governor(self.limits)
        self._silence_s = silence_s
        self._turns = Turns()
        self._acks = Acks()
        self._position = Position()
        self._outgoing: list[str | bytes] = []
        self._last_sent = now
        self._closed = False

    def begin(self, now: float) -> int:
        """Begin a turn and return its `ref`. Raises LocalProtocolError when there is no place (`places`)."""
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
        """Have the text since the last Flush spoken. Send nothing where there is no such text."""
        if not self._traits.audio_waits_for_flush and self._traits.context_idle_s is None:
            raise LocalProtocolError("this endpoint speaks text as it comes: there is no Flush within a turn")
        turn = self._turns.step(ref, Flush)
        if turn.unflushed:
            turn.complete = self._traits.context_idle_s is not None
            self._flush(turn, Flush, now)

    def end(self, ref: int, now: float) -> list[Event]:
        """Take note that no more text comes. Return `Ended` at once when there is nothing left to wait for."""
        turn = self._turns.step(ref, End)
        if turn.unflushed or (self._ends_by_name(turn) and not turn.complete):
            turn.complete = True
            self._flush(turn, End, now)
        return self._settle(turn)

    def cancel(self, ref: int, now: float, *, played_ms: int | None = None) -> list[Event]:
        """Stop a turn. Return `Cancelled` at once when the endpoint has nothing of it left to stop.

        `played_ms`: how much of its audio was heard; None where that is not known.
        """
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
            if len(self._turns.live) == 1:  # Only the end of the connection stops it.
                return [Failed(Scope.LINK, "the endpoint has no message that stops a turn", retry_s=0.0)]
        return [] if self._traits.confirms_cancel else self._finish(turn, Cancelled(ref))

    def close(self, now: float) -> bool:
        """Ask the endpoint to close. Return False when it knows no such message."""
        if not self._closed:
            self._closed = True
            self._send(Close(), now)
        return bool(self.dialect.encode(Close()))

    @property
    def has_outgoing(self) -> bool:
        """Whether there are messages to send now."""
        return bool(self._outgoing)

    def outgoing(self) -> list[str | bytes]:
        """Return the messages to send now, in order, each of them once."""
        messages, self._outgoing = self._outgoing, []
        return messages

    # What comes

    def receive(self, message: str | bytes, now: float) -> list[Event]:
        """Return the events in a message that concern turns, each with the `ref` of its turn."""
        received: list[Event] = []
        events = self.dialect.decode(message)
        for event in events:
            named = self._turns.named(event)
            received += self._receive(named, now)
            self._heard(getattr(named, "ref", None), now)
        if not events:
            self._heard(None, now)
        return received

    def receive_close(self, code: int, reason: str) -> Failed:
        """Return what the end of the link means. `code`: 1006 for an end without a close frame."""
        self._turns.live.clear()
        return self.dialect.closed(code, reason)

    @property
    def next_deadline(self) -> float | None:
        """When `tick` is to be called; None for never."""
        times = [at for _, at in self._keepalives()] + [self._due_at(turn) for turn in self._turns.live.values()]
        first = min(times, default=math.inf)
        return None if first == math.inf else first

    def tick(self, now: float) -> list[Event]:
        """Act on what has not come in time, and return the events of it."""
        for context, at in self._keepalives():
            if now >= at:
                self._send(KeepAlive(context), now)
                if context is not None:
                    self._turns.contexts[context].sent_at = now
        events: list[Event] = []
        for turn in list(self._turns.live.values()):
            if now < self._due_at(turn):
                continue
            if turn.phase is Phase.CLEARING:
                what = "the endpoint did not confirm an interruption in time"
                events += self._give_up(turn, Cancelled(turn.ref), what)
            elif turn.waiting_since is not None:
                what = f"the endpoint has sent nothing for {now - turn.waiting_since:.3g} s though text was to be spoken"
                failed = Failed(Scope.CONTEXT, what, "look at the endpoint; try again", retry_s=0.0, ref=turn.ref)
                events += self._give_up(turn, failed, what)
        return events

    @property
    def places(self) -> int:
        """How many more turns may be begun now."""
        if self._closed or self.retired:
            return 0
        return max(0, self._traits.turns_at_once - len(self._turns.live))

    @property
    def clearing(self) -> bool:
        """Whether a place will be free in a moment, as its turn waits for the confirmation of its Cancel."""
        confirmed = self._traits.cancels and not self._traits.audio_has_ref
        return confirmed and any(turn.phase is Phase.CLEARING for turn in self._turns.live.values())

    def speak_at(self, n_chars: int, now: float) -> float:
        """Return the earliest time at which the limits allow so many characters."""
        return self._governor.speak_at(n_chars, now)

    def flush_at(self, now: float, *, final: bool = False) -> float:
        """Return the earliest time at which the limits allow a Flush. `final`: the one that ends a turn."""
        return self._governor.flush_at(now, final=final)

    def spread_at(self, speech_s: float, now: float) -> float:
        """Return when a Flush for which so much speech waits should be sent, so that Flushes do not run out."""
        return self._governor.spread_at(speech_s, now)

    def can_carry(self, chars: int, flushes: int, now: float) -> bool:
        """Return whether so many characters and Flushes may be sent at once, or as many as the limits ever allow."""
        return self._governor.can_carry(chars, flushes, now)

    def quiet_since(self, ref: int) -> float:
        """Return when text of an open turn was last sent, or audio of it last came."""
        return max((turn := self._turns.live[ref]).sent_at, turn.audio_at)

    # How

    def _send(self, command: Command, now: float) -> None:
        messages = self.dialect.encode(command)
        if messages:
            self._outgoing += messages
            self._last_sent = now

    def _ends_by_name(self, turn: SessionTurn) -> bool:
        """Return whether the endpoint will say when the turn's context is over."""
        return turn.context is not None and not self._traits.ends_with_flush_ack

    def _keepalives(self) -> list[tuple[int | None, float]]:
        """Return what is to be kept open, and when: each context that may get more text; None for the connection itself."""
        keepalive_s = self._traits.keepalive_s
        if keepalive_s is None or self._closed:
            return []
        open_ones = [(context, turn.sent_at) for context, turn in self._turns.contexts.items() if not turn.complete]
        idle = open_ones if self._turns.contexts else [(None, self._last_sent)]
        return [(context, at + keepalive_s) for context, at in idle]

    def _due_at(self, turn: SessionTurn) -> float:
        """Return when patience with the endpoint ends: for a confirmation, or for what it owes; inf when it owes nothing."""
        if turn.phase is Phase.CLEARING:
            # Patience is longer where nobody else has to wait.
            return turn.cancelled_at + (self._silence_s if self._traits.audio_has_ref else CLEAR_S)
        if turn.waiting_since is None:
            return math.inf
        # The more text the endpoint was given, the longer.
        return turn.waiting_since + self._silence_s + SECONDS_PER_OWED_CHAR * max(0, turn.owed_chars - PROMPT_CHARS)

    def _flush(self, turn: SessionTurn, verb: type[Flush | End], now: float) -> None:
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
        """Begin to wait anew after a message for one turn, or (None) for all: only where the endpoint owes something.

        It owes nothing while a refused final Flush waits for its window.
        """
        for turn in self._turns.live.values():
            if ref is not None and ref != turn.ref:
                continue
            if self._acks.waiting(turn.ref) or (turn.phase is Phase.ENDING and self._ends_by_name(turn)):
                turn.waiting_since = now
            else:
                turn.waiting_since, turn.owed_chars = None, 0

    def _give_up(self, turn: SessionTurn, event: Event, what: str) -> list[Event]:
        """Give a turn up with which the endpoint does not do its part. Where turns have names, the others go on."""
        if not self._traits.audio_has_ref:
            return [Failed(Scope.LINK, what, "look at the endpoint; try again", retry_s=0.0)]
        self.retired = True
        return self._finish(turn, event)

    def _receive(self, event: Event, now: float) -> list[Event]:
        match event:
            case AudioChunk():
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
                return [replace(event, ref=turn.ref)] if turn and turn.phase is not Phase.CLEARING else []
            case Failed(scope=Scope.CONTEXT, ref=ref):
                turn = self._turns.of(ref)
                return self._finish(turn, replace(event, ref=turn.ref)) if turn else []
            case Unknown(kind=kind):
                self.counts.count_unknown(kind)
                return []
            case Warned():
                self.counts.warnings += 1
                return [event]
            case Opened() | Failed():
                return [event]
            case _:
                assert_never(event)

    def _audio(self, event: AudioChunk, now: float) -> list[Event]:
        self.audio_came = True
        turn = self._turns.of(event.ref)
        # A turn whose text has not been sent has no audio: this is a cancelled turn's, and came after its confirmation.
        if turn is None or not turn.begun:
            self.counts.stray_audio += 1
            return []
        turn.audio_at = now
        turn.audio_bytes += len(event.data)
        if turn.phase is Phase.CLEARING:
            self.counts.dropped_bytes += len(event.data)
            if turn.cancel_again and turn.context is not None:
                turn.cancel_again = False
                self._send(Cancel(turn.context), now)
            return []
        self._acks.audio()
        return [event if event.ref is not None else AudioChunk(event.data, turn.ref)]

    def _flush_acked(self, event: FlushAcked) -> list[Event]:
        ref = self._acks.acked(event.ref)
        if ref is None:
            self.counts.stale_acks += 1
            return []
        turn = self._turns.live[ref]
        if turn.phase is Phase.CLEARING:
            return []
        return [FlushAcked(turn.ref), *self._settle(turn)]

    def _flush_refused(self, event: FlushRefused, now: float) -> list[Event]:
        self.counts.refused_flushes += 1
        self._governor.refused(now)
        ref = self._acks.refused(event.ref)
        if ref is None or (turn := self._turns.live[ref]).phase is Phase.CLEARING:
            return []
        turn.unflushed = True
        return [FlushRefused(turn.ref)]

    def _over(self, event: Ended | Cancelled) -> list[Event]:
        turn = self._turns.of(event.ref)
        if turn is None:
            return []
        was_clearing = turn.phase is Phase.CLEARING
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
        """Cancel again when audio comes, and end the turn so that some comes: some endpoints refuse to cancel before that."""
        turn = self._turns.of(event.ref)
        if turn is None or turn.phase is not Phase.CLEARING:
            return
        turn.cancel_again = True
        if turn.unflushed:
            self._flush(turn, End, now)

    def _audio_ms(self, turn: SessionTurn) -> int:
        return round(1_000 * self.dialect.format.seconds(turn.audio_bytes))

    def _settle(self, turn: SessionTurn) -> list[Event]:
        """Return the end of a turn that ends with its last ack, once that has come."""
        if turn.phase is not Phase.ENDING or turn.unflushed or self._acks.waiting(turn.ref):
            return []
        return [] if self._ends_by_name(turn) else self._finish(turn, Ended(turn.ref))

    def _finish(self, turn: SessionTurn, event: Event) -> list[Event]:
        self._turns.finish(turn)
        self._acks.forget(turn.ref)
        return [event]
