from __future__ import annotations

from collections.abc import Callable

import pytest

from llm2ws.errors import ConfigError
from llm2ws.settings.fields import Speech
from tests.settings.reading import load


def test_entries_have_any_name_and_the_environment_finds_them(toml: Callable[[str], str]) -> None:
    file = toml("[speech.my-Voice]\nvoice = 'a'\n[speech.my-Voice.limits]\nchars_per_speak = 7\n[speech.bare]")

    speech = load(file, LLM2WS_SPEECH__MY_VOICE__SPEED="1.5", LLM2WS_SPEECH__NEW__FAILOVER="bare, my-Voice").speech

    assert list(speech) == ["my-Voice", "bare", "new"]
    assert (speech["my-Voice"].voice, speech["my-Voice"].speed) == ("a", 1.5)
    assert speech["my-Voice"].limits.chars_per_speak == 7
    assert speech["bare"] == Speech()
    assert speech["new"].failover == ("bare", "my-Voice")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LLM2WS_TEXT__MAXCHARS", "200", "no such setting: did you mean LLM2WS_TEXT__MAX_CHARS?"),
        ("LLM2WS_TEXT__MAX_CHARS", "many", "expected int, got str: it sets the longest fragment"),
        ("LLM2WS_LLM__MODEL", "m", "expected a table: write LLM2WS_LLM__<NAME>__..."),
        (
            "LLM2WS_TEXT_MAX_CHARS",
            "200",
            "no such setting: two underscores are between the parts of a name: LLM2WS_TEXT__...",
        ),
        ("LLM2WS_LOGS", "info", "no such setting: did you mean LLM2WS_LOG?"),
    ],
)
def test_a_mistake_in_the_environment_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    assert str(caught.value) == f"the environment: {name}: {message}"
