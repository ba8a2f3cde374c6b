"""Text as the settings want it: markup that is kept, words that are said differently, where it is cut."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

from llm2ws.settings.fields import Markup, TextSettings
from llm2ws.settings.loading import load
from llm2ws.settings.text import cleaner, fragmenter
from llm2ws.text.cleaner import Rules
from llm2ws.text.fragments import Policy


def test_markup_is_called_what_the_rules_call_it() -> None:
    assert list(typing.get_args(Markup)) == [field.name for field in dataclasses.fields(Rules)]


def test_words_and_markup_to_be_said_differently(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[text]\nkeep = ['emoji']\n[text.replace]\nnginx = 'engine x'\n'C++' = 'C plus plus'")
    settings = load(config=str(path), environ={}).settings
    assert settings.text.replace == {"nginx": "engine x", "C++": "C plus plus"}
    clean = cleaner(settings.text)
    assert "".join(piece.text for piece in clean.feed("*nginx* and C++ \N{PARTY POPPER}") + clean.finish()) == (
        "engine x and C plus plus \N{PARTY POPPER}"
    )
    from_environment = load(environ={"LLM2WS_TEXT__KEEP": "emoji, urls", "LLM2WS_TEXT__REPLACE__SQL": "x"}).settings
    assert from_environment.text.keep == ("emoji", "urls")
    assert from_environment.text.replace == {"sql": "x"}


def test_the_fragmenter_keeps_to_the_lengths_that_are_set() -> None:
    text = "one two three four five six seven eight nine ten " * 4
    cutter = fragmenter(TextSettings(max_chars=40, first_max_chars=20, first_min_chars=5), Policy.CLAUSE_FIRST)
    clean = cleaner(TextSettings())
    fragments = [cut for piece in [*clean.feed(text), *clean.finish()] for cut in cutter.feed(piece)] + cutter.finish()
    assert len(fragments[0].text) <= 23
    assert max(len(fragment.text) for fragment in fragments) <= 40
    assert "".join(fragment.text for fragment in fragments).split() == text.split()
