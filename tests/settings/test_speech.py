"""Which endpoint of the settings is meant, and what its name tells."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llm2ws.settings.fields import Secret, Settings, Speech
from llm2ws.settings.speech import LOCAL, choose_speech


def test_which_endpoint_is_meant(canary: Callable[[], str]) -> None:
    key = Secret(canary())
    vendor = Settings(speech={"deepgram": Speech(api_key=key)})
    assert choose_speech(Settings())[0] == LOCAL
    assert choose_speech(vendor)[0] == "deepgram"
    assert choose_speech(vendor, LOCAL) == (LOCAL, Speech(dialect=LOCAL))
    own = choose_speech(vendor, "ws://127.0.0.1:1/v1/speak")
    assert own == ("127.0.0.1:1", Speech(url="ws://127.0.0.1:1/v1/speak", dialect="deepgram"))
    assert choose_speech(Settings(default_speech="ws://127.0.0.1:1/v1/speak")) == own
    both = Settings(speech={"mine": Speech(dialect="deepgram", voice="v"), "deepgram": Speech(api_key=key)})
    assert choose_speech(both, "mine")[1].api_key == key  # the vendor's own address, so the vendor's key
    elsewhere = Settings(speech={"mine": Speech(url="wss://x.example"), "deepgram": Speech(api_key=key)})
    assert choose_speech(elsewhere, "mine")[1].api_key == Secret()
    assert choose_speech(Settings(default_speech="b", speech={"a": Speech(), "b": Speech()}))[0] == "b"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("wss://me:{}@x.example:80/v1?a@b", "x.example:80"),
        ("wss://x.example?token={}", "x.example"),
        ("ws://me:@{}@[::1]:80#x", "[::1]:80"),
        ("ws://me:/{}@x.example", "url"),
        ("ws://", "url"),
    ],
)
def test_a_password_in_a_url_is_not_in_its_name(canary: Callable[[], str], url: str, name: str) -> None:
    assert choose_speech(Settings(), url.format(canary()))[0] == name
