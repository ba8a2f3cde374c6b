"""What may go wrong at a speech endpoint, on command."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..speech.dialects import deepgram_server as wire

__all__ = ["Drop", "Faults", "How"]


class How(StrEnum):
    """How a connection is dropped."""

    CLOSE = "close"  # a close frame with code and reason
    RESET = "reset"  # TCP reset
    CUT = "cut"  # half a frame, then the end of the TCP stream


@dataclass(frozen=True, slots=True)
class Drop:
    """One dropped connection: before its frame of audio number `at_frame` (from 0), before its message number `at_message`
    of any kind (from 0), once it has been sent `after_chars` characters, or, when all are None, right after the handshake."""

    how: How = How.RESET
    code: int = 1011
    reason: str = "NET-0000"
    at_frame: int | None = None
    after_chars: int | None = None
    at_message: int | None = None


@dataclass(frozen=True, slots=True)
class Faults:
    """What else goes wrong. Times are in seconds; `math.inf`: never. It may be exchanged while connections are open."""

    handshake_s: float = 0.0  # before a handshake is answered
    first_byte_s: float = 0.0  # from Flush to its first audio
    flushed_s: float = 0.0  # from the last audio to Flushed
    cleared_s: float = 0.0  # from Clear to Cleared
    audio_after_clear_s: float = 0.0  # for how long audio goes on after Clear
    stale_flushed: bool = False  # after Cleared, each Flush that it made void is answered
    warning: str = wire.EXCESSIVE_FLUSH  # how a Flush is refused
    noise: tuple[str | bytes, ...] = ()  # messages without meaning, before each Flushed and Cleared
