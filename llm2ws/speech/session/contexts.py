"""The turns of one connection: what each may do when, and the contexts in which they speak."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ...errors import LocalProtocolError
from ..messages import Cancel, Cancelled, End, Ended, Event, Flush, Opened, Speak, Unknown, Warned

__all__ = ["Phase", "Position", "SessionTurn", "Turns"]


class Phase(StrEnum):
    """How far a turn has come.

    OPEN while it may still be given text, ENDING from its End until the endpoint has spoken it all, CLEARING from its Cancel
    until the endpoint has confirmed that, and DONE after that.
    """

    OPEN = "open"
    ENDING = "ending"
    CLEARING = "clearing"
    DONE = "done"


_Verb = type[Speak | Flush | End | Cancel | Ended | Cancelled]

# The next phase; a missing entry is a mistake of the caller's.
_AFTER: dict[Phase, dict[_Verb, Phase]] = {
    Phase.OPEN: {
        Speak: Phase.OPEN,
        Flush: Phase.OPEN,
        End: Phase.ENDING,
        Cancel: Phase.CLEARING,
        Ended: Phase.DONE,  # The endpoint gave the turn up.
        Cancelled: Phase.DONE,
    },
    Phase.ENDING: {Flush: Phase.ENDING, Cancel: Phase.CLEARING, Ended: Phase.DONE, Cancelled: Phase.DONE},
    Phase.CLEARING: {Ended: Phase.DONE, Cancelled: Phase.DONE},
    Phase.DONE: {},
}


@dataclass(slots=True)
class SessionTurn:
    """What a session knows of one turn. Times are monotonic seconds."""

    ref: int
    phase: Phase = Phase.OPEN
    unflushed: bool = False  # text was sent that no Flush covers
    begun: bool = False  # some of its text was sent
    context: int | None = None  # the name under which the endpoint knows it now; None: under none
    complete: bool = False  # the endpoint was told that the context gets no more text
    cancelled_at: float = 0.0
    waiting_since: float | None = None  # for the endpoint's next message
    owed_chars: int = 0  # sent since the endpoint last owed it nothing
    sent_at: float = 0.0
    audio_at: float = 0.0
    audio_bytes: int = 0  # received
    cancel_again: bool = False  # when audio comes: the endpoint refused to before that


class Turns:
    """The turns of a session that are not DONE: by their numbers, and by the names of the contexts in which they speak."""

    def __init__(self) -> None:
        self.live: dict[int, SessionTurn] = {}
        self.contexts: dict[int, SessionTurn] = {}
        self._last_ref = 0

    def begin(self) -> SessionTurn:
        """Begin a turn."""
        turn = SessionTurn(self._number())
        self.live[turn.ref] = turn
        return turn

    def step(self, ref: int, verb: _Verb) -> SessionTurn:
        """Move a turn to the phase that `verb` leads to. Raises LocalProtocolError where that makes no sense."""
        turn = self.live.get(ref)
        if turn is None or verb not in _AFTER[turn.phase]:
            phase = turn.phase if turn else Phase.DONE
            raise LocalProtocolError(f"{verb.__name__} on turn {ref}, which is {phase}")
        turn.phase = _AFTER[turn.phase][verb]
        return turn

    def finish(self, turn: SessionTurn) -> None:
        """Drop a turn, which is DONE."""
        turn.phase = Phase.DONE
        self.end_context(turn)
        del self.live[turn.ref]

    def of(self, ref: int | None) -> SessionTurn | None:
        """Return the turn that an event is about: the one that it names, else the oldest; None where there is none."""
        if ref is not None:
            return self.live.get(ref)
        return next(iter(self.live.values()), None)

    def begin_context(self, turn: SessionTurn) -> int:
        """Give a turn a name on the wire, and return it: the turn's own number, then others."""
        context = turn.context = self._number() if turn.begun else turn.ref
        turn.begun, turn.complete = True, False
        self.contexts[context] = turn
        return context

    def end_context(self, turn: SessionTurn) -> None:
        """Drop a turn's name on the wire: the endpoint has forgotten it."""
        if turn.context is not None:
            del self.contexts[turn.context]
            turn.context = None

    def named(self, event: Event) -> Event:
        """Return an event with its turn's number in place of the context's; 0 for that of no turn."""
        if isinstance(event, (Opened, Warned, Unknown)) or event.ref is None:
            return event
        turn = self.contexts.get(event.ref)
        ref = turn.ref if turn else 0
        return event if ref == event.ref else replace(event, ref=ref)

    def _number(self) -> int:
        self._last_ref += 1
        return self._last_ref


class Position:
    """Where a turn stands in all audio of its connection, in milliseconds, for endpoints that count that way."""

    def __init__(self) -> None:
        self._begin = 0  # where the present turn begins
        self._cancelled = 0  # where the last interruption was

    def of(self, heard: int) -> int | None:
        """Return the position after so much of the turn; None where that is not beyond the last interruption."""
        position = self._begin + heard
        return position if position > self._cancelled else None

    def over(self, audio: int, interrupted_at: int | None) -> None:
        """Move past a turn with so much audio. `interrupted_at`: the position that the endpoint gives; None for none."""
        self._begin += audio
        if interrupted_at is not None:
            self._begin = self._cancelled = interrupted_at
