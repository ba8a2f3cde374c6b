"""A response made into speech, from its first token to its last byte of audio; and a conversation of such turns."""

from __future__ import annotations

from .conversation import SLOW_CONSUMER_S, TOKEN_S, Conversation
from .events import Audio, Done, Notice, NoticeKind, Outcome, Said, TurnEvent, TurnStats
from .feeder import Source
from .turn import Turn

__all__ = [
    "SLOW_CONSUMER_S",
    "TOKEN_S",
    "Audio",
    "Conversation",
    "Done",
    "Notice",
    "NoticeKind",
    "Outcome",
    "Said",
    "Source",
    "Turn",
    "TurnEvent",
    "TurnStats",
]
