"""docs/faces.md names everything that the faces know."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import pytest

from llm2ws.server.chunks import _PARAMETERS, _WITHOUT_EFFECT, ChatRequest
from llm2ws.server.client_turn import CLIENT_NOTICES
from llm2ws.server.encode import FORMATS, Speed
from llm2ws.server.realtime.events import SessionParams
from llm2ws.server.realtime.session import _NOT_SERVED, _SERVED
from llm2ws.server.relay import RelayRequest
from llm2ws.server.speech import NOT_MADE, OPENAI_MODELS, SpeechRequest
from llm2ws.speech.dialects import deepgram_server as deepgram
from tests.server.conftest import OPERATIONS
from tests.support import ROOT

PAGE = (ROOT / "docs" / "faces.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
REALTIME = "".join(path.read_text() for path in (ROOT / "llm2ws" / "server" / "realtime").glob("*.py"))
RELAY = (ROOT / "llm2ws" / "server" / "relay.py").read_text()


def named(section: str) -> set[str]:
    """What stands there as code."""
    return set(re.findall(r"`([^`]+)`", SECTIONS[section]))


def test_every_path_is_on_it_and_no_other() -> None:
    paths = {name for section in SECTIONS for name in named(section) if re.match(r"(GET|POST) /", name)}
    assert paths == set(OPERATIONS)
    assert "/v1/realtime" in named("OpenAI: Realtime")
    assert deepgram.PATH in named("Deepgram: Speak")


def test_every_event_of_realtime_is_on_it_and_no_other() -> None:
    on_page = {
        name for name in named("OpenAI: Realtime") if re.match(r"(session|conversation|response|\w+_audio_buffer)\.", name)
    }
    sent = set(re.findall(r'send\(\s*"([a-z_.]+)"', REALTIME)) | set(re.findall(r'"(response\.output_\w+\.delta)"', REALTIME))
    assert on_page == set(_SERVED) | (sent - {"error"}) | {f"{start}*" for start in _NOT_SERVED}
    assert "error" in sent


def test_every_event_of_the_relay_is_on_it() -> None:
    sent = set(re.findall(r'send\("(\w+)"', RELAY))
    assert len(sent) == 6
    assert sent <= named("The plain relay")


@pytest.mark.parametrize(
    ("section", "kind", "skipped"),
    [
        ("OpenAI: chat completions", ChatRequest, ()),
        ("OpenAI: speech", SpeechRequest, ()),
        ("The plain relay", RelayRequest, ()),
        # What a session cannot be given is told as "all else"; the name of its kind is no choice.
        ("OpenAI: Realtime", SessionParams, ("type", "audio", "prompt", "reasoning", "tracing")),
    ],
)
def test_every_field_is_on_it(section: str, kind: type[msgspec.Struct], skipped: tuple[str, ...]) -> None:
    assert {field.name for field in msgspec.structs.fields(kind)} - set(skipped) <= named(section)


def test_what_stands_for_lists_in_the_code_says_all_of_them() -> None:
    chat, speech, speak = (named(name) for name in ("OpenAI: chat completions", "OpenAI: speech", "Deepgram: Speak"))
    assert set(_PARAMETERS) | _WITHOUT_EFFECT <= chat | {"stream_options"}
    assert {*FORMATS, *NOT_MADE, *OPENAI_MODELS} - {"pcm16"} <= speech
    assert set(deepgram._FIELDS) <= speak
    assert {kind.name for kind in CLIENT_NOTICES} <= speak
    assert {str(kind) for kind in CLIENT_NOTICES} <= named("The plain relay")
    speed = get_args(Speed)[1]
    assert f"from {speed.ge} to {speed.le}:" in SECTIONS["For all faces"]
