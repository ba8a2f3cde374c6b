"""What a turn hands out: its events, in order, until they are taken."""

from __future__ import annotations

import asyncio
import math
from collections import deque

from ..audio import AudioFormat
from .events import Audio, Done, Said, TurnEvent

__all__ = ["Outbox"]


class Outbox:
    """Events that wait to be taken. `events` is what `put` fills; `ready` is set when it has something.

    `audio_since`: when audio began to wait, in monotonic seconds; inf when all events have been taken.
    """

    def __init__(self, fmt: AudioFormat) -> None:
        self.events: deque[TurnEvent] = deque()
        self.ready = asyncio.Event()
        self.audio_since = math.inf
        self._format = fmt

    def put(self, event: TurnEvent) -> None:
        """Hand out one more event."""
        self.events.append(event)
        self.ready.set()
        if self.audio_since == math.inf and isinstance(event, Audio):
            self.audio_since = asyncio.get_running_loop().time()

    @property
    def has_audio(self) -> bool:
        """Whether audio waits to be taken."""
        return any(isinstance(event, Audio) for event in self.events)

    def drop_speech(self) -> None:
        """Keep what was said from being heard: take out all audio, what announces it, and the end of the turn."""
        self.events = deque(event for event in self.events if not isinstance(event, Audio | Said | Done))

    def take_back(self, cut_s: float) -> None:
        """Take out the audio from `cut_s` seconds of the turn's audio on: it will be said again."""
        kept: deque[TurnEvent] = deque()
        for event in self.events:
            if isinstance(event, Audio) and event.at_s + self._format.seconds(len(event.data)) > cut_s:
                n_bytes = self._format.bytes_for(max(0.0, cut_s - event.at_s))
                if n_bytes:
                    kept.append(Audio(event.data[:n_bytes], event.at_s))
            elif not (isinstance(event, Said) and event.at_s >= cut_s):
                kept.append(event)
        self.events = kept
