"""The turns of one connection: what each may do when, and the contexts in which they speak."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ...errors import LocalProtocolError
from ..messages import Cancel, Cancelled, End, Ended, Event, Flush, Opened, Speak, Unknown, Warned

__all__ = ["Position", "State", "Turn", "Turns"]


class State(StrEnum):
    """OPEN while a turn may still be given text, ENDING from its End until the endpoint has spoken it all, CLEARING from Cancel
    until the endpoint has confirmed it, and DONE after that."""

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
class Turn:
    """One turn, as its connection sees it. Times are monotonic seconds."""

    ref: int
    state: State = State.OPEN
    unflushed: bool = False  # text was sent that no Flush covers
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


class Turns:
    """Those that are not DONE, by their numbers; and by those of the contexts that the endpoint has open for them."""

    def __init__(self) -> None:
        self.live: dict[int, Turn] = {}
        self.contexts: dict[int, Turn] = {}
        self._last_ref = 0

    def begin(self) -> Turn:
        """Open one."""
        turn = Turn(self._number())
        self.live[turn.ref] = turn
        return turn

    def step(self, ref: int, verb: _Verb) -> Turn:
        """It does something, or something is done to it. Raises LocalProtocolError where that makes no sense."""
        turn = self.live.get(ref)
        if turn is None or verb not in _AFTER[turn.state]:
            state = turn.state if turn else State.DONE
            raise LocalProtocolError(f"{verb.__name__} on turn {ref}, which is {state}")
        turn.state = _AFTER[turn.state][verb]
        return turn

    def finish(self, turn: Turn) -> None:
        """It is DONE."""
        turn.state = State.DONE
        self.end_context(turn)
        del self.live[turn.ref]

    def of(self, ref: int | None) -> Turn | None:
        """The one that an event is about: by its name, else the only one, or the oldest."""
        if ref is not None:
            return self.live.get(ref)
        return next(iter(self.live.values()), None)

    def begin_context(self, turn: Turn) -> int:
        """Give it a name on the wire: its own, then others."""
        context = turn.context = self._number() if turn.begun else turn.ref
        turn.begun, turn.complete = True, False
        self.contexts[context] = turn
        return context

    def end_context(self, turn: Turn) -> None:
        """The endpoint has forgotten the name."""
        if turn.context is not None:
            del self.contexts[turn.context]
            turn.context = None

    def named(self, event: Event) -> Event:
        """The event, with its turn's number in place of the context's."""
        if isinstance(event, (Opened, Warned, Unknown)) or event.ref is None:
            return event
        turn = self.contexts.get(event.ref)
        ref = turn.ref if turn else 0  # of no turn
        return event if ref == event.ref else replace(event, ref=ref)

    def _number(self) -> int:
        self._last_ref += 1
        return self._last_ref


class Position:
    """Where in all audio of the connection a turn is, for endpoints that want to know it so. In milliseconds."""

    def __init__(self) -> None:
        self._begin = 0  # of the present turn
        self._cancelled = 0  # where the last interruption was

    def of(self, heard: int) -> int | None:
        """The position of who has heard so much of the turn, None where that is not beyond the last interruption."""
        position = self._begin + heard
        return position if position > self._cancelled else None

    def over(self, audio: int, told: int | None) -> None:
        """The turn is over, with so much audio; `told`: where the endpoint says that it was interrupted."""
        self._begin += audio
        if told is not None:
            self._begin = self._cancelled = told
