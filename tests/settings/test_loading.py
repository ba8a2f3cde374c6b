"""Settings: which of two places is stronger, what a mistake is called, what may not leave."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import ConfigError
from llm2ws.settings import loading as config
from llm2ws.settings.fields import Settings
from tests.settings.reading import load
from tests.support import ROOT


def test_nothing_set_is_the_defaults(tmp_path: Path) -> None:
    assert config.load(environ={"XDG_CONFIG_HOME": str(tmp_path)}).settings == Settings()


def test_the_order_of_strength(tmp_path: Path, toml: Callable[[str], str]) -> None:
    file = toml("[text]\nmax_chars = 101\nfirst_min_chars = 11\nfirst_max_chars = 51\nlanguage = 'de'\n[play]\nahead_s = 1")
    (tmp_path / ".env").write_text(
        "LLM2WS_TEXT__MAX_CHARS=102\nLLM2WS_TEXT__FIRST_MIN_CHARS=12\nLLM2WS_TEXT__FIRST_MAX_CHARS=52\n"
    )
    environ = {"LLM2WS_TEXT__MAX_CHARS": "103", "LLM2WS_TEXT__FIRST_MIN_CHARS": "13"}

    settings, origins, _ = config.load(config=file, folder=str(tmp_path), environ=environ, flags={("text", "max_chars"): 104})

    text = settings.text
    assert (text.max_chars, text.first_min_chars, text.first_max_chars, text.language) == (104, 13, 52, "de")
    assert settings.play.ahead_s == 1.0
    assert {".".join(path): origin for path, origin in origins.items()} == {
        "text.max_chars": "the command line",
        "text.first_min_chars": "the environment",
        "text.first_max_chars": ".env",
        "text.language": file,
        "play.ahead_s": file,
    }


def test_the_users_file_is_stronger_than_the_systems_and_the_named_one_is_alone(tmp_path: Path) -> None:
    folder = tmp_path / "llm2ws"
    folder.mkdir()
    (folder / "llm2ws.toml").write_text("log = 'info'")
    (tmp_path / "named.toml").write_text("default_llm = 'echo'")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}

    assert config.load(environ=environ).settings.log == "info"
    named = environ | {"LLM2WS_CONFIG": str(tmp_path / "named.toml")}
    assert config.load(environ=named).settings == Settings(default_llm="echo")


def test_dot_env_is_read_only_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("LLM2WS_LOG=error\n")
    monkeypatch.chdir(tmp_path)
    assert config.load(environ={}).settings.log == "warning"
    assert config.load(environ={}, folder=".").settings.log == "error"


def test_what_editors_and_shells_put_into_dot_env(tmp_path: Path) -> None:
    lines = [
        "\ufeffexport LLM2WS_TEXT__MAX_CHARS = '100' # the longest",
        "run this",
        'LLM2WS_TEXT__LANGUAGE="de"',
        'LLM2WS_LOG="error',
    ]
    (tmp_path / ".env").write_bytes("\r\n".join(lines).encode())
    loaded = config.load(environ={}, folder=str(tmp_path))
    assert (loaded.settings.text.max_chars, loaded.settings.text.language, loaded.settings.log) == (100, "de", "warning")
    assert loaded.notes == tuple(
        f".env: line {line} is left out: write NAME=value, with both quotes or none" for line in (2, 4)
    )


def test_a_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes("\ufeff[text]\r\nmax_chars = 100\r\n".encode())
    assert load(str(tmp_path / "s.toml")).text.max_chars == 100


def test_a_vendors_variable_is_weaker_than_ours(canary: Callable[[], str]) -> None:
    one, other = canary(), canary()
    assert load(DEEPGRAM_API_KEY=one).speech["deepgram"].api_key.reveal() == one
    both = load(DEEPGRAM_API_KEY=one, LLM2WS_SPEECH__DEEPGRAM__API_KEY=other)
    assert both.speech["deepgram"].api_key.reveal() == other


def test_what_an_entry_lacks_may_be_in_another_place(toml: Callable[[str], str]) -> None:
    file = toml("[voices.alloy]\nspeech = 'local'")
    assert load(file, LLM2WS_VOICES__ALLOY__VOICE="en-us").voices["alloy"].voice == "en-us"
    with pytest.raises(ConfigError, match=re.escape("the environment: voices.a.voice: not set")):
        load(LLM2WS_VOICES__A__SPEECH="local")


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), (b"\xff\xfe", "not UTF-8 text")])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "llm2ws.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: {why}: ")):
        load(str(path))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda leaf: st.dictionaries(st.text(), leaf)))
def test_no_value_of_a_setting_breaks_it(value: object) -> None:
    """What TOML can hold, at every place of the tree, is either taken or refused by name."""
    refused = {}
    for path in (("log",), ("text",), ("speech",), ("speech", "x"), ("speech", "x", "api_key"), ("speech", "x", "limits")):
        try:
            config.load(environ={}, flags={path: value})
        except ConfigError as exc:
            refused[".".join(path)] = str(exc)
    assert all(name in message for name, message in refused.items())


def test_an_address_from_dot_env_gets_no_key_from_elsewhere(tmp_path: Path, canary: Callable[[], str]) -> None:
    (tmp_path / ".env").write_text("LLM2WS_SPEECH__DEEPGRAM__URL=wss://other.example\n")

    loaded = config.load(environ={"DEEPGRAM_API_KEY": canary()}, folder=str(tmp_path))

    assert not loaded.settings.speech["deepgram"].api_key
    assert loaded.notes == ("speech.deepgram.url is from .env: it is not given the key from the environment",)


def test_an_address_from_dot_env_gets_the_key_beside_it_but_no_file(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    (tmp_path / ".env").write_text(
        f"LLM2WS_SPEECH__X__URL=wss://other.example\nLLM2WS_SPEECH__X__API_KEY={key}\nLLM2WS_SPEECH__X__API_KEY_FILE=id_rsa\n"
    )
    entry = config.load(environ={}, folder=str(tmp_path)).settings.speech["x"]
    assert entry.api_key.reveal() == key
    assert not entry.api_key_file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[text.replace]\nnginx = 3", "text.replace.nginx: expected str, got int: it sets words that are said differently"),
        ("[text.replace.nginx]\nas = 'x'", "text.replace.nginx: expected str, got object"),
        ("[text]\nreplace = 'x'", "text.replace: expected a table: write [text.replace]"),
        ("[text]\nkeep = ['emojis']", "text.keep: invalid enum value: give one of code, emoji, "),
    ],
)
def test_a_mistake_about_what_is_said(toml: Callable[[str], str], text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(toml(text))


def test_dot_env_example_is_empty_and_its_lines_are_settings(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(text)
    assert config.load(environ={}, folder=str(tmp_path)).origins == {}
    (tmp_path / ".env").write_text(re.sub(r"^#(?=[A-Z])", "", text, flags=re.MULTILINE))
    assert config.load(environ={}, folder=str(tmp_path)).settings.speech["deepgram"].voice
