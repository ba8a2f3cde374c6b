"""Cleaner and Fragmenter together, as a turn uses them: whole answers, and what is let go when the model pauses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2ws.text.cleaner import Cleaner
from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Fragment, Hold, Piece, Policy

DATA = Path(__file__).parent.parent / "data" / "spoken"
ANSWERS = [answer for file in sorted(DATA.glob("*.toml")) for answer in tomllib.loads(file.read_text("utf-8"))["answer"]]
POLICIES = [Policy.SENTENCE, Policy.CLAUSE_FIRST]
SOON = (Hold.SURE, Hold.CAPITAL)


class Speaker:
    """The text's way to the fragments; and `pause`, in the order of a turn that has waited for a tenth of a second."""

    def __init__(self, policy: Policy, language: str | None = "en") -> None:
        self.cleaner = Cleaner()
        self.fragmenter = Fragmenter(policy, language=language)

    def feed(self, text: str) -> list[Fragment]:
        return self._cut(self.cleaner.feed(text))

    def finish(self) -> list[Fragment]:
        return self._cut(self.cleaner.finish()) + self.fragmenter.finish()

    def pause(self) -> list[Fragment]:
        out: list[Fragment] = []
        if self.cleaner.holding.hold in SOON:
            out += self._cut(self.cleaner.release())
        if self.fragmenter.holding.hold in SOON:
            out += self.fragmenter.release()
        return out

    def _cut(self, pieces: list[Piece]) -> list[Fragment]:
        return [fragment for piece in pieces for fragment in self.fragmenter.feed(piece)]


def tokens(text: str) -> list[str]:
    return re.findall(r"\s?\w{1,5}|\s+|[^\w\s]{1,2}", text)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer["name"])
def test_what_is_spoken_of_a_whole_answer(answer: dict[str, Any], policy: Policy) -> None:
    expected = answer[policy.name.lower()]
    assert expected
    for chunks in ([answer["raw"]], tokens(answer["raw"]), list(answer["raw"])):
        speaker = Speaker(policy, answer["language"])
        found = [fragment for chunk in chunks for fragment in speaker.feed(chunk)] + speaker.finish()
        assert [fragment.text for fragment in found] == expected
        assert all(0 <= fragment.start <= fragment.end <= len(answer["raw"]) for fragment in found)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Sure.", "Sure."),
        ("Sure. ", "Sure."),
        ("Sure!", "Sure!"),
        ("Are you sure?", "Are you sure?"),
        ('He said "Sure."', 'He said "Sure."'),
        ("He said “Sure.”", "He said “Sure.”"),
        ("(All of them.)", "(All of them.)"),
        ("This is **bold.**", "This is bold."),
        ("This is *slanted.*", "This is slanted."),
        ("Run `make test`.", "Run make test."),
        ("See [the docs](https://example.com/a).", "See the docs."),
        ("Great! 🎉", "Great!"),
        ("1. Preheat the oven.", "1. Preheat the oven."),
        ("- Preheat the oven.", "Preheat the oven."),
        ("Here it is:\n\n- Preheat the oven\n", "Preheat the oven"),
        ("## The plan\n", "The plan"),
        ("好的。", "好的。"),
        ("ज़रूर।", "ज़रूर।"),
        ("It costs $3.50.", "It costs $3.50."),
        ("Is it $5?", "Is it $5?"),
        ("It was in 1969.", "It was in 1969."),
        ("Well...", "Well..."),
        ("Like this:\n\n```\nx = 1.", "The code is on your screen."),
    ],
)
def test_a_sentence_leaves_when_the_model_stalls_behind_it(text: str, said: str, policy: Policy) -> None:
    for chunks in ([text], tokens(text), list(text)):
        speaker = Speaker(policy)
        found = [fragment for chunk in chunks for fragment in speaker.feed(chunk)] + speaker.pause()
        assert found
        assert found[-1].text.strip() == said


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "text",
    [
        "Ask Dr.",
        "Ask **Dr.",
        "3.",
        "It is: 3.",
        "**3.",
        "It is version 3.",
        "in the U.S.",
        "written by J.",
        "e.g.",
        "and then",
        "a word *",
        "See [the docs",
        "See [the docs](https://example.com/a.",
        "<think>All right.",
        "It costs $3.",
    ],
)
def test_what_may_go_on_does_not_leave_at_once(text: str, policy: Policy) -> None:
    for chunks in ([text], tokens(text), list(text)):
        speaker = Speaker(policy)
        found = [fragment for chunk in chunks for fragment in speaker.feed(chunk)] + speaker.pause()
        assert [fragment.text for fragment in found] == []


@given(
    answer=st.sampled_from([str(answer["raw"]) for answer in ANSWERS]),
    places=st.lists(st.integers(0, 900), max_size=5),
    policy=st.sampled_from(POLICIES),
)
@settings(max_examples=60, deadline=None)
def test_pauses_lose_no_word(answer: str, places: list[int], policy: Policy) -> None:
    """They may leave half a marker in the text; the words stay as they are."""
    speaker, paused = Speaker(policy), set(places)
    found: list[Fragment] = []
    for place, char in enumerate(answer):
        found += speaker.feed(char)
        if place in paused:
            found += speaker.pause()
    found += speaker.finish()
    whole = Speaker(policy)
    expected = "".join(fragment.text for fragment in whole.feed(answer) + whole.finish())
    assert "".join(re.findall(r"\w", "".join(fragment.text for fragment in found))) == "".join(re.findall(r"\w", expected))
