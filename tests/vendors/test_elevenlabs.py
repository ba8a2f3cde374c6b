"""The vendor's own client finds the local server to behave as the vendor's.

It speaks `stream-input` alone, in a thread, and insists on TLS; what comes over `multi-stream-input` is read by its models.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from elevenlabs import VoiceSettings
from elevenlabs.client import ElevenLabs
from elevenlabs.core.api_error import ApiError
from elevenlabs.core.unchecked_base_model import construct_type
from elevenlabs.types import WebsocketTtsServerMessageMulti
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llm2ws.testing import Coding, decode
from scripts.virtual_clock import run
from tests.vendors.elevenlabs import ElevenLabsServer

pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated")  # its client asks for it

CODING = Coding(char_samples=240)
KEY = "a-key-that-the-client-may-log"
MULTI = "/v1/text-to-speech/v/multi-stream-input?output_format=pcm_24000&sync_alignment=true"


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """For a server on 127.0.0.1 whose certificate every client of this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def speak(server: ElevenLabsServer, key: str, text: Iterator[str]) -> bytes:
    client = ElevenLabs(api_key=key, base_url=f"https://127.0.0.1:{server.port}")
    settings = VoiceSettings(speed=1.1)
    audio = client.text_to_speech.convert_realtime("v", text=text, output_format="pcm_24000", voice_settings=settings)
    return b"".join(audio)


async def test_its_client_hears_what_it_said(tls: ssl.SSLContext) -> None:
    async with ElevenLabsServer(coding=CODING, key=KEY, tls=tls) as server:
        audio = await asyncio.to_thread(speak, server, KEY, iter(["Hello, how ", "are you? ", "I am ", "fine."]))
        assert decode(audio) == "Hello, how are you? I am fine."
        assert server.log[0].message["voice_settings"]["speed"] == 1.1
        assert [how.code for how in server.closed_with] == [1000]


async def test_its_client_is_told_of_an_error(tls: ssl.SSLContext) -> None:
    async with ElevenLabsServer(coding=CODING, tls=tls) as server:
        server.failures = 1
        with pytest.raises(ApiError) as caught:
            await asyncio.to_thread(speak, server, KEY, iter(["Hello."]))
        assert (caught.value.status_code, caught.value.body["error"]) == (1008, "system_busy")


async def test_its_client_is_refused_with_a_wrong_key(tls: ssl.SSLContext) -> None:
    async with ElevenLabsServer(key=f"{KEY}2", tls=tls) as server:
        with pytest.raises(InvalidStatus) as caught:
            await asyncio.to_thread(speak, server, KEY, iter(["Hello."]))
        assert caught.value.response.status_code == 401


def test_what_comes_over_many_contexts_is_as_its_models_say() -> None:
    async def talk() -> None:
        async with ElevenLabsServer(coding=CODING) as server, connect(f"{server.url}{MULTI}") as socket:
            for name in ("a", "b"):
                await socket.send(json.dumps({"text": " ", "context_id": name}))
                await socket.send(json.dumps({"text": f"I am {name}. ", "context_id": name, "flush": True}))
            await socket.send('{"context_id": "a", "close_context": true}')
            await socket.send('{"close_socket": true}')
            raw = [json.loads(message) async for message in socket]
        finals, audio = [], {"a": b"", "b": b""}
        for message in raw:
            for one, other in (("context_id", "contextId"), ("isFinal", "is_final")):  # the models know one spelling
                if one in message:
                    message[other] = message.pop(one)
            read: Any = construct_type(type_=WebsocketTtsServerMessageMulti, object_=message)
            if read.is_final:
                finals.append(read.context_id)
            else:
                audio[read.context_id] += base64.b64decode(read.audio)
                assert len(read.alignment.chars) == len(read.alignment.char_start_times_ms)
        assert {name: decode(data) for name, data in audio.items()} == {"a": "I am a.", "b": "I am b."}
        assert finals == ["a", "b"]

    run(talk())


@pytest.mark.parametrize(
    ("messages", "slug"),
    [
        ([{"text": " ", "context_id": str(n)} for n in range(6)], "max_active_conversations"),
        # Whatever names a context begins it: a keepalive that comes first leaves no place for settings.
        ([{"text": "", "context_id": "a"}, {"text": " ", "context_id": "a", "voice_settings": {}}], "invalid_message"),
        ([{"text": " ", "context_id": "a"}], "input_timeout_exceeded"),
    ],
)
def test_who_breaks_a_rule_is_told_and_closed(messages: list[dict[str, object]], slug: str) -> None:
    async def talk() -> None:
        async with ElevenLabsServer(coding=CODING) as server, connect(f"{server.url}{MULTI}") as socket:
            for message in messages:
                await socket.send(json.dumps(message))
            assert json.loads(await socket.recv())["error"] == slug
            with pytest.raises(ConnectionClosed) as caught:
                await socket.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1008

    run(talk())
