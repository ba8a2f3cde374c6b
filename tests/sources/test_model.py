"""Which model is asked, where, and with whose key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import llm2ws
from llm2ws.errors import ConfigError
from llm2ws.sources.anthropic import VENDOR as ANTHROPIC
from llm2ws.sources.model import ModelOptions, ModelSettings, resolve
from llm2ws.sources.openai import VENDOR as OPENAI


def test_every_setting_is_an_option() -> None:
    assert list(ModelOptions.__annotations__) == list(ModelSettings.__dataclass_fields__)


def test_a_key_in_the_environment_is_enough(monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]) -> None:
    key = canary()
    monkeypatch.setenv("OPENAI_API_KEY", f" {key}\n")  # as files and shells leave it

    endpoint = resolve(ModelSettings(), OPENAI)

    assert (endpoint.url, endpoint.model, endpoint.key == key) == ("https://api.openai.com/v1", OPENAI.model, True)


def test_an_address_in_the_environment_gets_the_key_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]
) -> None:
    key = canary()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://proxy.example/")
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)

    endpoint = resolve(ModelSettings(model="m"), ANTHROPIC)

    assert (endpoint.url, endpoint.key == key, endpoint.who) == ("https://proxy.example", True, "m at proxy.example")


def test_an_address_given_here_gets_no_key_that_was_meant_for_another(
    monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", canary())

    assert resolve(ModelSettings(model="m", base_url="https://elsewhere.example/v1"), OPENAI).key == ""


@pytest.mark.parametrize("host", ["localhost:11434", "127.0.0.1:8080", "127.9.9.9", "[::1]:80", "llama.localhost"])
def test_a_key_in_clear_text_stays_on_this_machine(host: str, canary: Callable[[], str]) -> None:
    endpoint = resolve(ModelSettings(model="m", base_url=f"http://{host}/v1", api_key=canary()), OPENAI)

    assert endpoint.loopback
    assert endpoint.key


def test_a_machine_nearby_needs_no_key() -> None:
    assert resolve(ModelSettings(model="m", base_url="http://192.168.1.7:11434/v1"), OPENAI).who == "m at 192.168.1.7:11434"


WRONG = [
    (ModelSettings(), "no key for OpenAI: set OPENAI_API_KEY"),
    (ModelSettings(base_url="http://localhost/v1"), "no model is set for localhost: set model"),
    (ModelSettings(base_url="localhost:11434"), "base_url is no http:// or https:// URL"),
    (ModelSettings(base_url="http://"), "base_url is no http:// or https:// URL"),
    (ModelSettings(base_url="http://[::1"), "base_url is no http:// or https:// URL"),
    (ModelSettings(base_url="http://host:port"), "base_url is no http:// or https:// URL"),
    (ModelSettings(template="Hello"), "template has no {prompt}"),
    (ModelSettings(model="m", base_url="https://h/", ca_file="missing.pem"), "ca_file missing.pem: No such file"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_what_cannot_be_right(settings: ModelSettings, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(settings, OPENAI)

    assert str(caught.value).startswith(message)
    assert caught.value.hint


def test_a_file_without_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")

    with pytest.raises(ConfigError, match=r"ca\.pem"):
        resolve(ModelSettings(model="m", base_url="https://h/", ca_file=str(tmp_path / "ca.pem")), OPENAI)


def test_keys_that_would_be_seen(canary: Callable[[], str]) -> None:
    """The canary search reads these errors."""
    key = canary()
    with pytest.raises(ConfigError, match=r"a key would be sent to gpu\.example in clear text"):
        resolve(ModelSettings(model="m", base_url="http://gpu.example/v1", api_key=key), OPENAI)
    with pytest.raises(ConfigError, match="a name, password or query"):
        resolve(ModelSettings(model="m", base_url=f"https://me:{key}@h.example/v1"), OPENAI)
    with pytest.raises(ConfigError, match="a name, password or query"):
        resolve(ModelSettings(model="m", base_url=f"https://h.example/v1?key={key}"), OPENAI)
    with pytest.raises(ConfigError, match="a character that no key has"):
        resolve(ModelSettings(model="m", api_key=f"{key}\r\nX-Evil: 1"), OPENAI)
    with pytest.raises(ConfigError, match="a character that no key has"):
        resolve(ModelSettings(model="m", api_key=f"{key}é"), OPENAI)


def test_a_key_is_in_no_repr(canary: Callable[[], str]) -> None:
    key = canary()
    settings = ModelSettings(model="m", api_key=key)

    assert key not in (shown := repr(settings) + repr(resolve(settings, OPENAI)))
    assert "model='m'" in shown


@pytest.mark.parametrize("source", [llm2ws.openai_chat, llm2ws.openai_responses, llm2ws.anthropic_messages])
def test_an_argument_that_there_is_not_is_named(source: Callable[..., object]) -> None:
    with pytest.raises(ConfigError, match=rf"{source.__name__}\(\): modle: no such argument: did you mean model\?"):
        source("hi", modle="x")
    with pytest.raises(ConfigError, match=r"nothing_like_it: no such argument: give model, base_url, "):
        source("hi", nothing_like_it=1)
