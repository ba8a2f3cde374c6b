from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.cartesia import SAMPLE_RATES_HZ, Cartesia
from llm2ws.speech.messages import AudioChunk, Begin, Cancel, Close, End, Failed, Flush, KeepAlive, Scope, Speak, Timed, Word
from llm2ws.testing import Coding, script
from llm2ws.turn import Conversation
from scripts.virtual_clock import run
from tests.speech.strange import JSON, NUMBERS
from tests.vendors.cartesia import CartesiaServer
from tests.whole import FORMAT, heard


def cartesia(**setup: object) -> Cartesia:
    return Cartesia(Setup(**{"url": "", "voice": "", "format": AudioFormat(), "key": "secret", **setup}))  # type: ignore[arg-type]


def test_the_handshake_holds_key_and_version_in_headers() -> None:
    request = cartesia(key="secret").request()
    assert request.url == "wss://api.cartesia.ai/tts/websocket"
    assert request.headers == {"X-API-Key": "secret", "Cartesia-Version": "2026-03-01"}
    assert cartesia(key="", url="ws://127.0.0.1:9").request().url == "ws://127.0.0.1:9/tts/websocket"
    assert "X-API-Key" not in cartesia(key="").request().headers


@pytest.mark.parametrize(
    ("encoding", "name"),
    [(Encoding.LINEAR16, "pcm_s16le"), (Encoding.MULAW, "pcm_mulaw"), (Encoding.ALAW, "pcm_alaw")],
)
def test_every_request_is_said_in_full(encoding: Encoding, name: str) -> None:
    for rate in SAMPLE_RATES_HZ[encoding]:
        setup = {"voice": "v", "model": "m", "language": "de", "speed": 1.2, "format": AudioFormat(encoding, rate)}
        dialect = cartesia(**setup)
        dialect.request()
        (message,) = dialect.encode(Speak(4, "Hé. "))
        assert json.loads(message) == {
            "context_id": "4",
            "model_id": "m",
            "transcript": "Hé. ",
            "continue": True,
            "voice": {"mode": "id", "id": "v"},
            "language": "de",
            "output_format": {"container": "raw", "encoding": name, "sample_rate": rate},
            "generation_config": {"speed": 1.2},
            "add_timestamps": True,
            "use_normalized_timestamps": False,
            "max_buffer_delay_ms": 0,
        }
        (last,) = dialect.encode(End(4))
        assert json.loads(last) == json.loads(message) | {"transcript": "", "continue": False}
        assert dialect.encode(Flush(4)) == [last]


def test_what_is_not_said_is_not_asked_for() -> None:
    message = json.loads(cartesia().encode(Speak(1, "x"))[0])
    assert not {"language", "generation_config"} & set(message)


def test_what_it_does_not_have_is_an_error_that_says_what_it_has() -> None:
    with pytest.raises(ConfigError, match=r"Cartesia has no linear16 32000 Hz.* 24000, 44100"):
        cartesia(format=AudioFormat(Encoding.LINEAR16, 32_000)).request()
    with pytest.raises(ConfigError, match=r"no speed 2: give 0.6 to 1.5"):
        cartesia(speed=2.0).request()


def test_cancel_and_what_it_has_no_word_for() -> None:
    assert [json.loads(message) for message in cartesia().encode(Cancel(3, 100))] == [{"context_id": "3", "cancel": True}]
    for command in (Begin(1), KeepAlive(), KeepAlive(1), Close()):
        assert cartesia().encode(command) == []


def test_audio_and_words() -> None:
    chunk = {"type": "chunk", "context_id": "3", "data": "AAEC", "done": False, "status_code": 206, "step_time": 1.5}
    assert cartesia().decode(json.dumps(chunk)) == [AudioChunk(b"\0\1\2", 3)]
    times = {"words": ["Hello,", "you"], "start": [0, 0.5], "end": [0.4, 0.9]}
    words = (Word("Hello,", 0.0, 0.4), Word("you", 0.5, 0.9))
    message = {"type": "timestamps", "context_id": "3", "word_timestamps": times}
    assert cartesia().decode(json.dumps(message)) == [Timed(words, 3)]


@pytest.mark.parametrize(
    ("error", "retry_s"),
    [
        ({"status_code": 429, "error_code": "concurrency_limited", "title": "Too many concurrent requests"}, 1.0),
        ({"status_code": 400, "error_code": None, "title": "Context has closed"}, 0.0),
        ({"status_code": 402, "error_code": "quota_exceeded", "title": "Quota"}, None),
        ({"status_code": 400, "error_code": "model_not_found", "title": "Invalid model"}, None),
        ({"status_code": 401, "title": "Unauthorized"}, None),
        ({"status_code": 500, "title": "Internal server error"}, 0.0),
        ({"status_code": 503}, 0.0),
        ({"status_code": 418}, None),
        ({"error": "older form"}, None),
        ({}, None),
    ],
)
def test_errors_and_whether_to_try_again(error: dict[str, object], retry_s: float | None) -> None:
    for context, scope in (("2", Scope.CONTEXT), (None, Scope.LINK)):
        (failed,) = cartesia().decode(json.dumps({"type": "error", "done": True, "context_id": context, **error}))
        assert isinstance(failed, Failed)
        assert (failed.scope, failed.retry_s) == (scope, retry_s)


def test_close_frames_and_refused_handshakes() -> None:
    idle = cartesia().closed(1000, "connection idle timeout")
    assert (idle.what, idle.retry_s) == ("the connection had not been used for long (1000 connection idle timeout)", 0.0)
    assert cartesia().closed(1006, "").retry_s == 0.0
    body = json.dumps({"error_code": "unauthorized", "title": "Unauthorized", "message": "No."}).encode()
    refused = cartesia().refused(401, {}, body)
    assert refused.what == "answered HTTP 401 (unauthorized: Unauthorized: No.)"
    assert (refused.retry_s, "CARTESIA_API_KEY" in refused.hint) == (None, True)
    assert cartesia().refused(429, {}, b"").retry_s == 1.0


def test_the_vendors_words_are_one_line_without_the_key(canary: Callable[[], str]) -> None:
    key = canary()
    dialect = cartesia(key=key)
    said = [
        dialect.refused(401, {}, json.dumps({"message": f"no\n{key}"}).encode()).what,
        dialect.closed(1008, f"no\n{key}").what,
        str(dialect.decode(json.dumps({"type": "error", "message": f"no\n{key}"}))),
        str(dialect.decode(json.dumps({"type": f"no\n{key}"}))),
        repr(dialect),
        repr(dialect.request()),
    ]
    assert not [text for text in said if key in text or "\n" in text]


KINDS = st.sampled_from(["chunk", "timestamps", "done", "error", "flush_done"]) | JSON
NAMES = st.sampled_from(["context_id", "data", "word_timestamps", "status_code", "title", "message", "error_code"])
TIMES = JSON | st.dictionaries(st.sampled_from(["words", "start", "end"]), JSON | st.lists(NUMBERS))


@given(
    st.text()
    | st.builds(
        lambda kind, more, times: json.dumps({**more, "type": kind, "word_timestamps": times}),
        KINDS,
        st.dictionaries(NAMES, JSON),
        TIMES,
    )
)
@example(json.dumps({"type": "done", "context_id": "9" * 5_000}))
@example(json.dumps({"type": "timestamps", "word_timestamps": {"words": ["a"], "start": [10**400], "end": [1]}}))
def test_no_message_breaks_the_reader(message: str) -> None:
    cartesia().decode(message)
    cartesia().refused(500, {}, message.encode("utf-8", "replace"))


def test_a_turn_that_is_one_too_many_waits_before_it_is_tried_again() -> None:
    async def speak() -> None:
        async with CartesiaServer(coding=Coding(char_samples=240), pace=1.0, concurrency=1) as server, Pool() as pool:
            endpoint = Endpoint(Cartesia(Setup(server.url, "", FORMAT)))
            texts = ("This takes more than a second.", "This has to wait.")
            first = asyncio.create_task(heard(Conversation(pool, [endpoint]).turn(script(texts[0]))))
            await server.until(lambda s: s.active == 1)
            assert await heard(Conversation(pool, [endpoint]).turn(script(texts[1]))) == texts[1]
            assert await first == texts[0]
            tries = [entry.at for entry in server.log if entry.message.get("transcript", "").strip() == texts[1]]
            assert len(tries) > 1
            assert all(after - before >= 1.0 for before, after in pairwise(tries))

    run(speak())
