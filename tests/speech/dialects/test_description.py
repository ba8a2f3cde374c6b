from __future__ import annotations

import pytest

from llm2ws.errors import ConfigError
from llm2ws.speech.dialects.described import described
from tests.speech.dialects.descriptions import changed

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
