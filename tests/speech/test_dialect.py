from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat
from llm2ws.errors import ConfigError
from llm2ws.speech.dialect import Request, Setup, checked_url
from llm2ws.speech.dialects import DIALECTS


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("wss://example.org", "wss://example.org/v1/speak"),
        ("wss://example.org/", "wss://example.org/v1/speak"),
        ("wss://example.org/other", "wss://example.org/other"),
        ("ws://127.0.0.1:8766", "ws://127.0.0.1:8766/v1/speak"),
        ("ws://[::1]:8766/x?a=b#c", "ws://[::1]:8766/x?a=b"),
        ("WSS://Example.org:443/x", "wss://Example.org:443/x"),
    ],
)
def test_a_path_is_put_in_where_there_is_none(url: str, opened: str) -> None:
    assert checked_url(url, key="k", path="/v1/speak") == opened


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("", "not a WebSocket address"),
        ("https://example.org", "not a WebSocket address"),
        ("example.org:80", "not a WebSocket address"),
        ("ws://", "not a WebSocket address"),
        ("ws://[::1", "speech URL"),
        ("ws://127.0.0.1:99999", "speech URL"),
        ("ws://127.0.0.1:port", "speech URL"),
        ("ws://127.0.0.1:0/", "port 0"),
        ("wss://user:secret@example.org", "user or password"),
        ("ws://example.org", "in clear text"),
        ("ws://192.0.2.1/v1/speak", "in clear text"),
        ("ws://localhost.example.org", "in clear text"),
    ],
)
def test_what_may_not_be_opened_is_named(url: str, named: str, canary: Callable[[], str]) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        checked_url(url.replace("secret", canary()), key=canary(), path="/v1/speak")
    assert caught.value.hint


def test_without_a_key_clear_text_is_the_users_choice() -> None:
    assert checked_url("ws://example.org/x", key="", path="/") == "ws://example.org/x"


@given(st.text())
def test_no_url_breaks_the_check(url: str) -> None:
    with contextlib.suppress(ConfigError):
        assert checked_url(url, key="k", path="/v1/speak").lower().startswith(("ws://", "wss://"))


def test_a_key_is_in_no_repr(canary: Callable[[], str]) -> None:
    key = canary()
    for dialect in DIALECTS.values():
        setup = Setup("", "", AudioFormat(), key)
        request = dialect(setup).request()
        assert any(key in value for value in request.headers.values())
        for thing in (setup, dialect(setup), request, Request("wss://x", {"Authorization": key})):
            assert key not in repr(thing)
        assert key not in request.url
