"""OpenAI's speech API, served by the daemon: with the official SDK, and as Open WebUI and Home Assistant ask."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest
from msgspec.structs import replace

from llm2ws.audio import AudioFormat
from llm2ws.server import sending
from llm2ws.server.encode import encoder
from llm2ws.settings.fields import ClientLimits, Key, Model, Secret, Server, Voice
from llm2ws.speech.dialects.deepgram_server import ClearIn, FlushIn, SpeakIn
from llm2ws.testing import Coding, Drop, Faults, FaultySpeech, How, decode
from tests.server.conftest import CODING, Running, Start, complaints
from tests.support import MS

TEXT = "The sky is **blue**, because air scatters short waves. At sunset it is red! It costs $3.50, Dr. Smith."
SPOKEN = TEXT.replace("*", "")


def wav_text(data: bytes) -> str:
    with wave.open(io.BytesIO(data)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 24_000)
        return decode(wav.readframes(wav.getnframes()))


def mp3_of(text: str, pcm: bytes) -> bytes:
    assert decode(pcm) == text
    encode = encoder("mp3", AudioFormat())
    return encode.feed(pcm) + encode.finish()


async def post(daemon: Running, body: object, **options: Any) -> tuple[int, str, bytes]:
    async with daemon.http.post("/v1/audio/speech", json=body, **options) as answer:
        return answer.status, answer.content_type, await answer.read()


# --- the SDK ----------------------------------------------------------------------------------------------------------------


async def test_the_sdk_takes_audio_while_it_is_made(start: Start) -> None:
    async with start() as daemon, openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        daemon.speech.faults = Faults(flushed_s=float("inf"))  # the endpoint never gets to its end
        async with client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", voice="coral", input=TEXT, response_format="pcm", instructions="Speak cheerfully."
        ) as response:
            chunks = response.iter_bytes(chunk_size=100)
            assert decode(await anext(chunks))[:3] == "The"
        await daemon.speech.until(lambda speech: speech.count(ClearIn) == 1)  # and the client has left
        await daemon.daemon.until_unused()


async def test_the_sdk_in_each_format(start: Start) -> None:
    async with start() as daemon, openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        create = client.audio.speech.create
        pcm = (await create(model="tts-1", voice="alloy", input=TEXT, response_format="pcm")).content
        assert decode(pcm) == SPOKEN
        wav = (await create(model="tts-1-hd", voice={"id": "nova"}, input=TEXT, response_format="wav")).content
        assert wav_text(wav) == SPOKEN
        mp3 = await create(model="tts-1", voice="alloy", input=TEXT)
        assert mp3.response.headers["content-type"] == "audio/mpeg"
        assert "first_audio;dur=" in mp3.response.headers["server-timing"]
        assert mp3.content == mp3_of(SPOKEN, pcm)


async def test_the_synchronous_sdk(start: Start) -> None:
    async with start() as daemon:

        def read() -> bytes:
            with (
                openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client,
                client.audio.speech.with_streaming_response.create(
                    model="tts-1", voice="onyx", input=TEXT, response_format="wav", speed=1.25
                ) as response,
            ):
                return b"".join(response.iter_bytes())

        assert wav_text(await asyncio.to_thread(read)) == SPOKEN


async def test_its_errors_are_the_sdks(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    async with start(server=Server(keys=(Key(name="one", key=Secret(key)),))) as daemon:
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(openai.NotFoundError, match="voice") as unknown:
                await client.audio.speech.create(model="tts-1", voice="no/body", input="Hello.")
            assert (unknown.value.param, unknown.value.code) == ("voice", "voice_not_found")
            with pytest.raises(openai.BadRequestError, match="opus"):
                await client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.", response_format="opus")
            daemon.speech.refusals.append(401)
            with pytest.raises(openai.InternalServerError, match="operator"):
                await client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.audio.speech.create(model="tts-1", voice="alloy", input="Hello.")


# --- server-sent events -----------------------------------------------------------------------------------------------------


async def events_of(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    assert response.content_type == "text/event-stream"
    lines = (await response.read()).decode().split("\n\n")
    assert lines.pop() == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_events(start: Start) -> None:
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": TEXT, "stream_format": "sse", "response_format": "pcm"}
    async with start() as daemon, daemon.http.post("/v1/audio/speech", json=body) as answer:
        *deltas, done = await events_of(answer)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert decode(b"".join(base64.b64decode(delta["audio"]) for delta in deltas)) == SPOKEN
    assert done["type"] == "speech.audio.done"
    assert set(done["usage"]) == {"input_tokens", "output_tokens", "total_tokens"}


# --- as others ask ----------------------------------------------------------------------------------------------------------


async def test_as_open_webui_asks(start: Start, canary: Callable[[], str]) -> None:
    """open-webui, backend/open_webui/routers/audio.py: it lists without its key, and reads the whole answer as mp3."""
    key = canary()
    async with start(server=Server(keys=(Key(name="webui", key=Secret(key)),))) as daemon:
        async with daemon.http.get("/v1/audio/models") as answer:
            answer.raise_for_status()
            models = {model["id"] for model in (await answer.json()).get("models", [])}
        async with daemon.http.get("/v1/audio/voices") as answer:
            answer.raise_for_status()
            voices = {voice["id"]: voice["name"] for voice in (await answer.json()).get("voices", [])}
        assert {"tts-1", "tts-1-hd", "faulty"} <= models
        assert voices["alloy"] == "alloy"
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {key}",
            "X-OpenWebUI-User-Name": "Ada",
            "X-OpenWebUI-User-Role": "admin",
        }
        for model in ("tts-1", "faulty"):
            body = {"input": SPOKEN, "voice": "alloy", "model": model}
            async with daemon.http.post("/v1/audio/speech", json=body, headers=headers) as answer:
                answer.raise_for_status()
                mp3 = await answer.read()
            pcm = await post(daemon, {**body, "response_format": "pcm"}, headers=headers)
            assert mp3 == mp3_of(SPOKEN, pcm[2])


async def test_as_home_assistant_asks(start: Start) -> None:
    """home-assistant/core, components/openai_conversation/tts.py: the SDK, and "None" for what is not set."""
    async with start() as daemon, openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        for codec in ("wav", "pcm"):
            async with client.audio.speech.with_streaming_response.create(
                model="gpt-4o-mini-tts",
                voice="marin",
                input=SPOKEN,
                instructions=str(None),
                speed=1.0,
                response_format=codec,
            ) as response:
                data = bytearray()
                async for chunk in response.iter_bytes():
                    data.extend(chunk)
            assert (wav_text(bytes(data)) if codec == "wav" else decode(bytes(data))) == SPOKEN


async def test_as_its_custom_integration_asks(start: Start) -> None:
    """sfortis/openai_tts: the voices beside the speech address, a whole number for the speed, no key where none is set."""
    async with start() as daemon:
        async with daemon.http.get("/v1/audio/voices", params={"limit": 100}) as answer:
            assert answer.status == 200
            voice = (await answer.json())["voices"][0]["id"]
        body = {"model": "tts-1", "input": SPOKEN, "voice": voice, "response_format": "wav", "speed": 1}
        status, kind, data = await post(daemon, body)
        assert (status, kind) == (200, "audio/wav")
        assert wav_text(data) == SPOKEN


async def test_a_sentence_costs_one_flush(start: Start) -> None:
    """Open WebUI asks for one sentence after the other, and an endpoint allows few Flushes a minute."""
    async with start() as daemon:
        for n in range(12):
            text = f"This is sentence number {n}, as you can hear."
            assert decode((await post(daemon, {"input": text, "response_format": "pcm"}))[2]) == text
        assert daemon.speech.count(FlushIn) == 12


# --- names ------------------------------------------------------------------------------------------------------------------


async def test_names_map_to_every_endpoint(start: Start) -> None:
    def two(settings: Any) -> Any:
        second = replace(settings.speech["faulty"], url=other.url, api_key=Secret(other.key or ""))
        return replace(
            settings,
            speech={**settings.speech, "other": second},
            models={"tts-1-hd": Model(speech="other"), "fast": Model(speech="other")},
            voices={"narrator": Voice(voice="aura-2-zeus-en", speech="other"), "alloy": Voice(voice="aura-2-zeus-en")},
        )

    async with FaultySpeech(coding=CODING) as other, start(change=two) as daemon:
        for model, voice, speaks in (
            ("tts-1", "alloy", daemon.speech),
            ("tts-1-hd", "alloy", other),
            ("fast", "", other),
            ("other", "nova", other),
            ("faulty", "nova", daemon.speech),
            ("tts-1", "narrator", other),
            (None, None, daemon.speech),
        ):
            before = speaks.count(SpeakIn)
            status, _, data = await post(daemon, {"input": "Hello.", "model": model, "voice": voice, "response_format": "pcm"})
            assert (status, decode(data)) == (200, "Hello.")
            assert speaks.count(SpeakIn) == before + 1
        async with daemon.http.get("/v1/audio/models") as answer:
            assert [model["id"] for model in (await answer.json())["models"]][:4] == ["tts-1-hd", "fast", "faulty", "other"]
        async with daemon.http.get("/v1/audio/voices") as answer:
            assert "narrator" in [voice["id"] for voice in (await answer.json())["voices"]]


# --- what goes wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ([], 400, None, "object"),
        ("Hello.", 400, None, "object"),
        ({}, 400, None, "input"),
        ({"input": None}, 400, "input", "str"),
        ({"input": ""}, 400, "input", "length"),
        ({"input": 7}, 400, "input", "str"),
        ({"input": ["Hello."]}, 400, "input", "str"),
        ({"input": "Hello. " * 30_000}, 400, "input", "200000 characters"),
        ({"input": "Hello.", "voice": 7}, 400, "voice", "str"),
        ({"input": "Hello.", "voice": {}}, 400, "voice", "id"),
        ({"input": "Hello.", "voice": "no/body"}, 404, "voice", "alloy"),
        ({"input": "Hello.", "model": "whisper-1"}, 404, "model", "tts-1"),
        ({"input": "Hello.", "model": ["tts-1"]}, 400, "model", "str"),
        ({"input": "Hello.", "response_format": "opus"}, 400, "response_format", "opus"),
        ({"input": "Hello.", "response_format": "aac"}, 400, "response_format", "aac"),
        ({"input": "Hello.", "response_format": "flac"}, 400, "response_format", "flac"),
        ({"input": "Hello.", "response_format": "tape"}, 400, "response_format", "wav"),
        ({"input": "Hello.", "speed": 0}, 400, "speed", "0.7"),
        ({"input": "Hello.", "speed": 4}, 400, "speed", "1.5"),  # which OpenAI takes, and no endpoint does
        ({"input": "Hello.", "speed": "fast"}, 400, "speed", "float"),
        ({"input": "Hello.", "stream_format": "video"}, 400, "stream_format", "enum"),
    ],
)
async def test_a_bad_request_is_explained(
    start: Start, body: object, status: int, param: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with start() as daemon:
        answer = await post(daemon, body)
        error = json.loads(answer[2])["error"]
        assert (answer[0], error["param"]) == (status, param)
        assert words in error["message"]
        assert error["type"] == "invalid_request_error"
        assert (await post(daemon, {"input": "It serves on."}))[0] == 200
    assert [
        record for record in caplog.records if record.name.startswith(("llm2ws.", "aiohttp")) and record.levelno >= 30
    ] == []


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"input": "\xff"}', "application/json", 400),
        (b'{"input": "\\ud800"}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"input": "' + b"x" * 5_000_000 + b'"}', "application/json", 413),
        (b'{"input": "Hello."}', "text/plain", 415),
        (b"input=Hello", "application/x-www-form-urlencoded", 415),
        (b"", "application/json", 400),
    ],
)
async def test_a_bad_body_is_explained(start: Start, data: bytes, kind: str, status: int) -> None:
    async with start() as daemon:
        async with daemon.http.post("/v1/audio/speech", data=io.BytesIO(data), headers={"Content-Type": kind}) as answer:
            assert answer.status == status
            assert (await answer.json())["error"]["message"]
        async with daemon.http.get("/v1/audio/speech") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "POST"


async def test_nothing_to_say_is_a_short_silence(start: Start) -> None:
    """Players do not take an empty file."""
    async with start() as daemon:
        for text in ("...", " ", "***"):
            status, _, data = await post(daemon, {"input": text, "response_format": "wav"})
            assert status == 200
            assert data[44:] == bytes(4_800)
        assert daemon.speech.texts() == []


async def test_an_endpoint_that_fails_in_the_middle(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Audio that is incomplete does not look complete. Events say what has failed."""
    for stream_format in ("audio", "sse"):
        async with start() as daemon:
            daemon.speech.drops.append(Drop(How.RESET, at_frame=2))
            body = {"input": TEXT, "response_format": "pcm", "stream_format": stream_format}
            async with daemon.http.post("/v1/audio/speech", json=body) as answer:
                daemon.speech.refusals.extend([401] * 5)
                assert answer.status == 200
                if stream_format == "audio":
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await answer.read()
                else:
                    error = (await events_of(answer))[-1]
                    assert error["type"] == "error"
                    assert "operator" in error["error"]["message"]
            await daemon.daemon.until_unused()
    assert not any("Traceback" in line for line in complaints(caplog))


async def test_a_client_that_leaves_stops_the_speech(start: Start) -> None:
    async with start(speech=FaultySpeech(coding=Coding(char_samples=2400), pace=1.0)) as daemon:
        body = {"input": TEXT * 5, "response_format": "pcm"}
        async with daemon.http.post("/v1/audio/speech", json=body) as answer:
            await answer.content.readany()
        await daemon.speech.until(lambda speech: speech.count(ClearIn) == 1)
        await daemon.daemon.until_unused()


async def test_a_client_that_reads_nothing_is_let_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SLOW_CLIENT_S", 300 * MS)
    async with start(speech=FaultySpeech(coding=Coding(char_samples=12_000))) as daemon:
        body = {"input": TEXT * 8, "response_format": "pcm"}  # 20 MB
        async with daemon.http.post("/v1/audio/speech", json=body):
            await daemon.daemon.until_unused()


async def test_limits_and_the_end_of_the_daemon(start: Start) -> None:
    body = {"input": TEXT * 5, "response_format": "pcm", "stream_format": "sse"}
    async with start(server=Server(limits=ClientLimits(turn_speech_s=0.3))) as daemon:
        async with daemon.http.post("/v1/audio/speech", json=body) as answer:
            error = (await events_of(answer))[-1]["error"]
            assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
            assert "speech limit" in error["message"]
    async with start(speech=FaultySpeech(coding=Coding(char_samples=2400), pace=1.0)) as daemon:
        async with daemon.http.post("/v1/audio/speech", json=body) as answer:
            for stop in list(daemon.daemon.turns):
                await stop()
            assert (await events_of(answer))[-1]["error"]["code"] == "draining"
