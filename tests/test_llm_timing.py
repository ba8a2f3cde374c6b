"""When what an LLM writes is sent, heard and complete. Servers, source, turn and endpoint are real, the clock is not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llm2ws import WavFile
from llm2ws.audio import AudioFormat
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.sources.model import ModelSettings
from llm2ws.sources.openai import OpenAIChat
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.speech.dialects.deepgram_server import SpeakIn
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Faults, FaultySpeech, tokens
from llm2ws.turn import Audio, Conversation
from scripts.virtual_clock import VirtualLoop
from tests.sources.asking import chunk

FIRST_BYTE_S = 0.2
STALL_S = 5.0


class Loop(VirtualLoop):
    """Without threads, whose work takes time that this clock does not know of."""

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001 - whoever awaits it is told
            future.set_exception(exc)
        return future


def run(what: Coroutine[object, object, Spoken]) -> Spoken:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(what)


class Written(NamedTuple):
    text: str
    then_s: float  # of silence


@asynccontextmanager
async def model(script: Sequence[Written], at: list[float]) -> AsyncIterator[str]:
    """A server that writes a script. `at` gets the time of each piece."""
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for piece in script:
            writer.write(chunk(piece.text))
            at.append(loop.time())
            await asyncio.sleep(piece.then_s)
        writer.write(chunk(reason="stop") + b"data: [DONE]\n\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Spoken(NamedTuple):
    written_at: list[float]
    said: list[tuple[str, float]]  # what came to the endpoint, and when
    audio_at: list[float]  # when it was handed out
    closed_at: float  # when the file was complete
    audio_s: float


async def speak(script: Sequence[Written], wav: Path, *, pace: float | None = None) -> Spoken:
    loop, written_at, audio_at = asyncio.get_running_loop(), list[float](), list[float]()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(model(script, written_at))
        speech = await stack.enter_async_context(FaultySpeech(pace=pace))
        speech.faults = Faults(first_byte_s=FIRST_BYTE_S)
        chat = await stack.enter_async_context(OpenAIChat(ModelSettings(model="m", base_url=url)))
        pool = await stack.enter_async_context(Pool())
        where = Endpoint(DIALECTS["deepgram"](Setup(speech.url, "", AudioFormat())))
        await pool.warm(where)
        conversation = Conversation(pool, [where], pace=Pace.LISTENER, slow_consumer_s=math.inf)
        async with conversation.turn(chat.answer("?")) as turn, WavFile(wav, turn.format) as file:
            async for event in turn.events():
                if isinstance(event, Audio):
                    audio_at.append(loop.time())
                    await file.write(event.data)
        closed_at = loop.time()
        said = [(one.message.text.strip(), one.at) for one in speech.log if isinstance(one.message, SpeakIn)]
    return Spoken(written_at, said, audio_at, closed_at, turn.stats.audio_s)


def paced(text: str, rate: float) -> list[Written]:
    return [Written(token, 1 / rate) for token in tokens(text)]


def said_at(spoken: Spoken, text: str) -> float:
    return next(at for what, at in spoken.said if text in what)


@pytest.mark.parametrize("end", ["blue.", "blue!", "blue?", "blue.”", "blue...", "blue。"])
def test_a_sure_sentence_end_leaves_while_the_model_stalls(tmp_path: Path, end: str) -> None:
    script = [*paced("The sky above us is very", 20), Written(f" {end}", STALL_S), Written(" So it is.", 0.0)]
    spoken = run(speak(script, tmp_path / "o.wav"))
    assert said_at(spoken, end) - spoken.written_at[-2] <= 0.15


@pytest.mark.parametrize("end", ["Dr.", "No. 3.", "e.g.", "$3", "St."])
def test_what_may_not_be_an_end_does_not_leave(tmp_path: Path, end: str) -> None:
    """Long enough for the endings that are only waited for, and for less than those that no pause makes sure."""
    script = [*paced("I have never met the famous", 20), Written(f" {end}", 0.9), Written(" Smith came too.", 0.0)]
    spoken = run(speak(script, tmp_path / "o.wav"))
    assert said_at(spoken, end.split()[-1]) >= spoken.written_at[-1]


@pytest.mark.parametrize("rate", [10.0, 30.0, 100.0])
def test_the_first_audio_waits_for_the_first_clause_and_the_endpoint(tmp_path: Path, rate: float) -> None:
    first = "The sky is blue because of the air,"
    script = paced(f"{first} which scatters the light of the sun in all directions. That is all there is to it.", rate)
    spoken = run(speak(script, tmp_path / "o.wav"))
    written, clause_at = "", 0.0
    for piece, at in zip(script, spoken.written_at, strict=True):
        written += piece.text
        if len(written.rstrip()) <= len(first):
            clause_at = at
    assert spoken.said[0][0] == first
    assert spoken.audio_at[0] - clause_at - FIRST_BYTE_S <= 0.15


@pytest.mark.parametrize("pace", [None, 1.2])
def test_the_file_is_complete_soon_after_the_last_audio_is_due(tmp_path: Path, pace: float | None) -> None:
    text = "The sky is blue because of the air. It scatters the light of the sun. That is all there is to it. " * 3
    spoken = run(speak(paced(text, 30.0), tmp_path / "o.wav", pace=pace))
    assert spoken.closed_at - spoken.audio_at[-1] <= 0.5
    assert (tmp_path / "o.wav").stat().st_size == 44 + AudioFormat().bytes_for(spoken.audio_s)
