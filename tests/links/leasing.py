"""Places at an endpoint, leased and given back."""

from __future__ import annotations

import asyncio

from llm2ws.audio import AudioFormat
from llm2ws.links.connection import ConnectionSlot
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.messages import Ended, Event
from llm2ws.testing import Coding, FaultySpeech

FORMAT = AudioFormat(sample_rate_hz=8_000)
CODING = Coding(char_samples=8, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)


def endpoint(speech: FaultySpeech, **options: object) -> Endpoint:
    voice = str(options.pop("voice", ""))
    return Endpoint(Deepgram(Setup(speech.url, voice, FORMAT)), **{"name": "test", **options})  # type: ignore[arg-type]


def ignore(event: Event) -> None:
    """A listener that wants nothing."""


async def ended(slot: ConnectionSlot) -> None:
    """Say no more on a place, and wait until it is free."""
    over = asyncio.Event()
    slot.listener = lambda event: over.set() if isinstance(event, Ended) else None
    slot.end()
    await over.wait()


async def speak(pool: Pool, where: Endpoint, last: ConnectionSlot | None = None) -> ConnectionSlot:
    """A turn from lease to end."""
    ended = asyncio.Event()

    def listener(event: Event) -> None:
        if isinstance(event, Ended):
            ended.set()

    slot, _ = await pool.lease([where], listener, last=last.place if last else None)
    slot.speak("Hello. ")
    slot.end()
    await ended.wait()
    return slot
