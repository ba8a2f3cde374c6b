"""What happens in a turn, as it is told to whoever takes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..sources.aside import Aside
from ..speech.utterance.heard import Spoken

__all__ = ["Audio", "Done", "Notice", "NoticeKind", "Outcome", "Said", "TurnEvent", "TurnStats"]


class Outcome(StrEnum):
    """How a turn ended. Exactly one per turn."""

    DONE = "done"
    INTERRUPTED = "interrupted"
    CUT_SHORT = "cut short"  # the source failed; all that it gave has been spoken
    LOST = "lost"  # the speech endpoint failed, or nobody took the audio


class NoticeKind(StrEnum):
    DELAYED = "delayed"  # a limit of the endpoint holds text back
    FAILED_OVER = "failed over"  # speech goes on at another endpoint, in another voice
    RESUMED = "resumed"  # the connection was lost; speech goes on over another
    UNHEARD = "unheard"  # no endpoint had audio for a part of the text; speech goes on behind it
    SOURCE_FAILED = "source failed"  # what it gave is still being spoken


@dataclass(frozen=True, slots=True)
class Said:
    """A text begins to be heard. `span` is in the model's text, `at_s` in seconds of the turn's audio."""

    text: str
    span: tuple[int, int]
    at_s: float


@dataclass(frozen=True, slots=True)
class Audio:
    """The next audio: whole samples, in the turn's format. `at_s`: where it begins in the turn's audio."""

    data: bytes
    at_s: float


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened that a person may be told."""

    kind: NoticeKind
    detail: str
    overlap_s: float | None = None  # RESUMED within a text: about how much is heard twice
    confidence: float | None = None  # and how sure the place is, 0 to 1


@dataclass(slots=True)
class TurnStats:
    """Where the time went. Times are seconds from the start of the turn, None for what did not happen."""

    first_token_s: float | None = None
    first_fragment_s: float | None = None
    connected_s: float | None = None  # a place on a connection was had
    first_speak_s: float | None = None
    first_flush_s: float | None = None
    first_audio_s: float | None = None
    last_token_s: float | None = None
    done_s: float | None = None
    source_chars: int = 0
    sent_chars: int = 0
    unspeakable_chars: int = 0
    fragments: int = 0
    flushes: int = 0
    refused_flushes: int = 0
    delayed: bool = False  # by a limit of the endpoint
    resumed: int = 0
    repeated_chars: int = 0  # said again by another voice
    left_out_chars: int = 0  # about: of texts whose connection was lost (Resume.NEXT_GROUP)
    unheard_chars: int = 0  # of texts that were acknowledged without audio, however often they were said
    audio_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of a turn. An outcome that has an error raises it after this."""

    outcome: Outcome
    stats: TurnStats
    spoken: Spoken


TurnEvent = Said | Audio | Aside | Notice | Done
