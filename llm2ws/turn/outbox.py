"""What a turn hands out: its events, in order, until they are taken."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from ..audio import AudioFormat
from ..speech.utterance.groups import Released
from ..speech.utterance.heard import Saying
from ..speech.utterance.seam import Seam
from .events import Audio, Done, Notice, NoticeKind, Said, TurnEvent, TurnStats

__all__ = ["Outbox"]


class Outbox:
    """Events that wait to be taken. `events` is what `put` fills; `ready` is set when it has something.

    `audio_since`: when audio began to wait, in monotonic seconds; inf when all events have been taken. `stats` has counted the
    audio of the turn, and `since_start` returns its age in seconds.
    """

    def __init__(self, fmt: AudioFormat, stats: TurnStats, since_start: Callable[[], float]) -> None:
        self.events: deque[TurnEvent] = deque()
        self.ready = asyncio.Event()
        self.audio_since = math.inf
        self._format = fmt
        self._bytes_per_second = fmt.bytes_per_second
        self._stats = stats
        self._since_start = since_start

    def put(self, event: TurnEvent) -> None:
        """Hand out one more event."""
        self.events.append(event)
        self.ready.set()
        if self.audio_since == math.inf and isinstance(event, Audio):
            self.audio_since = asyncio.get_running_loop().time()

    def put_speech(self, released: list[Released]) -> None:
        """Hand out what an utterance released: texts that begin to be heard, audio, and where a repeat went on."""
        for item in released:
            if isinstance(item, Saying):
                self.put(Said(item.text, (item.start, item.end), item.at_s))
            elif isinstance(item, Seam):
                detail = "went on where the lost connection had broken off"
                self.put(Notice(NoticeKind.RESUMED, detail, item.overlap_s, item.confidence))
            else:
                if self._stats.first_audio_s is None:
                    self._stats.first_audio_s = self._since_start()
                self.put(Audio(item, self._stats.audio_s))
                self._stats.audio_s += len(item) / self._bytes_per_second

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
