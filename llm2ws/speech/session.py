"""The protocol state of ONE connection to a speech endpoint: turns, the order of acks, gates. It dies with the connection.

Rules, in which everything here follows the tables of the dialect (`traits`, `limits`) and no vendor's name:

- A turn is OPEN while it may still be given text, ENDING from its End until the endpoint has spoken it all, CLEARING from
  Cancel until the endpoint has confirmed it, and DONE after that. `_AFTER` is the whole of it.
- Acks carry no number that could be trusted. `Flushed` answers the oldest unanswered Flush; a refusal comes at once,
  while accepted ones are still being spoken, so it answers the newest.
- An End with nothing unflushed sends nothing: there is exactly one final Flush after the last Speak.
- After Cancel, audio is dropped until the confirmation; at that point every Flush that was on its way is void, and an ack
  that comes for it later, with no audio before it, is stale. So no byte of a cancelled turn reaches the next one.
- A turn speaks in a context: its own name on the wire. Where contexts lapse (`context_idle_s`), a Flush ends one and the next
  text begins another; the end of all but the last is an ack.
- Whatever is awaited has a deadline.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import assert_never

from ..errors import LocalProtocolError
from .dialect import Dialect, Limits
from .governor import Governor
from .messages import (
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

__all__ = ["Counts", "Session", "State"]


# An endpoint may render a whole text before it sends the first byte; the slowest do that some seven times faster than speech.
SECONDS_PER_OWED_CHAR = 0.01
UNKNOWN_KINDS = 32  # that are counted by name
PROMPT_CHARS = 100  # a sentence: no more patience for less


class State(StrEnum):
    OPEN = "open"
    ENDING = "ending"
    CLEARING = "clearing"
    DONE = "done"


_Verb = type[Speak | Flush | End | Cancel | Ended | Cancelled]

# What a turn becomes; a missing entry is a mistake of the caller's.
_AFTER: dict[State, dict[_Verb, State]] = {
    State.OPEN: {
        Speak: State.OPEN,
        Flush: State.OPEN,
        End: State.ENDING,
        Cancel: State.CLEARING,
        Ended: State.DONE,  # the endpoint gave up on it
        Cancelled: State.DONE,
    },
    State.ENDING: {Flush: State.ENDING, Cancel: State.CLEARING, Ended: State.DONE, Cancelled: State.DONE},
    State.CLEARING: {Ended: State.DONE, Cancelled: State.DONE},
    State.DONE: {},
}


@dataclass(slots=True)
class _Turn:
    ref: int
    state: State = State.OPEN
    unflushed: bool = False  # text was sent that no Flush covers
    in_flight: int = 0  # flushes without an answer
    begun: bool = False  # text of it was sent
    context: int | None = None  # what the endpoint calls it now; None: it knows nothing of it
    complete: bool = False  # the endpoint was told that the context gets no more text
    cancelled_at: float = 0.0
    waiting_since: float | None = None  # for the endpoint's next sign of life
    owed_chars: int = 0  # sent since the endpoint last owed it nothing
    sent_at: float = 0.0
    audio_at: float = 0.0
    audio_bytes: int = 0  # received
    cancel_again: bool = False  # when audio comes: the endpoint would not do it before


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

    def __init__(
        self, dialect: Dialect, *, now: float, limits: Limits | None = None, silence_s: float = 10.0, clear_s: float = 1.0
    ) -> None:
        self.counts = Counts()
        self.dialect = dialect
        self.limits = limits or dialect.limits
        self.opened_at = now
        self._traits = dialect.traits
        self._governor = Governor(self.limits)
        self._silence_s = silence_s
        self._clear_s = clear_s
        self._turns: dict[int, _Turn] = {}  # those not DONE
        self._last_ref = 0
        self._contexts: dict[int, _Turn] = {}  # those that the endpoint has open
        self._flushes: deque[int] = deque()  # refs of unanswered flushes, oldest first
        self._void = 0  # flushes voided by a Cancelled whose acks may still come
        self._audio_since_ack = False
        self._position_ms = 0  # in all audio of the connection, where that of the next turn begins
        self._cancelled_ms = 0  # where the last interruption was
        self._outgoing: list[str | bytes] = []
        self._last_sent = now
        self._retired = False
        self._closed = False

    # Commands

    def begin(self, now: float) -> int:
        """Open a turn; its `ref`. Raises LocalProtocolError when there is no place (`places`)."""
        if not self.places:
            raise LocalProtocolError("no place for another turn on this connection")
        self._last_ref += 1
        self._turns[self._last_ref] = _Turn(self._last_ref)
        return self._last_ref

    def speak(self, ref: int, text: str, now: float) -> None:
        """Send text. It counts against the limits: ask `speak_at` first."""
        turn = self._step(ref, Speak)
        context = turn.context or self._begin_context(turn, now)
        turn.unflushed = True
        turn.sent_at = now
        turn.owed_chars += len(text)
        self._governor.spoke(len(text), now)
        self._send(Speak(context, text), now)

    def flush(self, ref: int, now: float) -> None:
        """Have the text since the last Flush spoken. Without such text nothing is sent."""
        if not self._traits.audio_waits_for_flush and self._traits.context_idle_s is None:
            raise LocalProtocolError("this endpoint speaks text as it comes: there is no Flush within a turn")
        turn = self._step(ref, Flush)
        if turn.unflushed:
            turn.complete = self._traits.context_idle_s is not None
            self._flush(turn, Flush, now)

    def end(self, ref: int, now: float) -> list[Event]:
        """No more text. Gives `Ended` at once when there is nothing left to wait for."""
        turn = self._step(ref, End)
        if turn.unflushed or (self._ends_by_name(turn) and not turn.complete):
            turn.complete = True
            self._flush(turn, End, now)
        return self._settle(turn)

    def cancel(self, ref: int, now: float, *, played_ms: int | None = None) -> list[Event]:
        """Stop a turn. Gives `Cancelled` at once when the endpoint has nothing of it left to stop."""
        turn = self._step(ref, Cancel)
        if turn.context is None or not (turn.unflushed or turn.in_flight or self._ends_by_name(turn)):
            return self._finish(turn, Cancelled(ref))
        turn.cancelled_at, turn.complete = now, True
        if self._traits.cancels:
            self._send(Cancel(turn.context, self._position(turn, played_ms)), now)
        else:
            self._retired = True
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
            named = self._named(event)
            told += self._receive(named, now)
            self._heard(getattr(named, "ref", None), now)
        if not events:
            self._heard(None, now)
        return told

    def receive_close(self, code: int, reason: str) -> Failed:
        """The connection has ended. 1006 stands for an end without a close frame."""
        self._turns.clear()
        return self.dialect.closed(code, reason)

    # Time

    @property
    def next_deadline(self) -> float | None:
        """When `tick` wants to be called, None for never."""
        times = [at for _, at in self._keepalives()]
        for turn in self._turns.values():
            if turn.state is State.CLEARING:
                times.append(turn.cancelled_at + self._confirm_s)
            elif turn.waiting_since is not None:
                times.append(turn.waiting_since + self._patience_s(turn))
        return min(times, default=None)

    def tick(self, now: float) -> list[Event]:
        """Act on what has not come in time."""
        for context, at in self._keepalives():
            if now >= at:
                self._send(KeepAlive(context), now)
                if context is not None:
                    self._contexts[context].sent_at = now
        events: list[Event] = []
        for turn in list(self._turns.values()):
            if turn.state is State.CLEARING:
                if now >= turn.cancelled_at + self._confirm_s:
                    what = "the endpoint did not confirm an interruption in time"
                    events += self._give_up(turn, Cancelled(turn.ref), what)
            elif turn.waiting_since is not None and now >= turn.waiting_since + self._patience_s(turn):
                what = f"the endpoint has sent nothing for {now - turn.waiting_since:.3g} s though text was to be spoken"
                failed = Failed(Scope.CONTEXT, what, "look at the endpoint; try again", retry_s=0.0, ref=turn.ref)
                events += self._give_up(turn, failed, what)
        return events

    # Questions

    @property
    def places(self) -> int:
        """How many more turns may be opened now."""
        if self._closed or self._retired:
            return 0
        return max(0, self._traits.turns_at_once - len(self._turns))

    @property
    def clearing(self) -> bool:
        """A place will be free in a moment: its turn waits for the confirmation of its Cancel, and not for long."""
        return not self._traits.audio_has_ref and any(turn.state is State.CLEARING for turn in self._turns.values())

    @property
    def retired(self) -> bool:
        """This connection takes no new turn; it is to be closed when it has none."""
        return self._retired

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
        turn = self._turns[ref]
        return max(turn.sent_at, turn.audio_at)

    # How

    def _step(self, ref: int, verb: _Verb) -> _Turn:
        turn = self._turns.get(ref)
        if turn is None or verb not in _AFTER[turn.state]:
            state = turn.state if turn else State.DONE
            raise LocalProtocolError(f"{verb.__name__} on turn {ref}, which is {state}")
        turn.state = _AFTER[turn.state][verb]
        return turn

    def _send(self, command: Command, now: float) -> None:
        messages = self.dialect.encode(command)
        if messages:
            self._outgoing += messages
            self._last_sent = now

    def _begin_context(self, turn: _Turn, now: float) -> int:
        """Give the turn a name on the wire: its own, then others."""
        if turn.begun:
            self._last_ref += 1
        context = turn.context = self._last_ref if turn.begun else turn.ref
        turn.begun, turn.complete = True, False
        self._contexts[context] = turn
        self._send(Begin(context), now)
        return context

    def _end_context(self, turn: _Turn) -> None:
        if turn.context is not None:
            del self._contexts[turn.context]
            turn.context = None

    def _named(self, event: Event) -> Event:
        """The event, with its turn's ref in place of the context's."""
        if isinstance(event, (Opened, Warned, Unknown)) or event.ref is None:
            return event
        turn = self._contexts.get(event.ref)
        ref = turn.ref if turn else 0  # of no turn
        return event if ref == event.ref else replace(event, ref=ref)

    def _ends_by_name(self, turn: _Turn) -> bool:
        """Whether the endpoint will say when the turn's context is over."""
        return turn.context is not None and not self._traits.ends_with_flush_ack

    def _keepalives(self) -> list[tuple[int | None, float]]:
        """What is to be kept open, and when: each context that may get more text; the connection when there is none."""
        keepalive_s = self._traits.keepalive_s
        if keepalive_s is None or self._closed:
            return []
        open_ones = [(context, turn.sent_at) for context, turn in self._contexts.items() if not turn.complete]
        idle = open_ones if self._contexts else [(None, self._last_sent)]
        return [(context, at + keepalive_s) for context, at in idle]

    @property
    def _confirm_s(self) -> float:
        """How long an interruption may go without its confirmation: longer where nobody else has to wait for it."""
        return self._silence_s if self._traits.audio_has_ref else self._clear_s

    def _flush(self, turn: _Turn, verb: type[Flush | End], now: float) -> None:
        turn.unflushed = False
        if self._traits.ends_with_flush_ack or verb is Flush:
            turn.in_flight += 1
            self._flushes.append(turn.ref)
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
        for turn in self._turns.values():
            if ref is not None and ref != turn.ref:
                continue
            if turn.in_flight or (turn.state is State.ENDING and self._ends_by_name(turn)):
                turn.waiting_since = now
            else:
                turn.waiting_since, turn.owed_chars = None, 0

    def _patience_s(self, turn: _Turn) -> float:
        """How long the endpoint may be silent while it owes audio: the more text it was given, the longer."""
        return self._silence_s + SECONDS_PER_OWED_CHAR * max(0, turn.owed_chars - PROMPT_CHARS)

    def _give_up(self, turn: _Turn, event: Event, what: str) -> list[Event]:
        """The endpoint does not do its part. Where turns have names, the others go on; its place may be lost."""
        if not self._traits.audio_has_ref:
            return [Failed(Scope.LINK, what, "look at the endpoint; try again", retry_s=0.0)]
        self._retired = True
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
                turn = self._of(ref)
                return [replace(event, ref=turn.ref)] if turn and turn.state is not State.CLEARING else []
            case Failed(scope=Scope.CONTEXT, ref=ref):
                turn = self._of(ref)
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

    def _of(self, ref: int | None) -> _Turn | None:
        """The turn that an event is about: by its name, else the only one, or the oldest that awaits something."""
        if ref is not None:
            return self._turns.get(ref)
        return next(iter(self._turns.values()), None)

    def _audio(self, event: Audio, now: float) -> list[Event]:
        turn = self._of(event.ref)
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
        self._audio_since_ack = True
        return [event if event.ref is not None else Audio(event.data, turn.ref)]

    def _flush_acked(self, event: FlushAcked) -> list[Event]:
        void = self._void > 0 and not self._audio_since_ack
        self._void -= void
        self._audio_since_ack = False
        ref = None if void else self._take_flush(event.ref, newest=False)
        turn = self._turns.get(ref) if ref is not None else None
        if turn is None:
            self.counts.stale_acks += 1
            return []
        self._void = 0  # acks keep their order: none of an older turn can follow
        if turn.state is State.CLEARING:
            return []
        return [FlushAcked(turn.ref), *self._settle(turn)]

    def _flush_refused(self, event: FlushRefused, now: float) -> list[Event]:
        self.counts.refused_flushes += 1
        self._governor.refused(now)
        ref = self._take_flush(event.ref, newest=True)
        turn = self._turns.get(ref) if ref is not None else None
        if turn is None or turn.state is State.CLEARING:
            return []
        turn.unflushed = True
        return [FlushRefused(turn.ref)]

    def _take_flush(self, ref: int | None, *, newest: bool) -> int | None:
        """Take the unanswered flush that an ack or refusal answers; the ref of its turn."""
        if ref is None and self._flushes:
            ref = self._flushes[-1 if newest else 0]
        if ref is None or ref not in self._flushes:
            return None
        self._flushes.remove(ref)
        if turn := self._turns.get(ref):
            turn.in_flight -= 1
        return ref

    def _over(self, event: Ended | Cancelled) -> list[Event]:
        turn = self._of(event.ref)
        if turn is None:
            return []
        was_clearing = turn.state is State.CLEARING
        if isinstance(event, Ended) and turn.in_flight and not was_clearing and self._traits.context_idle_s is not None:
            self._end_context(turn)
            return self._flush_acked(FlushAcked(turn.ref))
        self._step(turn.ref, type(event))
        self._position_ms += self._audio_ms(turn)
        if isinstance(event, Cancelled) and event.played_ms is not None:
            self._position_ms = self._cancelled_ms = event.played_ms
        if isinstance(event, Cancelled) or was_clearing:
            self._void += turn.in_flight if event.ref is None else 0
            return self._finish(turn, replace(event, ref=turn.ref) if isinstance(event, Cancelled) else Cancelled(turn.ref))
        return self._finish(turn, Ended(turn.ref))

    def _cancel_refused(self, event: CancelRefused, now: float) -> None:
        """Some have nothing to cancel before there is audio. So that there will be some, the turn is ended."""
        turn = self._of(event.ref)
        if turn is None or turn.state is not State.CLEARING:
            return
        turn.cancel_again = True
        if turn.unflushed:
            self._flush(turn, End, now)

    def _position(self, turn: _Turn, played_ms: int | None) -> int | None:
        """How much was heard, as the endpoint counts it; None where it would not take that."""
        if played_ms is None or not self._traits.played_since_opened:
            return played_ms
        # A turn that has come from another connection may have been heard for longer than it has been spoken here.
        position_ms = self._position_ms + min(played_ms, self._audio_ms(turn))
        return position_ms if position_ms > self._cancelled_ms else None

    def _audio_ms(self, turn: _Turn) -> int:
        return round(1_000 * self.dialect.format.seconds(turn.audio_bytes))

    def _settle(self, turn: _Turn) -> list[Event]:
        """The end of a turn that ends with its last ack, once that has come."""
        if turn.state is not State.ENDING or turn.unflushed or turn.in_flight:
            return []
        return [] if self._ends_by_name(turn) else self._finish(turn, Ended(turn.ref))

    def _finish(self, turn: _Turn, event: Event) -> list[Event]:
        turn.state = State.DONE
        self._end_context(turn)
        del self._turns[turn.ref]
        self._flushes = deque(ref for ref in self._flushes if ref != turn.ref)
        self._audio_since_ack = False
        return [event]
