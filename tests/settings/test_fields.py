from __future__ import annotations

import math
import re
from collections.abc import Callable

import msgspec
import pytest

from llm2ws.errors import ConfigError
from llm2ws.settings import loading as config
from llm2ws.settings.fields import ClientLimits, Llm, Play, Secret, Server, Speech, SpeechLimits, TextSettings
from tests.settings.reading import load
from tests.support import texts_of


def test_a_key_shows_itself_nowhere(toml: Callable[[str], str], canary: Callable[[], str]) -> None:
    key = canary()
    loaded = config.load(environ={"DEEPGRAM_API_KEY": key, "LLM2WS_SPEECH__X__API_KEY": key})
    assert key not in repr(loaded)
    assert key not in f"{loaded.settings.speech['x'].api_key}"
    for wrong in (f"log = '{key}'", f"[text]\nmax_chars = '{key}'", f"[speech.x]\napi_key = ['{key}']"):
        with pytest.raises(ConfigError) as caught:
            load(toml(wrong))
        assert not any(key in text for text in texts_of(caught.value))


@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0, 1e308])
def test_no_number_is_without_bounds(value: float) -> None:
    """A daemon would start with it, and fail when a timer is set."""
    sections: dict[str, type[msgspec.Struct]] = {
        "text": TextSettings,
        "play": Play,
        "server": Server,
        "server.limits": ClientLimits,
    }
    sections |= {"llm.x": Llm, "speech.x": Speech, "speech.x.limits": SpeechLimits}
    floats = [
        (*section.split("."), field.name)
        for section, kind in sections.items()
        for field in msgspec.structs.fields(kind)
        if "float" in str(field.type)
    ]
    assert len(floats) > 15
    for path in floats:
        with pytest.raises(ConfigError, match=re.escape(".".join(path))):
            config.load(environ={}, flags={path: value})


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert not Secret()
    assert len({Secret("a"), Secret("a")}) == 1
