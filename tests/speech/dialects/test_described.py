from __future__ import annotations

import asyncio
import json
import tomllib
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.service import connect
from llm2ws.settings.fields import Secret
from llm2ws.settings.loading import load
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import SAMPLE_RATES_HZ, Deepgram
from llm2ws.speech.dialects.described import Described, described
from llm2ws.speech.messages import (
    Audio,
    Begin,
    Cancel,
    Cancelled,
    Close,
    Command,
    End,
    Failed,
    Flush,
    FlushAcked,
    KeepAlive,
    Speak,
    Unknown,
)
from llm2ws.testing import Coding, decode, script, tokens
from tests import support
from tests.speech.strange import JSON
from tests.support import ROOT
from tests.vendors.simple import SimpleServer
from tests.whole import FORMAT, heard

EXAMPLE = ROOT / "config" / "speech.toml"
SIMPLE = ROOT / "tests" / "vendors" / "simple.toml"
CODING = Coding(char_samples=24, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)
COMMANDS: list[Command] = [Begin(1), Speak(1, "Hé. "), Flush(1), End(1), Cancel(1, 100), KeepAlive(), Close()]


def dialect(path: Path, **setup: object) -> Described:
    given_ = {"url": "", "voice": "", "format": AudioFormat(), **setup}
    return described(tomllib.loads(path.read_text()), "x.toml")(Setup(**given_))  # type: ignore[arg-type]


# --- the example, which describes an endpoint that there is code for


@pytest.mark.parametrize(
    "setup",
    [
        {"key": "k"},
        {"voice": "aura-2-zeus-en", "format": AudioFormat(Encoding.MULAW, 8_000), "speed": 1.1},
        {"url": "ws://127.0.0.1:9/v1/speak?tag=x", "key": "k"},
    ],
)
def test_the_example_says_what_the_code_for_it_says(setup: dict[str, Any]) -> None:
    ours, code = dialect(EXAMPLE, **setup), Deepgram(Setup(**{"url": "", "voice": "", "format": AudioFormat(), **setup}))
    url, expected = urlsplit(ours.request().url), urlsplit(code.request().url)
    assert url[:3] == expected[:3]
    assert dict(parse_qsl(url.query)) == dict(parse_qsl(expected.query))
    assert ours.request().headers == code.request().headers
    assert (ours.limits, ours.traits, ours.policy, ours.format) == (code.limits, code.traits, code.policy, code.format)
    for command in COMMANDS:
        assert [*map(json.loads, ours.encode(command))] == [*map(json.loads, code.encode(command))], command
    for message in (b"\0\1", '{"type": "Flushed"}', '{"type": "Cleared"}', "no JSON"):
        assert [*map(type, ours.decode(message))] == [*map(type, code.decode(message))], message
    for encoding, rates in SAMPLE_RATES_HZ.items():
        for rate in rates:
            if encoding is Encoding.LINEAR16 or rate == 8_000:
                dialect(EXAMPLE, format=AudioFormat(encoding, rate)).request()


def test_what_is_commented_out_in_the_example_is_understood() -> None:
    text = EXAMPLE.read_text().replace("\nflush = ", "\n# flush = ")
    for line in ("model", "keepalive_s", "begin", "end", "keepalive", "path", "when"):
        assert text.count(f"\n# {line} = ") == 1
        text = text.replace(f"\n# {line} = ", f"\n{line} = ")
    traits = described(tomllib.loads(text), "x.toml")(Setup("", "", AudioFormat())).traits
    assert (traits.audio_waits_for_flush, traits.keepalive_s) == (False, 15.0)


# --- another one


def test_each_slot_has_its_message() -> None:
    simple = dialect(SIMPLE)
    said = {type(command).__name__: [*map(json.loads, simple.encode(command))] for command in COMMANDS}
    assert said == {
        "Begin": [],
        "Speak": [{"type": "text.delta", "delta": "Hé. "}],
        "Flush": [],
        "End": [{"type": "text.done"}],
        "Cancel": [{"type": "text.clear"}],
        "KeepAlive": [{"type": "ping"}],
        "Close": [],
    }
    assert simple.encode(Speak(1, "{voice}")) == ['{"type":"text.delta","delta":"{voice}"}']


def test_what_comes_is_known_by_the_values_at_its_paths() -> None:
    table = tomllib.loads(SIMPLE.read_text())
    table["receive"]["done"] = {"result": {"parts.0.last": True}}
    table["audio"] = table["audio"] | {"path": "result.parts.0.audio", "when": {}}
    nested = described(table, "x.toml")(Setup("", "", AudioFormat()))
    part = {"audio": "AAEC", "last": True}
    assert nested.decode(json.dumps({"result": {"parts": [part]}})) == [Audio(b"\0\1\2"), FlushAcked()]
    assert nested.decode(json.dumps({"result": {"parts": [part | {"last": False}]}})) == [Audio(b"\0\1\2")]
    assert nested.decode('{"type": "audio.clear"}') == [Cancelled()]
    assert nested.decode('{"result": {"parts": [{"audio": "?"}]}}') == [Unknown("")]
    assert nested.decode('{"result": {"parts": []}, "type": "other"}') == [Unknown("other")]
    assert nested.decode(b"\0\1") == [Unknown("a binary frame")]


def test_its_failures_are_one_line_without_the_key(canary: Callable[[], str]) -> None:
    key = canary()
    simple = dialect(SIMPLE, key=key)
    body = json.dumps({"error": {"message": f"No.\n{key}"}})
    [failed] = simple.decode(json.dumps({"type": "error", **json.loads(body)}))
    assert isinstance(failed, Failed)
    assert (failed.what, failed.retry_s) == ("the endpoint failed (No. ***)", 0.0)
    refused = simple.refused(401, {}, body.encode())
    assert (refused.what, refused.retry_s) == ("answered HTTP 401 (No. ***)", None)
    assert simple.refused(503, {}, b"no JSON").what == "answered HTTP 503"
    assert "***" in simple.closed(1008, key).what
    assert key not in repr(simple) + repr(simple.request())


def test_without_a_key_there_is_no_header_for_it() -> None:
    assert dialect(SIMPLE).request().headers == {"X-Client": "llm2ws"}
    assert dialect(SIMPLE, key="k").request().headers == {"X-Client": "llm2ws", "Authorization": "Bearer k"}


def test_a_key_that_goes_nowhere_is_no_key() -> None:
    made = described(changed("headers", {}), "x.toml")
    made(Setup("", "", AudioFormat())).request()
    with pytest.raises(ConfigError, match=r"x\.toml takes no key"):
        made(Setup("", "", AudioFormat(), "k")).request()


def test_equal_setups_share_connections() -> None:
    made = described(tomllib.loads(SIMPLE.read_text()), "x.toml")
    one, same, other = (made(Setup("", voice, AudioFormat())) for voice in ("a", "a", "b"))
    assert (one == same, hash(one) == hash(same), one == other) == (True, True, False)
    assert one != dialect(EXAMPLE, voice="a")


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ({"model": "fast"}, 'x.toml takes no model: leave it out, or write "{model}" where it goes'),
        ({"speed": 1.5}, "x.toml takes no speed"),
        (
            {"format": AudioFormat(sample_rate_hz=16_000)},
            "x.toml has no linear16 16000 Hz: for linear16 give one of 8000, 24000",
        ),
        ({"format": AudioFormat(Encoding.ALAW, 8_000)}, "x.toml has no alaw 8000 Hz"),
        ({"url": "http://x"}, "speech URL: not a WebSocket address"),
        ({"url": "ws://192.0.2.1", "key": "k"}, "a key would be sent in clear text"),
    ],
)
def test_what_it_does_not_have_cannot_be_asked_for(setup: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dialect(SIMPLE, **setup).request()
    assert message in str(caught.value)


# --- mistakes in a file


def changed(path: str, value: object) -> dict[str, object]:
    """The simple one with something else at a path, None for nothing."""
    table = inner = tomllib.loads(SIMPLE.read_text())
    *sections, key = path.split(".")
    for section in sections:
        inner = inner.setdefault(section, {})
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return table


PLACES = "{encoding}, {language}, {model}, {sample_rate}, {speed}, {voice}"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("adress", "x", "x.toml: Object contains unknown field adress: config/speech.toml shows all there is"),
        ("url", None, "x.toml: Object missing required field url"),
        ("ping_s", 0, "x.toml: ping_s: Expected"),
        ("policy", "never", "x.toml: policy: Invalid enum value 'never'"),
        ("audio.rate", 1, "x.toml: audio: Object contains unknown field rate"),
        ("audio.encodings", {"mp3": "mp3"}, "x.toml: key in $.audio.encodings: Invalid enum value 'mp3'"),
        ("audio.rates_hz", [], "x.toml: audio.rates_hz: Expected"),
        ("send.speek", {}, "x.toml: send: Object contains unknown field speek"),
        ("send.speak", "text", "x.toml: send.speak: Expected object, got str"),
        ("send.speak", {"type": "text"}, 'x.toml: send.speak: say where "{text}" goes'),
        (
            "send.speak",
            {"a": "{text}", "b": "{txt}"},
            f"x.toml: send.speak: {{txt}} stands for nothing: write one of {PLACES}, {{text}}",
        ),
        ("send.speak", {"a": "Say {text}"}, "x.toml: send.speak: Say {text} stands for nothing"),
        ("send.end", {"a": "{text}"}, f"x.toml: send.end: {{text}} stands for nothing: write one of {PLACES}"),
        ("query.token", "{key}", "x.toml: query: {key} stands for nothing"),  # it would be seen in logs
        ("headers.Auth", "Token {kee}", "x.toml: headers.Auth: {kee} stands for nothing: only {key} goes into a header"),
        ("headers.Auth", "{key} {voice}", "x.toml: headers.Auth: {voice} stands for nothing"),
        ("query.sample_rate", None, 'x.toml: audio.rates_hz: there are several, so say where "{sample_rate}" goes'),
        ("audio.encodings.mulaw", "mu", 'x.toml: audio.encodings: there are several, so say where "{encoding}" goes'),
        ("send.flush", {"a": 1}, "x.toml: send: needs flush, or end if there is no flush"),
        ("send.end", None, "x.toml: send: needs flush, or end"),
        ("receive.cancelled", None, "x.toml: send.cancel: needs receive.cancelled"),
        ("receive.done", None, "x.toml: receive: Object missing required field done"),
        ("receive.done", {}, "x.toml: receive.done: say by what it is known"),
        ("receive.doen", {}, "x.toml: receive: Object contains unknown field doen"),
        ("keepalive_s", None, "x.toml: send.keepalive: needs keepalive_s"),
        ("limits.chars", 1, "x.toml: limits.chars: is not known: give one of chars_per_speak, "),
        ("limits.chars_per_speak", 0, "x.toml: limits: Expected"),
        ("limits.chars_per_speak", 1.5, "x.toml: chars_per_speak: Expected"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_place(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        described(changed(path, value), "x.toml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


KINDS = st.sampled_from(["audio.delta", "audio.done", "audio.clear", "error"]) | JSON


@given(
    st.text()
    | st.binary()
    | st.builds(lambda kind, delta: json.dumps({"type": kind, "delta": delta, "error": delta}), KINDS, JSON)
)
def test_no_message_breaks_the_reader(message: str | bytes) -> None:
    dialect(SIMPLE).decode(message)
    dialect(SIMPLE).refused(500, {}, message.encode("utf-8", "replace") if isinstance(message, str) else message)


# --- as a person meets it


TEXT = "The sky is blue, my friend. It costs $3.50."


async def test_the_command_speaks_through_it_and_checks_it(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    (tmp_path / "simple.toml").write_text(SIMPLE.read_text())
    async with SimpleServer(coding=CODING, key=key) as server:
        settings = (
            f"[speech.mine]\ndialect = 'simple.toml'\nurl = '{server.url}'\nsample_rate_hz = 8000\napi_key_file = 'key'\n"
        )
        (tmp_path / "s.toml").write_text(settings)
        (tmp_path / "key").write_text(key)
        arguments: list[str | Path] = ["say", TEXT, "--config", "s.toml", "--speech", "mine", "-o", "said.wav"]
        done = await asyncio.to_thread(support.run, arguments, cwd=tmp_path)
        assert done.code == 0, done.stderr
        with wave.open(str(tmp_path / "said.wav")) as said:
            assert decode(said.readframes(said.getnframes())) == TEXT
        checked = await asyncio.to_thread(support.run, ["check", "--config", "s.toml", "--json"], cwd=tmp_path)
        states = {(one["kind"], one["name"]): one["state"] for one in json.loads(checked.stdout)["checks"]}
        assert states["speech", "mine"] == "ok"
        with (tmp_path / "simple.toml").open("a") as file:
            file.write("life = 3\n")
        broken = await asyncio.to_thread(support.run, arguments, cwd=tmp_path)
        assert broken.code == 2
        assert "simple.toml: limits.life: is not known" in broken.stderr.splitlines()[-1]


async def test_connect_takes_the_file_itself(tmp_path: Path) -> None:
    async with SimpleServer(coding=CODING) as server:
        here = tmp_path / "here.toml"
        here.write_text(SIMPLE.read_text().replace("wss://speech.invalid/v1/tts", server.url))
        async with connect(str(here), format=FORMAT) as speech:
            assert await heard(speech.turn(script(*tokens(TEXT)))) == TEXT
        async with connect(server.url, dialect=str(SIMPLE), format=FORMAT) as speech:
            assert await heard(speech.turn(script(*tokens(TEXT)))) == TEXT
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file or directory: name one that can be read"):
        async with connect("nowhere.toml"):
            pass


def test_a_file_that_somebodys_folder_names_is_not_given_your_key(tmp_path: Path, canary: Callable[[], str]) -> None:
    """It holds an address: what goes for url goes for it."""
    environ = {"LLM2WS_SPEECH__MINE__API_KEY": canary()}
    for value, kept in (("theirs.toml", False), ("deepgram", True)):
        (tmp_path / ".env").write_text(f"LLM2WS_SPEECH__MINE__DIALECT={value}\n")
        loaded = load(environ=environ, folder=str(tmp_path))
        assert (loaded.settings.speech["mine"].api_key != Secret()) is kept
        assert len(loaded.notes) == (not kept)
