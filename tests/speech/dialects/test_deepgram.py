from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import deepgram_server as server
from llm2ws.speech.dialects.deepgram import SAMPLE_RATES_HZ, Deepgram
from llm2ws.speech.messages import (
    AudioChunk,
    Begin,
    Cancel,
    Cancelled,
    Close,
    End,
    Flush,
    FlushAcked,
    FlushRefused,
    KeepAlive,
    Opened,
    Scope,
    Speak,
    Unknown,
    Warned,
)
from tests.speech.strange import JSON


def deepgram(**setup: object) -> Deepgram:
    return Deepgram(Setup(**{"url": "", "voice": "", "format": AudioFormat(), "key": "k", **setup}))  # type: ignore[arg-type]


@pytest.mark.parametrize(("encoding", "rate"), [(e, r) for e, rates in SAMPLE_RATES_HZ.items() for r in rates])
def test_every_format_that_is_asked_for_is_one_that_the_server_takes(encoding: Encoding, rate: int) -> None:
    fmt = AudioFormat(encoding, rate)
    request = deepgram(format=fmt, voice="aura-2-zeus-en", speed=1.2).request()
    assert urlsplit(request.url)._replace(query="").geturl() == "wss://api.deepgram.com/v1/speak"
    assert server.parse_query(urlsplit(request.url).query) == server.SpeakRequest("aura-2-zeus-en", fmt, 1.2)
    assert server.credential(request.headers["Authorization"], []) == "k"


def test_what_is_not_said_is_not_asked_for() -> None:
    request = deepgram(url="ws://127.0.0.1:1/v1/speak?tag=a", key="").request()
    query = parse_qs(urlsplit(request.url).query)
    assert set(query) == {"tag", "model", "encoding", "sample_rate"}
    assert request.headers == {}


def test_a_format_that_it_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(ConfigError, match=r"linear16 44100 Hz.* 24000, 32000"):
        deepgram(format=AudioFormat(Encoding.LINEAR16, 44_100)).request()
    with pytest.raises(ConfigError, match="8000, 16000"):
        deepgram(format=AudioFormat(Encoding.MULAW, 24_000)).request()


@pytest.mark.parametrize(
    ("command", "understood"),
    [
        (Speak(1, 'Hé said "no". \U0001f600 '), [server.SpeakIn('Hé said "no". \U0001f600 ')]),
        (Flush(1), [server.FlushIn()]),
        (End(1), [server.FlushIn()]),
        (Cancel(1, 200), [server.ClearIn()]),
        (Close(), [server.CloseIn()]),
        (Begin(1), []),
        (KeepAlive(), []),
    ],
)
def test_commands_as_the_server_reads_them(command: Speak, understood: list[object]) -> None:
    assert [server.decode(message) for message in deepgram().encode(command)] == understood


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_any_text_arrives_as_it_is(text: str) -> None:
    assert [server.decode(message) for message in deepgram().encode(Speak(1, text))] == [server.SpeakIn(text)]


@pytest.mark.parametrize(
    ("message", "events"),
    [
        (b"\1\2\3", [AudioChunk(b"\1\2\3")]),
        (server.metadata(request_id="r", model="m", version="1", model_uuid="u"), [Opened("r")]),
        ('{"type":"Metadata"}', [Opened("")]),
        (server.flushed(7), [FlushAcked()]),
        ('{"type":"Flushed"}', [FlushAcked()]),
        (server.cleared(0), [Cancelled()]),
        ('{"type":"Warning","code":"EXCESSIVE_FLUSH","description":"d"}', [Warned("EXCESSIVE_FLUSH", "d"), FlushRefused()]),
        ('{"type":"Warning","warn_code":"EXCESSIVE_FLUSH","warn_msg":"d"}', [Warned("EXCESSIVE_FLUSH", "d"), FlushRefused()]),
        (
            server.EXCESSIVE_FLUSH,
            [Warned("EXCESSIVE_FLUSH", json.loads(server.EXCESSIVE_FLUSH)["description"]), FlushRefused()],
        ),
        ('{"type":"Warning","warn_code":"OTHER"}', [Warned("OTHER", "")]),
        ('{"type":"Warning","warn_code":7,"code":"C","description":null}', [Warned("C", "")]),
        ('{"type":"Error","err_code":"E","err_msg":"m"}', [Warned("E", "m")]),
        ('{"type":"error","description":"m"}', [Warned("", "m")]),
        ('{"type":"Later","x":1}', [Unknown("Later")]),
        ('{"type":["Flushed"]}', [Unknown("['Flushed']")]),
        ("{", [Unknown("None")]),
        ("[]", [Unknown("None")]),
        ("[" * 100_000, [Unknown("None")]),
        ("", [Unknown("None")]),
    ],
)
def test_messages_and_what_they_mean(message: str | bytes, events: list[object]) -> None:
    assert deepgram().decode(message) == events


TYPES = st.sampled_from(["Metadata", "Flushed", "Cleared", "Warning", "Error", "error"])
NAMES = st.sampled_from(["code", "warn_code", "warn_msg", "request_id", "err_msg", "x"])


@given(st.text() | st.builds(lambda kind, more: json.dumps({"type": kind, **more}), TYPES | JSON, st.dictionaries(NAMES, JSON)))
def test_no_message_breaks_the_reader(message: str) -> None:
    assert deepgram().decode(message)


def test_words_of_the_endpoint_are_one_line_without_the_key(canary: Callable[[], str]) -> None:
    key = canary()
    dialect = deepgram(key=key)
    body = json.dumps({"err_code": "INVALID\nAUTH", "err_msg": f"bad key {key} " + "x" * 1_000}).encode()
    said = [
        *(dialect.refused(401, {}, body).what, dialect.refused(400, {"dg-error": f"{key}\r\nx"}, b"").what),
        *(dialect.closed(1008, f"no\n{key}").what, dialect.closed(1008, f"no\n{key}").reason),
        *(
            event.code
            for event in dialect.decode(json.dumps({"type": "Warning", "code": f"{key}\n"}))
            if isinstance(event, Warned)
        ),
        *(event.kind for event in dialect.decode(json.dumps({"type": f"{key}\n"})) if isinstance(event, Unknown)),
    ]
    assert len(said) == 6
    for text in said:
        assert key not in text
        assert text.isprintable()
        assert len(text) < 250


@pytest.mark.parametrize(
    ("status", "hint", "again"),
    [
        (200, "no speech endpoint", False),
        (301, "look at url", False),
        (400, "voice, encoding", False),
        (401, "DEEPGRAM_API_KEY", False),
        (402, "no credit", False),
        (403, "permissions", False),
        (404, "look at url", False),
        (408, "try again", True),
        (429, "too many connections", True),
        (500, "try again", True),
        (503, "try again", True),
    ],
)
def test_refused_handshakes(status: int, hint: str, again: bool) -> None:
    failed = deepgram().refused(status, {"dg-error": "said so"}, b"<html>")
    assert (failed.scope, failed.status, failed.retry_s is not None) == (Scope.LINK, status, again)
    assert hint in failed.hint
    assert failed.what == f"answered HTTP {status} (said so)"


def test_the_reason_of_a_refusal_is_found_in_body_and_header() -> None:
    refusal = server.NO_SUCH_MODEL
    failed = deepgram().refused(400, refusal.headers("id"), refusal.body("id").encode())
    assert failed.what == f"answered HTTP 400 (Bad Request: {refusal.message})"
    assert "X: m" in deepgram().refused(400, {}, b'{"error_code":"X","err_msg":"m"}').what


@pytest.mark.parametrize(
    ("code", "reason", "what", "again"),
    [
        (1000, "", "closed the connection", True),
        (1001, "", "going away", True),
        (1003, "MESSAGE-0000", "this kind of message", False),
        (1005, "", "closed the connection", True),
        (1006, "", "broke", True),
        (1008, "DATA-0000", "did not understand", False),
        (1008, "DATA-0001", "more characters in a minute", True),
        (1008, "policy", "refused a message", False),
        (1009, "BIG-0000", "larger", False),
        (1009, "BIG-0001", "longer", False),
        (1009, "", "larger", False),
        (1011, "NET-0000", "internal error", True),
        (1011, "NET-0001", "no message from us in time", True),
        (1011, "NET-0001: idle", "no message from us in time", True),
        (1011, "NET-0002", "could not send", True),
        (1011, "NET-0003", "age", True),
        (1011, "", "internal error", True),
        (4000, "own", "closed the connection", True),
    ],
)
def test_close_codes(code: int, reason: str, what: str, again: bool) -> None:
    failed = deepgram().closed(code, reason)
    assert (failed.scope, failed.code, failed.reason) == (Scope.LINK, code, reason)
    assert what in failed.what
    assert f"{code} {reason}".strip() in failed.what
    assert (failed.retry_s is not None) is again


def test_its_limits_are_those_that_the_server_enforces() -> None:
    limits, enforced = deepgram().limits, server.DEEPGRAM_LIMITS
    assert limits.chars_per_speak == server.MAX_SPEAK_CHARS
    assert (limits.chars_per_window, limits.flushes_per_window) == (enforced.chars, enforced.flushes)
    assert (limits.window_s, limits.life_s) == (enforced.window_s, enforced.session_s)
