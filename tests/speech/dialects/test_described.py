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

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.service import connect
from llm2ws.settings.fields import Secret
from llm2ws.settings.loading import load
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import SAMPLE_RATES_HZ, Deepgram
from llm2ws.speech.dialects.described import described
from llm2ws.speech.messages import (
    Begin,
    Cancel,
    Close,
    Command,
    End,
    Flush,
    KeepAlive,
    Speak,
)
from llm2ws.testing import Coding, decode, script, tokens
from tests import support
from tests.speech.dialects.descriptions import SIMPLE, changed, dialect
from tests.support import ROOT
from tests.vendors.simple import SimpleServer
from tests.whole import FORMAT, heard

EXAMPLE = ROOT / "config" / "speech.toml"
CODING = Coding(char_samples=24, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)
COMMANDS: list[Command] = [Begin(1), Speak(1, "Hé. "), Flush(1), End(1), Cancel(1, 100), KeepAlive(), Close()]


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
