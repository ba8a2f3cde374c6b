"""The Deepgram voices of LiveKit and Pipecat, with nothing but their address changed.

Neither is installed with the tests: `pip install livekit-plugins-deepgram "pipecat-ai[deepgram]"` next to them, and --all.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from llm2ws.speech.dialects.deepgram_server import FlushIn
from llm2ws.testing import Coding, FaultySpeech, decode, tokens
from tests.server.conftest import CODING, Start

pytestmark = [pytest.mark.install, pytest.mark.filterwarnings("ignore")]  # theirs

ANSWER = "The sky is blue, because air scatters short waves. At sunset it is red! It costs $3.50, Dr. Smith."


async def test_livekit(start: Start) -> None:
    deepgram = pytest.importorskip("livekit.plugins.deepgram")
    async with start(speech=FaultySpeech(coding=CODING)) as daemon, aiohttp.ClientSession() as http:
        voice = deepgram.TTS(
            api_key="none", base_url=f"{daemon.url}/v1/speak", http_session=http, model="aura-2-thalia-en", sample_rate=24_000
        )

        async def heard(text: str) -> str:
            async with voice.stream() as stream:
                for token in tokens(text):
                    stream.push_text(token)
                    await asyncio.sleep(0)
                stream.end_input()
                return decode(b"".join([bytes(event.frame.data) async for event in stream]))

        assert await heard(ANSWER) == ANSWER
        async with voice.stream() as interrupted:
            interrupted.push_text("Nobody hears the end of this. " * 20)
            interrupted.flush()
            await anext(interrupted)
        assert await heard("This is the next answer.") == "This is the next answer."
        await voice.aclose()


async def test_pipecat(start: Start) -> None:
    service = pytest.importorskip("pipecat.services.deepgram.tts")
    frames = pytest.importorskip("pipecat.frames.frames")
    run = pytest.importorskip("pipecat.tests.utils")

    async def heard(url: str, *sent: Any) -> str:
        voice = service.DeepgramTTSService(api_key="none", base_url=url.replace("http", "ws"), sample_rate=24_000)
        down, _ = await run.run_test(voice, frames_to_send=list(sent))
        return decode(b"".join(frame.audio for frame in down if isinstance(frame, frames.TTSAudioRawFrame)))

    def answer(text: str) -> list[Any]:
        return [
            frames.LLMFullResponseStartFrame(),
            *(frames.LLMTextFrame(token) for token in tokens(text)),
            frames.LLMFullResponseEndFrame(),
            run.SleepFrame(1.0),  # it would leave before the audio has come
        ]

    async with start(speech=FaultySpeech(coding=CODING)) as daemon:
        assert await heard(daemon.url, *answer(ANSWER)) == ANSWER
        assert daemon.speech.count(FlushIn) > 1
    async with start(speech=FaultySpeech(coding=Coding(char_samples=480), pace=1.0)) as daemon:
        begun = answer("Nobody hears the end of this. " * 20)
        said = await heard(daemon.url, *begun, frames.InterruptionFrame(), *answer("This is new."))
        assert said.startswith("Nobody")
        assert said.endswith("This is new.")
        assert len(said) < 500
