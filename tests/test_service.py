"""Which endpoint is meant, with which key; and that what is put together speaks."""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.errors import ConfigError, ConnectFailed
from llm2ws.service import Service, connect, open_speech
from llm2ws.settings.fields import Server, Settings, Speech
from llm2ws.settings.llms import choose_llm
from llm2ws.settings.speech import LOCAL, choose_speech
from llm2ws.settings.text import TextOptions
from llm2ws.speech.dialect import Limits
from llm2ws.testing import Coding, FaultySpeech, decode, script, tokens
from llm2ws.text.fragments import Policy
from llm2ws.turn import Conversation, Notice
from tests.support import ROOT

FORMAT = AudioFormat(sample_rate_hz=8_000)
CODING = Coding(char_samples=80, lead_in_s=0.0)


async def spoken(conversation: Conversation, text: str) -> str:
    async with conversation.turn(script(*tokens(text))) as turn:
        return decode(b"".join([chunk async for chunk in turn.audio()]))


async def test_a_url_of_ones_own_with_a_key_that_is_named(canary: Callable[[], str]) -> None:
    key = canary()
    async with FaultySpeech(coding=CODING, key=key) as speech:
        async with connect(speech.url, format=FORMAT, api_key=key) as conversation:
            assert conversation.format == FORMAT
            assert await spoken(conversation, "Hello there. How are you?") == "Hello there. How are you?"
            assert speech.connections == 1


async def test_a_key_that_came_with_the_end_of_its_line(canary: Callable[[], str]) -> None:
    key = canary()
    async with FaultySpeech(coding=CODING, key=key) as speech:
        async with connect(speech.url, format=FORMAT, api_key=f" {key}\r\n") as conversation:
            assert await spoken(conversation, "Hello.") == "Hello."
        with pytest.raises(ConfigError, match=r"the key for .* holds a character that no key has: set it again") as caught:
            async with connect(speech.url, api_key=f"{key}\r\nX-Other: {key}"):
                pass
        assert key not in str(caught.value)
        assert speech.handshakes == 1


async def test_a_vendors_key_is_not_sent_to_a_url_of_ones_own(
    canary: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = canary()
    monkeypatch.setenv("DEEPGRAM_API_KEY", key)
    async with FaultySpeech(key=key) as speech, connect(speech.url, format=FORMAT) as conversation:
        with pytest.raises(ConnectFailed, match="401"):
            await spoken(conversation, "Hello.")


async def test_nothing_is_opened_before_the_first_turn() -> None:
    async with FaultySpeech() as speech, connect(speech.url):
        assert speech.handshakes == 0


async def test_policy_and_limits_are_the_callers() -> None:
    async with FaultySpeech(coding=CODING) as speech:
        async with connect(speech.url, format=FORMAT, policy=Policy.WORD, limits=Limits(chars_per_speak=6)) as conversation:
            assert await spoken(conversation, "unbelievably good news") == "unbelievably good news"
        assert max(map(len, speech.texts())) <= 6


async def test_an_error_in_the_body_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with FaultySpeech(coding=CODING) as speech, connect(speech.url, format=FORMAT) as conversation:
            await spoken(conversation, "Hello.")
            raise KeyError("mine")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"endpoint": "deepgramm"}, "'deepgramm' is not known"),
        ({"endpoint": "deepgram"}, "no key for deepgram"),
        ({"endpoint": "http://x.example"}, "WebSocket address"),
        ({"endpoint": "ws://x.example", "api_key": "k"}, "clear text"),
        ({"endpoint": "wss://x.example", "ca_file": "/nowhere/ca.pem"}, "ca.pem"),
        ({"endpoint": 7}, r"connect\(\): url: expected str, got int"),
        ({"voice": 7}, r"connect\(\): voice: expected str, got int"),
        ({"speed": "fast"}, r"connect\(\): speed: expected float, got str"),
        ({"speed": math.nan}, r"connect\(\): speed: expected float > 0"),
        ({"silence_s": 0}, r"connect\(\): silence_s: expected float > 0"),
        ({"format": "linear16"}, r"connect\(\): format: a str is no AudioFormat: give an llm2ws\.AudioFormat"),
        ({"policy": "sentence"}, r"connect\(\): policy: a str is no Policy: give an llm2ws\.Policy"),
        ({"model": 7}, r"connect\(\): model: expected str, got int"),
        ({"language": None}, r"connect\(\): language: expected str, got null"),
        ({"failover": "elevenlabs"}, r"connect\(\): failover: expected array, got str"),
        ({"failover": ["elevenlab"], "api_key": "k"}, r"connect\(\): failover: speech endpoint 'elevenlab' is not known"),
        ({"text": "fast"}, r"connect\(\): text: a str is no dict: give a dict"),
        ({"text": {"max_char": 30}}, r"connect\(\): text: max_char: no such setting: did you mean text\.max_chars\?"),
        ({"text": {"max_chars": "30"}}, r"connect\(\): text: max_chars: expected int, got str"),
        ({"text": {"replace": {"nginx": 3}}}, r"connect\(\): text: nginx: expected str, got int"),
        ({"text": {"keep": ["emojis"]}}, r"connect\(\): text: keep: invalid enum value: give one of code, emoji"),
        ({"pace": "none"}, r"connect\(\): pace: a str is no Pace: give an llm2ws\.Pace"),
        ({"limits": 7}, r"connect\(\): limits: a int is no Limits: give an llm2ws\.Limits"),
        ({"endpoint": "wss://x.example", "format": AudioFormat(Encoding.MULAW, 24_000)}, "8000, 16000"),
        ({"endpoint": "wss://x.example", "format": AudioFormat(Encoding.LINEAR16, 44_100)}, "24000"),
    ],
)
async def test_what_cannot_be_asked_for_is_named(arguments: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        async with connect(**arguments) as conversation:  # type: ignore[arg-type]
            await spoken(conversation, "Hello.")
    assert caught.value.hint


async def test_connect_asks_for_model_and_language(monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]) -> None:
    key = canary()
    async with connect("elevenlabs", model="eleven_v9", language="de", api_key=key) as conversation:
        [endpoint] = conversation._options.endpoints
    query = parse_qs(urlsplit(endpoint.dialect.request().url).query)
    assert (query["model_id"], query["language_code"]) == (["eleven_v9"], ["de"])


async def test_connect_fails_over_to_the_endpoints_that_it_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that a file describes stands in, with the format that was asked for."""
    async with FaultySpeech(coding=CODING) as first, FaultySpeech(coding=CODING) as second:
        description = (ROOT / "config" / "speech.toml").read_text()
        file = tmp_path / "other.toml"
        file.write_text(re.sub(r"^url = .*$", f'url = "{second.url}"', description, flags=re.MULTILINE))
        first.refusals.append(402)
        async with connect(first.url, format=FORMAT, failover=[str(file)]) as conversation:
            assert await spoken(conversation, "Hello there.") == "Hello there."
        assert (first.connections, second.connections) == (0, 1)


async def test_connect_makes_text_fit_as_it_is_told() -> None:
    text = TextOptions(keep=["emphasis"], replace={"nginx": "engine x"}, code_phrase="Code.", max_chars=40)
    async with FaultySpeech(coding=CODING) as speech, connect(speech.url, format=FORMAT, text=text) as conversation:
        assert await spoken(conversation, "*nginx* runs.\n\n```\nx = 1\n```\n") == "*engine x* runs. Code."


async def test_authorities_are_read_when_it_is_entered_and_not_with_each_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, file = trustme.CA(), tmp_path / "ca.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with FaultySpeech(coding=CODING, tls=context) as speech, connect(speech.url, format=FORMAT) as conversation:
        file.unlink()
        assert await spoken(conversation, "Hello there.") == "Hello there."


async def test_another_endpoint_takes_over() -> None:
    async with FaultySpeech(coding=CODING) as first, FaultySpeech(coding=CODING) as second:
        first.refusals.append(402)
        entries = {
            "first": Speech(url=first.url, sample_rate_hz=8_000, failover=("second",)),
            "second": Speech(url=second.url, sample_rate_hz=16_000),  # the first one's format holds for both
        }
        name, entry = choose_speech(Settings(speech=entries))
        assert name == "first"
        async with open_speech(Settings(speech=entries), name, entry) as conversation:
            async with conversation.turn(script("Hello there. ")) as turn:
                events = [event async for event in turn.events()]
        assert not [event for event in events if isinstance(event, Notice)]  # nothing had been said before
        assert second.texts() == ["Hello there. "]


async def test_replicas_share_what_an_endpoint_allows() -> None:
    async with FaultySpeech(coding=CODING) as speech:
        entry = Speech(url=speech.url, sample_rate_hz=8_000, connections=5)
        settings = Settings(speech={"mine": entry}, server=Server(replicas=3))
        async with Service(settings, llms=[]) as service:
            async with asyncio.TaskGroup() as tasks:
                texts = [tasks.create_task(spoken(service.conversation(), "Hello there.")) for _ in range(4)]
            assert [text.result() for text in texts] == ["Hello there."] * 4
            assert speech.connections == 1


async def test_replicas_that_each_would_have_no_connection_are_no_settings() -> None:
    settings = Settings(speech={"mine": Speech(url="wss://x.example", connections=2)}, server=Server(replicas=3))
    with pytest.raises(ConfigError, match=r"mine\.connections: 2 cannot be shared by 3 replicas"):
        async with Service(settings, llms=[]):
            pass


async def test_those_that_take_over_may_name_others() -> None:
    entries = {name: Speech(dialect=LOCAL, failover=(other,)) for name, other in [("a", "b"), ("b", "c"), ("c", "a")]}
    async with Service(Settings(speech=entries), speech=["a"], llms=[]) as service:
        assert service.speech == ["a", "b", "c"]


async def test_a_key_may_be_in_a_file(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    (tmp_path / "key").write_text(key + "\n")
    async with FaultySpeech(coding=CODING, key=key) as speech:
        entry = Speech(url=speech.url, dialect="deepgram", sample_rate_hz=8_000, api_key_file=str(tmp_path / "key"))
        async with open_speech(Settings(), "mine", entry) as conversation:
            assert await spoken(conversation, "Hello.") == "Hello."


def test_which_llm_is_meant() -> None:
    assert choose_llm(Settings())[0] == "echo"
    with pytest.raises(ConfigError, match="'nobody' is not known"):
        choose_llm(Settings(), "nobody")
