"""What is said to a speech endpoint and what comes back, without any vendor's spelling.

Commands go from Session through a Dialect to the socket; events come the other way. All are plain frozen data.
`ref` numbers the turns of one Session, from 1; on the wire, their contexts: some endpoints want several for one turn, and the
Session knows which. An event whose `ref` is None comes from an endpoint that does not say what it belongs to; the Session
finds out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "Audio",
    "Begin",
    "Cancel",
    "CancelRefused",
    "Cancelled",
    "Close",
    "Command",
    "End",
    "Ended",
    "Event",
    "Failed",
    "Flush",
    "FlushAcked",
    "FlushRefused",
    "KeepAlive",
    "Opened",
    "Scope",
    "Speak",
    "Timed",
    "Unknown",
    "Warned",
    "Word",
]


@dataclass(frozen=True, slots=True)
class Begin:
    """A turn begins. Nothing of it may be sent before."""

    ref: int


@dataclass(frozen=True, slots=True)
class Speak:
    """Text to be spoken. Texts of one turn are joined by the endpoint as they are: separators are the sender's."""

    ref: int
    text: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Speak now what has been sent."""

    ref: int


@dataclass(frozen=True, slots=True)
class End:
    """The turn has no more text: speak the rest."""

    ref: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the turn. Audio that still arrives for it must be dropped.

    `played_ms`: how much of the turn's audio has been heard; None when that is not known. Where the endpoint counts from the
    opening of the connection (`Traits.played_since_opened`), so does this.
    """

    ref: int
    played_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Keep an idle context open, or the connection when `ref` is None, where the endpoint wants a message for that."""

    ref: int | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """No more turns: the endpoint finishes and closes the connection."""


Command = Begin | Speak | Flush | End | Cancel | KeepAlive | Close


@dataclass(frozen=True, slots=True)
class Opened:
    """The endpoint greets. `request_id` is the vendor's name for the connection, "" when there is none."""

    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Audio:
    """Some audio of a turn, in the format asked for. Any number of bytes, even half a sample."""

    data: bytes
    ref: int | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a part of one, as the endpoint spoke it; times in seconds, from where `Timed` says."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timed:
    """When words were spoken, from endpoints that tell.

    `from_here`: times count from the audio that comes next; else from the start of the context's audio.
    """

    words: tuple[Word, ...]
    ref: int | None = None
    from_here: bool = False


@dataclass(frozen=True, slots=True)
class FlushAcked:
    """All audio of the oldest unanswered Flush has been sent."""

    ref: int | None = None


@dataclass(frozen=True, slots=True)
class FlushRefused:
    """The newest unanswered Flush was not carried out: its text still waits at the endpoint."""

    ref: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """All audio of a turn has been sent; nothing more comes for it."""

    ref: int | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The endpoint has stopped a turn; nothing more comes for it.

    `text_spoken`: what it says was heard, None where it does not say. `played_ms`: where its audio now stands, likewise.
    """

    ref: int | None = None
    text_spoken: str | None = None
    played_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CancelRefused:
    """The Cancel was not carried out: the turn goes on. Cancelling again may help once audio has come."""

    ref: int | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """The endpoint complains, and goes on."""

    code: str
    text: str


class Scope(StrEnum):
    """How much a failure takes with it."""

    CONTEXT = "context"  # one turn
    LINK = "link"  # the connection


@dataclass(frozen=True, slots=True)
class Failed:
    """Something is over. `retry_s`: None = the same again can only fail again, else worth trying after so many seconds.

    `what` and `hint` become the error that the caller sees. `status` is an HTTP status, `code` a WebSocket close code.
    """

    scope: Scope
    what: str
    hint: str = ""
    retry_s: float | None = None
    status: int | None = None
    code: int | None = None
    reason: str = ""
    ref: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message that the dialect does not know or could not read. Counted, never fatal."""

    kind: str


Event = Opened | Audio | Timed | FlushAcked | FlushRefused | Ended | Cancelled | CancelRefused | Warned | Failed | Unknown
