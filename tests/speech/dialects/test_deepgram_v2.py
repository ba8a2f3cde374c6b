"""Deepgram v2: the handshake, each message, and the vendor's own client against the server that the suite uses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram_v2 import SAMPLE_RATES_HZ, DeepgramV2
from llm2ws.speech.messages import (
    AudioChunk,
    Begin,
    Cancel,
    Cancelled,
    CancelRefused,
    Close,
    Command,
    End,
    Ended,
    Failed,
    Flush,
    KeepAlive,
    Opened,
    Speak,
    Unknown,
    Warned,
)
from llm2ws.testing import Coding, Faults, decode, script, tokens
from llm2ws.turn import Conversation, Outcome
from scripts.virtual_clock import run
from tests.speech.strange import JSON
from tests.vendors.deepgram_v2 import DeepgramV2Server
from tests.whole import FORMAT, heard

CODING = Coding(char_samples=480, lead_in_s=0.0)


def v2(**setup: object) -> DeepgramV2:
    return DeepgramV2(Setup(**{"url": "", "voice": "", "format": AudioFormat(), "key": "k", **setup}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("encoding", "rate"), [(e, r) for e, rates in SAMPLE_RATES_HZ.items() for r in rates])
def test_the_handshake(encoding: Encoding, rate: int) -> None:
    request = v2(format=AudioFormat(encoding, rate), speed=1.2).request()
    assert urlsplit(request.url)._replace(query="").geturl() == "wss://api.deepgram.com/v2/speak"
    query = parse_qs(urlsplit(request.url).query)
    assert query == {"model": ["flux-alexis-en"], "encoding": [encoding], "sample_rate": [str(rate)], "speed": ["1.2"]}
    assert request.headers == {"Authorization": "Token k"}
    assert urlsplit(v2(url="ws://127.0.0.1:1").request().url).path == "/v2/speak"


def test_a_format_that_it_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"Deepgram has no linear16 22050 Hz.*24000, 32000, 44100"):
        v2(format=AudioFormat(Encoding.LINEAR16, 22_050)).request()


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        (Speak(1, 'a "b" é '), [{"type": "Speak", "text": 'a "b" é '}]),
        (End(1), [{"type": "Flush"}]),
        (Cancel(1), [{"type": "Interrupt"}]),
        (Cancel(1, 0), [{"type": "Interrupt", "playback_offset": {"type": "time_ms", "value": 0}}]),
        (Close(), [{"type": "Close"}]),
        (Begin(1), []),
        (Flush(1), []),
        (KeepAlive(), []),
    ],
)
def test_commands(command: Command, messages: list[object]) -> None:
    assert [json.loads(message) for message in v2().encode(command)] == messages


@pytest.mark.parametrize(
    ("message", "events"),
    [
        (b"\1\2\3", [AudioChunk(b"\1\2\3")]),
        ('{"type":"Connected","request_id":"r"}', [Opened("r")]),
        ('{"type":"Connected"}', [Opened("")]),
        ('{"type":"SpeechStarted","speech_id":"dg_sp_1"}', []),
        ('{"type":"Flushed","speech_id":"dg_sp_1"}', []),
        ('{"type":"SpeechMetadata","speech_id":"dg_sp_1"}', [Ended()]),
        ('{"type":"SpeechInterrupted","audio_played_ms":7,"text_spoken":"a"}', [Cancelled(text_spoken="a", played_ms=7)]),
        ('{"type":"SpeechInterrupted","audio_played_ms":7}', [Cancelled(played_ms=7)]),
        ('{"type":"SpeechInterrupted","audio_played_ms":true,"text_spoken":null}', [Cancelled(text_spoken="")]),
        ('{"type":"SpeechInterrupted","audio_played_ms":"7"}', [Cancelled()]),
        ('{"type":"SpeechInterrupted","audio_played_ms":10000000000000000000}', [Cancelled()]),  # no message could say it back
        ('{"type":"Warning","code":"NO_ACTIVE_SPEECH","description":"d"}', [Warned("NO_ACTIVE_SPEECH", "d")]),
        ('{"type":"Warning","code":"NO_AUDIO_GENERATED"}', [Warned("NO_AUDIO_GENERATED", ""), CancelRefused()]),
        ('{"type":"Later"}', [Unknown("Later")]),
        ("{", [Unknown("None")]),
        ("[]", [Unknown("None")]),
    ],
)
def test_messages(message: str | bytes, events: list[object]) -> None:
    assert v2().decode(message) == events


@pytest.mark.parametrize(
    ("code", "retry"),
    [("NET-0000", True), ("NET-0004", True), ("DATA-0000", False), ("DATA-0002", False), ("BIG-0000", False), ("NEW-1", True)],
)
def test_an_error_and_the_close_frame_after_it_mean_the_same(code: str, retry: bool) -> None:
    [failed] = v2().decode(json.dumps({"type": "Error", "code": code, "description": "d"}))
    assert isinstance(failed, Failed)
    assert ((failed.retry_s is not None), code in failed.what) == (retry, True)
    if code != "NEW-1":
        closed = v2().closed(1011, code)
        assert (closed.hint, closed.retry_s) == (failed.hint, failed.retry_s)


KINDS = ["Connected", "SpeechMetadata", "SpeechInterrupted", "Warning", "Error", "ConfigureFailure"]
FIELDS = st.sampled_from(["code", "description", "request_id", "audio_played_ms", "text_spoken"])


@given(st.sampled_from(KINDS) | JSON, st.dictionaries(FIELDS, JSON))
def test_no_message_is_too_strange(kind: object, more: dict[str, object]) -> None:
    assert isinstance(v2().decode(json.dumps({"type": kind, **more})), list)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503])
def test_refusals_are_those_of_the_first_version(status: int) -> None:
    failed = v2(key="secret").refused(status, {}, b'{"err_code":"CODE","err_msg":"what secret"}')
    assert (failed.status, failed.retry_s is not None) == (status, status in (429, 500, 503))
    assert "CODE: what ***" in failed.what


# --- over the wire


@asynccontextmanager
async def talking(**options: Any) -> AsyncIterator[tuple[DeepgramV2Server, Conversation]]:
    async with DeepgramV2Server(coding=CODING, **options) as server, Pool() as pool:
        yield server, Conversation(pool, [Endpoint(DeepgramV2(Setup(server.url, "", FORMAT)))])


def kinds(server: DeepgramV2Server) -> list[str]:
    return [entry.message["type"] for entry in server.log]


def test_tokens_go_out_verbatim_with_one_flush() -> None:
    async def speak() -> None:
        async with talking() as (server, conversation):
            text = "Hello, world. It costs $3.50, Dr. Smith!"
            assert await heard(conversation.turn(script(*tokens(text)))) == text
            assert "".join(server.texts()) == text
            assert kinds(server).count("Flush") == 1
            assert len(server.texts()) > 8

    run(speak())


def test_interrupted_again_and_again_each_place_is_taken() -> None:
    async def speak() -> list[str]:
        async with talking(pace=1.0) as (server, conversation):
            for seconds in (0.5, 1.0, 0.0, 0.3, 2.0):
                turn = conversation.turn(script("This is said. ", "And this is not heard. " * 5))
                async with turn:
                    async for event in turn.audio():
                        if turn.stats.audio_s >= seconds:
                            break
                        assert event
                    await turn.interrupt(seconds)
                assert turn.outcome is Outcome.INTERRUPTED
            assert await heard(conversation.turn(script("Then this. "))) == "Then this."
            assert server.connections == 1
            return [json.dumps(entry.message) for entry in server.log if entry.message["type"] == "Interrupt"]

    interrupts = run(speak())
    assert len(interrupts) == 5
    places = [json.loads(message)["playback_offset"]["value"] for message in interrupts if "playback_offset" in message]
    assert len(places) == 4  # the one at 0 s would not have grown
    assert places == sorted(set(places))


def test_a_turn_left_before_its_first_audio_keeps_the_connection() -> None:
    async def speak() -> None:
        async with talking(pace=1.0) as (server, conversation):
            server.faults = Faults(first_byte_s=0.3)
            async with conversation.turn(script("This is never heard. ", 60.0)):
                await server.until(lambda s: bool(s.texts()))
            assert await heard(conversation.turn(script("Then this. "))) == "Then this."
            assert kinds(server)[1:4] == ["Interrupt", "Flush", "Interrupt"]
            assert server.connections == 1

    run(speak())


def test_where_pings_are_no_sign_of_life_nothing_is_lost_either() -> None:
    async def speak() -> None:
        async with talking(pace=4.0) as (server, conversation):
            server.pings_count = False
            turn = conversation.turn(script("Before it pauses, this is said. ", 100.0, "And this afterwards."))
            assert await heard(turn) == "Before it pauses, this is said. And this afterwards."
            await asyncio.sleep(200.0)
            assert await heard(conversation.turn(script("The next one. "))) == "The next one."
            assert {how.reason for how in server.closed_with} == {"NET-0004"}

    run(speak())


# The SDK's generated code, and the deprecated half of websockets that it still uses.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
async def test_the_vendors_client_finds_its_own_service(canary: Callable[[], str]) -> None:
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v2 import types as v2_types

    key = canary()
    async with DeepgramV2Server(coding=CODING, key=key) as server:
        ws, http = f"ws://127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}"
        environment = DeepgramClientEnvironment(base=http, production=ws, agent=ws, agent_rest=http)
        speak = AsyncDeepgramClient(api_key=key, environment=environment).speak.v2
        async with speak.connect(model="flux-alexis-en", encoding="linear16", sample_rate="8000") as socket:
            assert isinstance(await socket.recv(), v2_types.SpeakV2Connected)
            for n in range(2):
                await socket.send_speak(v2_types.SpeakV2Speak(type="Speak", text="One, two, "))
                await socket.send_speak(v2_types.SpeakV2Speak(type="Speak", text="three."))
                await socket.send_flush()
                audio, told = bytearray(), list[Any]()
                while not any(message.type == "SpeechMetadata" for message in told):
                    message = await socket.recv()
                    if isinstance(message, bytes):
                        audio += message
                    else:
                        told.append(message)
                assert decode(bytes(audio)) == "One, two, three."
                ended = next(message for message in told if message.type == "SpeechMetadata")
                assert ended.audio_duration_ms == pytest.approx(1_000 * FORMAT.seconds(len(audio)), abs=1)
                assert ended.input_character_count == len("One, two, three.")
                assert [m.type for m in told if m.type != "Flushed"] == ["SpeechStarted", "SpeechMetadata"], n
            await socket.send_close()
            rest = [message async for message in socket]
            assert [message.type for message in rest if message.type != "Flushed"] == ["SessionMetadata"]

        with pytest.raises(ApiError) as refused:
            async with speak.connect(model="aura-2-thalia-en"):
                pass
        assert refused.value.status_code == 400
        stranger = AsyncDeepgramClient(api_key="wrong", environment=environment).speak.v2
        with pytest.raises(ApiError) as refused:
            async with stranger.connect(model="flux-alexis-en"):
                pass
        assert refused.value.status_code == 401
