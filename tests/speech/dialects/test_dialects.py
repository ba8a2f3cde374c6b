"""A new vendor is its file and a row: here is such a file, and with its row the settings and `connect` know the vendor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from llm2ws import connect
from llm2ws.audio import AudioFormat
from llm2ws.errors import ConfigError
from llm2ws.service import Service
from llm2ws.settings.loading import load
from llm2ws.settings.speech import choose_speech
from llm2ws.speech.dialect import Dialect, Limits, Request, Setup, Traits, checked_url
from llm2ws.speech.dialects import DIALECTS, VendorDialect
from llm2ws.speech.messages import (
    AudioChunk,
    Cancel,
    Cancelled,
    Command,
    End,
    Event,
    Failed,
    Flush,
    FlushAcked,
    Scope,
    Speak,
    Unknown,
)
from llm2ws.testing import Coding, FaultySpeech, script, tokens
from llm2ws.text.fragments import Policy
from tests.whole import FORMAT, heard

CODING = Coding(char_samples=24, word_pause_s=0.004, sentence_pause_s=0.004, lead_in_s=0.0)
TEXT = "The sky is blue, my friend. It costs $3.50."


@dataclass(frozen=True, slots=True)
class Toy:
    """The dialect of a vendor whose protocol happens to be that of `FaultySpeech`."""

    setup: Setup
    name = "toy-tts"
    policy = Policy.SENTENCE
    limits = Limits()
    traits = Traits()

    @property
    def format(self) -> AudioFormat:
        return self.setup.format

    def request(self) -> Request:
        url = checked_url(self.setup.url or "wss://toy.invalid/v1/speak", key=self.setup.key, path="/v1/speak")
        query = f"model={self.setup.voice or 'toy-ada'}&encoding=linear16&sample_rate={self.format.sample_rate_hz}"
        return Request(f"{url}?{query}", {"Authorization": f"Token {self.setup.key}"} if self.setup.key else {})

    def encode(self, command: Command) -> list[str | bytes]:
        match command:
            case Speak(text=text):
                return [json.dumps({"type": "Speak", "text": text})]
            case Flush() | End():
                return [json.dumps({"type": "Flush"})]
            case Cancel():
                return [json.dumps({"type": "Clear"})]
            case _:
                return []

    def decode(self, message: str | bytes) -> list[Event]:
        if isinstance(message, bytes):
            return [AudioChunk(message)]
        kind = json.loads(message)["type"]
        known: dict[str, Event] = {"Flushed": FlushAcked(), "Cleared": Cancelled()}
        return [known.get(kind, Unknown(kind))]

    def refused(self, status: int, headers: Any, body: bytes) -> Failed:
        return Failed(Scope.LINK, "refused", status=status)

    def closed(self, code: int, reason: str) -> Failed:
        return Failed(Scope.LINK, "closed", retry_s=0.0, code=code)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    made: Callable[[Setup], Dialect] = Toy
    monkeypatch.setitem(DIALECTS, "toy-tts", VendorDialect(made, "toy-tts", "TOY_API_KEY", {"alloy": "toy-bob"}))
    return "toy-tts"


async def test_its_key_and_its_settings_come_from_the_environment(toy: str, canary: Callable[[], str]) -> None:
    key = canary()
    async with FaultySpeech(coding=CODING, key=key) as server:
        environ = {
            "TOY_API_KEY": key,
            "LLM2WS_SPEECH__TOY_TTS__URL": server.url,
            "LLM2WS_SPEECH__TOY_TTS__SAMPLE_RATE_HZ": "8000",
        }
        settings = load(environ=environ).settings
        name, entry = choose_speech(settings)
        assert (name, entry.dialect) == (toy, toy)
        assert choose_speech(load(environ={"TOY_API_KEY": key}).settings)[0] == toy  # the first vendor whose key is set
        async with Service(settings, llms=[]) as service:
            conversation = service.conversation(voice="alloy")
            assert await heard(conversation.turn(script(*tokens(TEXT)))) == TEXT
            assert service.speech == [toy]
        assert server.handshakes == 1


async def test_connect_and_the_errors_know_it(toy: str) -> None:
    async with FaultySpeech(coding=CODING) as server:
        async with connect(server.url, dialect=toy, format=FORMAT) as speech:
            assert await heard(speech.turn(script(*tokens(TEXT)))) == TEXT
    with pytest.raises(ConfigError, match="no key for toy-tts: set TOY_API_KEY"):
        async with connect(toy):
            pass
    with pytest.raises(ConfigError, match=r"give one of deepgram, .*, toy-tts, local"):
        choose_speech(load(environ={}).settings, "nobody")
