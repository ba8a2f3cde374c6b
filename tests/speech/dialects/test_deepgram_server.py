from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.speech.dialects import deepgram_server as deepgram
from llm2ws.speech.dialects.deepgram_server import (
    ClearIn,
    CloseIn,
    FlushIn,
    Meter,
    Refusal,
    ServerLimits,
    SpeakIn,
    SpeakRequest,
    Violation,
    chosen_subprotocol,
    credential,
    decode,
    parse_query,
)

ALLOWED = [(Encoding.LINEAR16, rate) for rate in (8000, 16000, 24000, 32000, 48000)] + [
    (encoding, rate) for encoding in (Encoding.MULAW, Encoding.ALAW) for rate in (8000, 16000)
]


def test_an_empty_query_means_the_documented_defaults() -> None:
    assert parse_query("") == SpeakRequest("aura-asteria-en", AudioFormat(Encoding.LINEAR16, 24000), 1.0)


@pytest.mark.parametrize(("encoding", "rate"), ALLOWED)
def test_every_documented_format_is_taken(encoding: Encoding, rate: int) -> None:
    wanted = parse_query(f"model=aura-2-thalia-en&encoding={encoding}&sample_rate={rate}")
    assert wanted == SpeakRequest("aura-2-thalia-en", AudioFormat(encoding, rate))


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711_without_a_rate_is_telephone_audio(encoding: str) -> None:
    wanted = parse_query(f"encoding={encoding}")
    assert isinstance(wanted, SpeakRequest)
    assert wanted.format.sample_rate_hz == 8000


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sample_rate=44100", "Unsupported audio format: sample_rate"),
        ("sample_rate=24000.0", "Unsupported audio format: sample_rate"),
        ("sample_rate=", "Unsupported audio format: sample_rate"),
        ("encoding=mulaw&sample_rate=24000", "Unsupported audio format: sample_rate of mulaw"),
        ("encoding=mp3", "Unsupported audio format: encoding"),
        ("container=wav", "Unsupported audio format: container"),
        ("speed=2", "Failed to deserialize query parameters: speed"),
        ("speed=0.6", "Failed to deserialize query parameters: speed"),
        ("speed=nan", "Failed to deserialize query parameters: speed"),
        ("speed=fast", "Failed to deserialize query parameters: speed"),
        ("model=a&model=b", "Failed to deserialize query parameters: duplicate field `model`"),
    ],
)
def test_what_cannot_be_served_is_refused_as_deepgram_does(query: str, named: str) -> None:
    refusal = parse_query(query)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (400, "INVALID_QUERY_PARAMETER")
    assert refusal.message.startswith(named)


def test_parameters_without_meaning_here_are_ignored() -> None:
    assert parse_query("mip_opt_out=true&tag=a&tag=b&container=none&later=1") == parse_query("")


@given(st.text(max_size=200))
def test_no_query_breaks_the_parser_and_a_refusal_fits_a_header(query: str) -> None:
    outcome = parse_query(query)
    if isinstance(outcome, Refusal):
        headers = outcome.headers("some-id")
        assert headers["dg-request-id"] == "some-id"
        assert all(value.isascii() and value.isprintable() for value in headers.values())
        body = json.loads(outcome.body("some-id"))
        assert body == {"err_code": outcome.code, "err_msg": headers["dg-error"], "request_id": "some-id"}


@pytest.mark.parametrize(
    ("authorization", "subprotocols", "key"),
    [
        ("Token abc", [], "abc"),
        ("token abc", [], "abc"),
        ("Bearer a.b.c", [], "a.b.c"),
        ("bearer  abc ", [], "abc"),
        (None, ["token", "abc"], "abc"),
        (None, ["bearer", "a.b.c"], "a.b.c"),
        ("Token abc", ["token", "other"], "abc"),
        (None, [], None),
        ("", [], None),
        ("abc", [], None),
        ("Token", [], None),
        ("Basic abc", [], None),
        (None, ["token"], None),
        (None, ["abc", "token"], None),
        (None, ["token", "abc", "more"], None),
    ],
)
def test_the_key_is_found_in_header_or_subprotocols(
    authorization: str | None, subprotocols: list[str], key: str | None
) -> None:
    assert credential(authorization, subprotocols) == key


def test_the_key_is_never_echoed_as_the_subprotocol() -> None:
    assert chosen_subprotocol(["token", "abc"]) == "token"
    assert chosen_subprotocol(["abc", "token"]) is None
    assert chosen_subprotocol([]) is None


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        ('{"type":"Speak","text":"Hi "}', SpeakIn("Hi ")),
        ('{"type":"Speak","text":"","voice":"x","n":[{}]}', SpeakIn("")),
        ('{"type":"Flush"}', FlushIn()),
        ('{"type":"Clear"}', ClearIn()),
        ('{"type":"Close"}', CloseIn()),
        ('{"text":"é\\u00e9","type":"Speak"}', SpeakIn("éé")),
    ],
)
def test_the_four_messages(message: str, meaning: object) -> None:
    assert decode(message) == meaning


@pytest.mark.parametrize(
    "message",
    [
        "",
        "hello",
        "null",
        "[]",
        "{}",
        '{"type":"Speak"}',
        '{"type":"Speak","text":null}',
        '{"type":"Speak","text":1}',
        '{"type":"speak","text":"a"}',
        '{"type":"KeepAlive"}',
        '{"type":["Flush"]}',
        '{"type":"Flush"} x',
        "[" * 100_000,
        '{"type":"Speak","text":"\\ud800"}',
        '{"type":"Flush","x":"\ud800"}',
    ],
)
def test_anything_else_is_no_command(message: str) -> None:
    assert decode(message) == Violation(1008, "DATA-0000")


def test_binary_and_large_messages() -> None:
    assert decode(b'{"type":"Flush"}') == Violation(1003, "MESSAGE-0000")
    assert decode(" " * 2_000_000 + "x") == Violation(1009, "BIG-0000")


def test_a_speak_holds_two_thousand_characters_whatever_their_size() -> None:
    assert decode(json.dumps({"type": "Speak", "text": "😀" * 2000})) == SpeakIn("😀" * 2000)
    assert decode(json.dumps({"type": "Speak", "text": "a" * 2001})) == Violation(1009, "BIG-0001")


@given(st.text() | st.binary())
def test_no_message_breaks_the_decoder(message: str | bytes) -> None:
    assert isinstance(decode(message), SpeakIn | FlushIn | ClearIn | CloseIn | Violation)


def test_messages_of_the_server() -> None:
    assert json.loads(deepgram.flushed(3)) == {"type": "Flushed", "sequence_id": 3}
    assert json.loads(deepgram.cleared(0)) == {"type": "Cleared", "sequence_id": 0}
    assert json.loads(deepgram.metadata(request_id="r", model="m", version="v", model_uuid="u")) == {
        "type": "Metadata",
        "request_id": "r",
        "model_name": "m",
        "model_version": "v",
        "model_uuid": "u",
    }
    warned = json.loads(deepgram.EXCESSIVE_FLUSH)
    assert warned["type"] == "Warning"
    assert warned["code"] == warned["warn_code"] == "EXCESSIVE_FLUSH"
    assert warned["description"] == warned["warn_msg"]


def test_twenty_flushes_in_a_window_and_the_refused_one_is_not_counted() -> None:
    meter = Meter(deepgram.DEEPGRAM_LIMITS)
    assert all(meter.flush(now=float(second)) for second in range(20))
    assert not meter.flush(now=59.9)
    assert meter.flush(now=60.0)
    assert not meter.flush(now=60.5)
    assert meter.flush(now=61.0)


def test_characters_of_a_window() -> None:
    meter = Meter(ServerLimits(chars=100, window_s=2.0))
    assert meter.speak(60, now=0.0)
    assert meter.speak(40, now=1.0)
    assert not meter.speak(1, now=1.9)
    assert meter.speak(60, now=2.0)
    assert not meter.speak(1, now=2.0)


def test_without_limits_nothing_is_refused() -> None:
    meter = Meter(ServerLimits())
    assert all(meter.flush(now=0.0) and meter.speak(10**9, now=0.0) for _ in range(100))


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 30)), max_size=60), st.integers(1, 60))
def test_no_window_ever_holds_more_than_its_limit(steps: list[tuple[float, int]], limit: int) -> None:
    meter, now, taken = Meter(ServerLimits(chars=limit, window_s=5.0)), 0.0, list[tuple[float, int]]()
    for wait_s, n in steps:
        now += wait_s
        held = sum(m for at, m in taken if at > now - 5.0)
        assert meter.speak(n, now=now) == (held + n <= limit)
        if held + n <= limit:
            taken.append((now, n))
