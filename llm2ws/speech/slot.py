"""A place for one turn at a speech endpoint, as a turn sees it: a Protocol, whatever carries the speech.

`links.connection` has the one over a connection. Another (speech from memory, a wrapper that caches) needs the same members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .dialect import Traits
from .messages import Event

__all__ = ["Gate", "Listener", "Slot"]

Listener = Callable[[Event], None]


class Gate(Protocol):
    """The limits of whatever carries a turn. Times are monotonic seconds."""

    def speak_at(self, n_chars: int, now: float) -> float:
        """Return the earliest time at which so many characters may be sent."""

    def flush_at(self, now: float, *, final: bool = False) -> float:
        """Return the earliest time at which a Flush may be sent. `final`: it is the last of its turn."""

    def spread_at(self, speech_s: float, now: float) -> float:
        """Return when a Flush for which so much speech waits should be sent, so that Flushes do not run out.

        With inf for the speech: not after `now`, unless only the one for the turn's end is left; then when there are more.
        """


class Slot(Gate, Protocol):
    """A place for one turn, and its limits.

    Events go to `listener` as they come; it must not block. After `Ended`, `Cancelled` or a `Failed` the slot is not `live` any
    more and nothing else comes; `on_over` is called with that event before the listener is.
    """

    listener: Listener
    on_over: Listener | None

    @property
    def live(self) -> bool:
        """Whether the turn still has this slot."""

    @property
    def traits(self) -> Traits:
        """How the endpoint behaves."""

    @property
    def place(self) -> object:
        """What carries the slot, to be compared and given back to whoever leases: "the same again", "not that one"."""

    @property
    def spent(self) -> bool:
        """Whether what carries the slot takes no new turn: the turn should go on elsewhere."""

    @property
    def spent_at(self) -> float:
        """When it will be spent by its age; inf for never."""

    @property
    def quiet_since(self) -> float:
        """When text of the turn was last sent, or audio of it last came."""

    def speak(self, text: str) -> None:
        """Send text."""

    def flush(self) -> None:
        """Ask for the audio of all text sent so far. `FlushAcked` or `FlushRefused` follows."""

    def end(self) -> None:
        """Say that no more text comes. `Ended` follows, at once when nothing is awaited."""

    def cancel(self, *, played_s: float | None = None) -> None:
        """Stop the turn: nothing more reaches the listener but `Cancelled`. A slot that is not live is left alone.

        `played_s`: how much of the turn's audio was heard, in seconds; None where that is not known.
        """
