"""A conversation with an endpoint over real sockets, and what is heard of its turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from llm2ws.audio import AudioFormat
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import FlushIn, SpeakIn
from llm2ws.testing import Coding, FaultySpeech, decode
from llm2ws.turn import Conversation, Turn

FORMAT = AudioFormat(sample_rate_hz=8_000)
# 10 ms a character: long enough for a seam to be found, short enough for a test.
CODING = Coding(char_samples=80, word_pause_s=0.06, sentence_pause_s=0.12, lead_in_s=0.0)
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."


@asynccontextmanager
async def talk(speech: FaultySpeech, **options: object) -> AsyncIterator[Conversation]:
    """A conversation with an endpoint. What it does not know of a turn's options goes to the Endpoint."""
    own = {name: options.pop(name) for name in ("limits", "silence_s", "connections") if name in options}
    endpoint = Endpoint(Deepgram(Setup(speech.url, "", FORMAT, speech.key or "")), name="test", **own)  # type: ignore[arg-type]
    async with Pool() as pool:
        yield Conversation(pool, [endpoint], **options)  # type: ignore[arg-type]


async def heard(turn: Turn) -> str:
    """All of a turn, as words."""
    async with turn:
        return decode(b"".join([chunk async for chunk in turn.audio()]))


def speaking(turn: Turn) -> asyncio.Task[None]:
    """The task that speaks a turn."""
    return turn._tasks[1]


async def first_audio(turn: Turn) -> bytes:
    async with aclosing(turn.audio()) as audio:
        return await anext(audio)


def final_flushes(speech: FaultySpeech) -> int:
    """How many Flushes come after the last Speak."""
    kinds = [type(entry.message) for entry in speech.log]
    return kinds[::-1].index(SpeakIn) if SpeakIn in kinds else kinds.count(FlushIn)
