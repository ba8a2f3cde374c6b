"""The whole stack for tests: a conversation with one or several endpoints, and what is heard of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llm2ws.audio import AudioFormat
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import FlushIn, SpeakIn
from llm2ws.testing import FaultySpeech, decode
from llm2ws.turn import Audio, Conversation, Turn, TurnEvent

__all__ = ["FORMAT", "audio_of", "endpoint", "final_flushes", "heard", "listen", "sentences", "talk"]

FORMAT = AudioFormat(sample_rate_hz=8_000)


def endpoint(speech: FaultySpeech, **options: object) -> Endpoint:
    return Endpoint(Deepgram(Setup(speech.url, "", FORMAT, speech.key or "")), **{"name": "test", **options})  # type: ignore[arg-type]


@asynccontextmanager
async def talk(*endpoints: Endpoint, **options: object) -> AsyncIterator[Conversation]:
    """A conversation of its own pool."""
    async with Pool() as pool:
        yield Conversation(pool, endpoints, **options)  # type: ignore[arg-type]


async def listen(turn: Turn) -> list[TurnEvent]:
    """All that happens in a turn."""
    async with turn:
        return [event async for event in turn.events()]


def audio_of(events: list[TurnEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Audio))


async def heard(turn: Turn) -> str:
    """All of a turn, as words."""
    return decode(audio_of(await listen(turn)))


def final_flushes(speech: FaultySpeech) -> int:
    """How many Flushes came after the last Speak."""
    kinds = [type(entry.message) for entry in speech.log]
    return kinds[::-1].index(SpeakIn) if SpeakIn in kinds else kinds.count(FlushIn)


def sentences(n_chars: int) -> str:
    """So many characters of prose, no two sentences alike."""
    text, number = "", 0
    while len(text) < n_chars:
        number += 1
        text += f"Sentence number {number} says little, but it says it. "
    return text[: n_chars - 1].rsplit(" ", 1)[0] + "."
