from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.elevenlabs import SAMPLE_RATES_HZ, ElevenLabs
from llm2ws.speech.messages import (
    AudioChunk,
    Begin,
    Cancel,
    Close,
    End,
    Ended,
    Failed,
    Flush,
    KeepAlive,
    Scope,
    Speak,
    Timed,
    Word,
)
from tests.speech.strange import JSON, NUMBERS


def elevenlabs(**setup: object) -> ElevenLabs:
    return ElevenLabs(Setup(**{"url": "", "voice": "", "format": AudioFormat(), "key": "secret", **setup}))  # type: ignore[arg-type]


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query, strict_parsing=True)


def test_the_handshake_names_voice_model_and_format_and_holds_the_key_in_a_header() -> None:
    request = elevenlabs(key="secret").request()
    parts = urlsplit(request.url)
    assert (parts.scheme, parts.netloc) == ("wss", "api.elevenlabs.io")
    assert parts.path == "/v1/text-to-speech/JBFqnCBsd6RMkjVDRZzb/multi-stream-input"
    assert query(request.url) == {
        "model_id": ["eleven_flash_v2_5"],
        "output_format": ["pcm_24000"],
        "auto_mode": ["true"],
        "sync_alignment": ["true"],
        "inactivity_timeout": ["180"],
    }
    assert request.headers == {"xi-api-key": "secret"}
    assert "secret" not in request.url
    assert elevenlabs(key="").request().headers == {}


def test_what_is_set_is_asked_for_and_what_the_url_says_goes_first() -> None:
    url = "ws://127.0.0.1:9/?seed=7&auto_mode=false"
    request = elevenlabs(url=url, voice="a/b?", model="m", language="de").request()
    assert urlsplit(request.url).path == "/v1/text-to-speech/a%2Fb%3F/multi-stream-input"
    asked = query(request.url)
    assert [asked[name] for name in ("seed", "auto_mode", "model_id", "language_code")] == [["7"], ["false"], ["m"], ["de"]]
    assert urlsplit(elevenlabs(url="wss://proxy/other/path").request().url).path == "/other/path"


@pytest.mark.parametrize(
    ("encoding", "rate", "name"),
    [(Encoding.LINEAR16, rate, f"pcm_{rate}") for rate in SAMPLE_RATES_HZ[Encoding.LINEAR16]]
    + [(Encoding.MULAW, 8_000, "ulaw_8000"), (Encoding.ALAW, 8_000, "alaw_8000")],
)
def test_formats_as_the_vendor_writes_them(encoding: Encoding, rate: int, name: str) -> None:
    assert query(elevenlabs(format=AudioFormat(encoding, rate)).request().url)["output_format"] == [name]


def test_what_it_does_not_have_is_an_error_that_says_what_it_has() -> None:
    with pytest.raises(ConfigError, match=r"ElevenLabs has no linear16 32000 Hz.* 24000, 44100"):
        elevenlabs(format=AudioFormat(Encoding.LINEAR16, 32_000)).request()
    with pytest.raises(ConfigError, match=r"no speed 1.5: give 0.7 to 1.2"):
        elevenlabs(speed=1.5).request()


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        (Begin(7), [{"text": " ", "context_id": "7"}]),
        (Speak(7, 'Hé "x" \U0001f600 '), [{"text": 'Hé "x" \U0001f600 ', "context_id": "7"}]),
        (Flush(7), [{"flush": True, "context_id": "7"}]),
        (End(7), [{"flush": True, "context_id": "7"}, {"close_context": True, "context_id": "7"}]),
        (Cancel(7, 200), [{"close_context": True, "context_id": "7"}]),
        (KeepAlive(7), [{"text": "", "context_id": "7"}]),
        (KeepAlive(), [{"text": ""}]),
        (Close(), [{"close_socket": True}]),
    ],
)
def test_commands_as_messages(command: Speak, messages: list[object]) -> None:
    assert [json.loads(message) for message in elevenlabs().encode(command)] == messages


def test_a_speed_is_set_when_a_context_begins() -> None:
    assert json.loads(elevenlabs(speed=1.1).encode(Begin(1))[0])["voice_settings"] == {"speed": 1.1}


def test_words_are_made_of_characters_and_come_before_their_audio() -> None:
    alignment = {
        "chars": list("Hi, you there"),
        "charStartTimesMs": list(range(0, 1_300, 100)),
        "charDurationsMs": [100] * 13,
    }
    message = {"contextId": "3", "audio": "AAEC", "alignment": alignment, "isFinal": None}
    words = (Word("Hi,", 0.0, 0.3), Word("you", 0.4, 0.7), Word("there", 0.8, 1.3))
    assert elevenlabs().decode(json.dumps(message)) == [Timed(words, 3, from_here=True), AudioChunk(b"\0\1\2", 3)]
    last = message | {"isFinal": True}
    assert elevenlabs().decode(json.dumps(last))[-1] == Ended(3)


@pytest.mark.parametrize(
    ("slug", "retry_s"),
    [
        ("max_active_conversations", 0.0),
        ("input_timeout_exceeded", 0.0),
        ("quota_exceeded", None),
        ("invalid_api_key", None),
        ("system_busy", 1.0),
        ("something_new", None),
    ],
)
def test_errors_and_whether_to_try_again(slug: str, retry_s: float | None) -> None:
    (failed,) = elevenlabs().decode(json.dumps({"message": "words of the vendor", "error": slug, "code": 1008}))
    assert isinstance(failed, Failed)
    assert (failed.scope, failed.retry_s, failed.ref) == (Scope.LINK, retry_s, None)
    assert slug in failed.what


@pytest.mark.parametrize(
    ("code", "reason", "retry_s"),
    [
        (1000, "", 0.0),
        (1006, "", 0.0),
        (1008, "Maximum simultaneous contexts per WebSocket connection exceeded (5).", 0.0),
        (1008, "Have not received a new text input within the timeout of 20 seconds.", 0.0),
        (1008, "voice_not_found", None),
        (1008, "", None),
        (1011, "", 0.0),
    ],
)
def test_close_frames(code: int, reason: str, retry_s: float | None) -> None:
    failed = elevenlabs().closed(code, reason)
    assert (failed.scope, failed.code, failed.retry_s) == (Scope.LINK, code, retry_s)


def test_refused_handshakes_are_told_in_the_vendors_words() -> None:
    body = json.dumps({"detail": {"status": "invalid_api_key", "message": "Invalid API key"}}).encode()
    refused = elevenlabs().refused(401, {}, body)
    assert refused.what == "answered HTTP 401 (invalid_api_key: Invalid API key)"
    assert (refused.retry_s, "ELEVENLABS_API_KEY" in refused.hint) == (None, True)
    assert elevenlabs().refused(404, {}, b'{"detail": "Not Found"}').what == "answered HTTP 404 (Not Found)"
    assert elevenlabs().refused(429, {}, b"<html>").retry_s == 1.0


def test_the_vendors_words_are_one_line_without_the_key(canary: Callable[[], str]) -> None:
    key = canary()
    dialect = elevenlabs(key=key)
    said = [
        dialect.refused(401, {}, json.dumps({"detail": {"message": f"no\n{key}"}}).encode()).what,
        dialect.closed(1008, f"no\n{key}").what,
        str(dialect.decode(json.dumps({"error": f"no\n{key}"}))),
        str(dialect.decode(json.dumps({"type": f"no\n{key}"}))),
        repr(dialect),
        repr(dialect.request()),
    ]
    assert not [text for text in said if key in text or "\n" in text]


NAMES = st.sampled_from(
    ["audio", "contextId", "context_id", "isFinal", "error", "message", "type", "code", "normalizedAlignment"]
)
ALIGNMENT = JSON | st.dictionaries(st.sampled_from(["chars", "charStartTimesMs", "charDurationsMs"]), JSON | st.lists(NUMBERS))


@given(st.text() | st.builds(lambda more, a: json.dumps({**more, "alignment": a}), st.dictionaries(NAMES, JSON), ALIGNMENT))
@example(json.dumps({"contextId": "9" * 5_000, "isFinal": True}))
@example(json.dumps({"alignment": {"chars": ["a"], "charStartTimesMs": [10**400], "charDurationsMs": [1]}}))
def test_no_message_breaks_the_reader(message: str) -> None:
    elevenlabs().decode(message)
    elevenlabs().refused(500, {}, message.encode("utf-8", "replace"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_any_text_arrives_as_it_is(text: str) -> None:
    assert [json.loads(message)["text"] for message in elevenlabs().encode(Speak(1, text))] == [text]
