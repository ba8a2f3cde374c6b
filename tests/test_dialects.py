"""Every dialect as a person meets it: the command, the check, `connect`, names of voices, one standing in for another."""

from __future__ import annotations

import asyncio
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm2ws import connect
from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.service import Service
from llm2ws.settings.fields import Secret, Settings, Speech
from llm2ws.settings.loading import load, vendor_variables
from llm2ws.settings.speech import choose_speech
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Coding, Drop, decode, script, tokens
from llm2ws.testing.endpoint import FaultyEndpoint
from llm2ws.turn import Conversation, Notice, NoticeKind, Outcome
from scripts.bench_seam import compare
from scripts.virtual_clock import run
from tests import support
from tests.vendors.rows import ROWS, Row
from tests.whole import FORMAT, audio_of, heard, listen

CODING = Coding(char_samples=24, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)
TEXT = "The sky is blue, my friend. It costs $3.50."
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."
every_dialect = pytest.mark.parametrize("row", ROWS, ids=[row.dialect for row in ROWS])


def environment(row: Row, server: FaultyEndpoint[Any], key: str) -> dict[str, str]:
    name = f"LLM2WS_SPEECH__{row.dialect.upper().replace('-', '_')}"
    return {f"{name}__URL": server.url, f"{name}__API_KEY": key, f"{name}__SAMPLE_RATE_HZ": "8000"}


@every_dialect
async def test_the_command_speaks_through_it(row: Row, tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with row.server(coding=CODING, key=key) as server:
        arguments: list[str | Path] = ["say", TEXT, "--speech", row.dialect, "-o", tmp_path / "said.wav"]
        done = await asyncio.to_thread(support.run, arguments, env=environment(row, server, key))
        assert done.code == 0, done.stderr
        assert row.dialect in done.stderr
        with wave.open(str(tmp_path / "said.wav")) as said:
            assert said.getframerate() == 8_000
            assert decode(said.readframes(said.getnframes())) == TEXT
        assert server.connections == 1


@every_dialect
async def test_the_check_reports_it(row: Row, canary: Callable[[], str]) -> None:
    key = canary()
    async with row.server(coding=CODING, key=key) as server:
        states = {}
        for given in (key, canary()):
            env = environment(row, server, given)
            done = await asyncio.to_thread(support.run, ["check", "--json"], env=env)
            checks = {(check["kind"], check["name"]): check for check in json.loads(done.stdout)["checks"]}
            states[given] = checks["speech", row.dialect]
            assert done.code == (0 if given == key else 4)
        good, bad = states.values()
        assert (good["state"], server.texts()) == ("ok", [])  # a connection, and nothing that costs
        assert bad["state"] == "failed"
        assert DIALECTS[row.dialect].key_variable in bad["hint"]


@every_dialect
async def test_connect_speaks_it_at_an_address_of_yours(row: Row) -> None:
    async with row.server(coding=CODING) as server:
        async with connect(server.url, dialect=row.dialect, format=FORMAT) as speech:
            assert await heard(speech.turn(script(*tokens(TEXT)))) == TEXT


async def test_a_dialect_that_there_is_not_is_told_with_those_there_are() -> None:
    known = "deepgram, deepgram-v2, elevenlabs, cartesia, local"
    with pytest.raises(ConfigError, match=f"dialect: 'other' is not known: give one of {known}"):
        async with connect("ws://127.0.0.1:1", dialect="other"):
            pass
    with pytest.raises(ConfigError, match=rf"speech\.mine\.dialect: 'other' is not known: give one of {known}"):
        choose_speech(Settings(speech={"mine": Speech(dialect="other")}), "mine")
    with pytest.raises(ConfigError, match="speech endpoint 'nobody' is not known"):
        choose_speech(Settings(), "nobody")


@every_dialect
async def test_its_key_is_its_vendors(row: Row, canary: Callable[[], str]) -> None:
    account = DIALECTS[row.dialect].account
    key = Secret(canary())
    settings = Settings(speech={account: Speech(api_key=key)})
    assert choose_speech(settings, row.dialect)[1].api_key == key
    [variable] = [name for name, path in vendor_variables().items() if path == ("speech", account, "api_key")]
    with pytest.raises(ConfigError, match=f"no key for {row.dialect}: set {variable}, or use the endpoint 'local'"):
        async with Service(Settings(), speech=[row.dialect], llms=[]):
            pass


def test_the_first_vendor_whose_key_is_set_speaks(canary: Callable[[], str]) -> None:
    keys = {f"{account.upper()}_API_KEY": canary() for account in ("cartesia", "elevenlabs", "deepgram")}
    for first in ("deepgram", "elevenlabs", "cartesia", "local"):
        assert choose_speech(load(environ=keys).settings)[0] == first
        keys.pop(f"{first.upper()}_API_KEY", None)


async def voice_asked_for(row: Row, entry: Speech, voice: str) -> str:
    settings = Settings(speech={row.dialect: entry})
    async with Service(settings, speech=[row.dialect], llms=[]) as service:
        [endpoint] = service.conversation(row.dialect, voice=voice)._options.endpoints
    setup: Setup = endpoint.dialect.setup  # type: ignore[attr-defined]
    return setup.voice


@every_dialect
async def test_openais_names_of_voices_stand_for_its_own(row: Row) -> None:
    """Clients that have no other choice are never sent on with a name that the vendor does not know."""
    own = DIALECTS[row.dialect].openai_voices
    assert set(own) <= set(DIALECTS["deepgram"].openai_voices)
    entry = Speech(url="ws://127.0.0.1:1", voice="mine")
    for name in DIALECTS["deepgram"].openai_voices:
        assert await voice_asked_for(row, entry, name) == own.get(name, "mine")
    assert await voice_asked_for(row, entry, "some-other") == "some-other"


@every_dialect
async def test_model_and_language_are_asked_for_where_the_vendor_has_a_choice(row: Row) -> None:
    entry = Speech(url="ws://127.0.0.1:1", model="the-model", language="de")
    async with Service(Settings(speech={row.dialect: entry}), speech=[row.dialect], llms=[]) as service:
        [endpoint] = service.conversation(row.dialect)._options.endpoints
    setup: Setup = endpoint.dialect.setup  # type: ignore[attr-defined]
    assert (setup.model, setup.language) == ("the-model", "de")


@every_dialect
def test_a_format_for_telephones_and_one_for_the_web_can_be_had(row: Row) -> None:
    for fmt in (AudioFormat(), AudioFormat(Encoding.MULAW, 8_000), AudioFormat(Encoding.ALAW, 8_000)):
        assert DIALECTS[row.dialect](Setup("", "", fmt, "k")).request().url.startswith("wss://")
    with pytest.raises(ConfigError, match="11025 Hz"):
        DIALECTS[row.dialect](Setup("", "", AudioFormat(sample_rate_hz=11_025))).request()


PAIRS = [(ROWS[0], row) for row in ROWS[1:]] + [(row, ROWS[0]) for row in ROWS[1:]]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[f"{one.dialect} to {other.dialect}" for one, other in PAIRS])
def test_in_mid_turn_another_dialect_goes_on(one: Row, other: Row) -> None:
    """The first one dies with a part of the turn heard; what was partly heard is said again from its start."""

    went_on = 0

    async def speak(at_frame: int) -> bool:
        nonlocal went_on
        slow = Coding(char_samples=480, lead_in_s=0.1)
        async with one.server(coding=slow, pace=3.0, max_frame_bytes=12_000) as first, other.server(coding=slow) as second:
            first.drops.append(Drop(at_frame=at_frame))
            ways = zip((one, other), (first, second), strict=True)
            endpoints = [Endpoint(DIALECTS[row.dialect](Setup(s.url, "", FORMAT)), row.dialect) for row, s in ways]
            async with Pool() as pool:
                killer = asyncio.create_task(refuse_from_then_on(first))
                turn = Conversation(pool, endpoints, pace=Pace.LISTENER).turn(script(*tokens(STORY)))
                events = await listen(turn)
                killer.cancel()
            if first.drops:
                return False
            said = decode(audio_of(events))
            assert compare(said, STORY)[0] == 0, (at_frame, said)
            if second.texts():
                went_on += 1
                assert len(said) - len(STORY) <= max(map(len, second.texts())), (at_frame, said)  # a fragment, from its start
                assert NoticeKind.FAILED_OVER in [event.kind for event in events if isinstance(event, Notice)]
            else:  # by the times of its words, all of it had been heard
                assert said == STORY
            assert {word for text in first.texts() for word in text.split()} <= set(STORY.split())  # no half words
            assert turn.outcome is Outcome.DONE
            assert turn.spoken.split(turn.stats.audio_s).heard == STORY
            return True

    tried = 0
    while run(speak(tried)):
        tried += 1
    assert tried > 8
    assert went_on > 5


async def refuse_from_then_on(server: FaultyEndpoint[Any]) -> None:
    await server.until(lambda s: not s.drops)
    server.refusals.extend([503] * 1_000)
