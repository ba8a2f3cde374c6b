"""The faults that a speech endpoint has on command."""

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
    """One dropped connection, and when it is dropped: with all of these None, right after the handshake.

    `at_frame`: before this frame of audio (from 0). `at_message`: before this message of any kind (from 0). `after_chars`: once
    the client has sent so many characters.
    """

    how: How = How.RESET
    code: int = 1011
    reason: str = "NET-0000"
    at_frame: int | None = None
    after_chars: int | None = None
    at_message: int | None = None


@dataclass(frozen=True, slots=True)
class Faults:
    """All other faults. Times are in seconds; `math.inf`: never. They may be exchanged while connections are open."""

    handshake_s: float = 0.0  # before a handshake is answered
    first_byte_s: float = 0.0  # from Flush to its first audio
    flushed_s: float = 0.0  # from the last audio to Flushed
    cleared_s: float = 0.0  # from Clear to Cleared
    audio_after_clear_s: float = 0.0  # how long audio is sent after a Clear
    stale_flushed: bool = False  # whether each Flush that a Clear made void is answered after Cleared
    warning: str = wire.EXCESSIVE_FLUSH  # the message that refuses a Flush
    noise: tuple[str | bytes, ...] = ()  # messages without meaning, before each Flushed and Cleared
