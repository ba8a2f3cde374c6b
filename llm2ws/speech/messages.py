"""Commands to a speech endpoint and events from it, without any vendor's spelling.

A command goes from the Session through a Dialect to the socket; an event comes the other way. All are frozen data.
`ref` is the number of a turn in its Session, from 1, and on the wire the name of a context: some endpoints need several
contexts for one turn, and the Session keeps which. `ref` is None in an event of an endpoint that does not name the turn; the
Session finds out which turn it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "AudioChunk",
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
    """Begin a turn. It is the first command of a turn."""

    ref: int


@dataclass(frozen=True, slots=True)
class Speak:
    """Speak a text. The endpoint joins the texts of a turn as they are: blanks between them are in the texts."""

    ref: int
    text: str


@dataclass(frozen=True, slots=True)
class Flush:
    """Speak the text that has been sent so far, without waiting for more."""

    ref: int


@dataclass(frozen=True, slots=True)
class End:
    """End the text of a turn: the endpoint speaks the rest."""

    ref: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a turn. Audio that still arrives for it has to be dropped.

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
    """End the connection: the endpoint finishes its turns and closes it."""


Command = Begin | Speak | Flush | End | Cancel | KeepAlive | Close


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection is ready. `request_id` is the vendor's name for it, "" when there is none."""

    request_id: str = ""


@dataclass(frozen=True, slots=True)
class AudioChunk:
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
    """Words with their times in the audio, from endpoints that send them.

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
    """The endpoint sent a warning, and goes on."""

    code: str
    text: str


class Scope(StrEnum):
    """How much a failure takes with it."""

    CONTEXT = "context"  # one turn
    LINK = "link"  # the connection


@dataclass(frozen=True, slots=True)
class Failed:
    """A turn or a connection has failed.

    `retry_s`: after how many seconds the same may succeed; None where it can only fail again. `what` and `hint`
    become the error that the caller sees. `status` is an HTTP status, `code` a WebSocket close code, None where there is none.
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


Event = Opened | AudioChunk | Timed | FlushAcked | FlushRefused | Ended | Cancelled | CancelRefused | Warned | Failed | Unknown
