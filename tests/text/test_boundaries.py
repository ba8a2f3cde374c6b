from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.text.boundaries import CANDIDATE, CANDIDATE_FIRST, STOPS, SURE, TAIL, WORD_END, is_grapheme_break, is_lower, width


@pytest.mark.parametrize(
    ("text", "breaks"),
    [
        ("ab", [1]),
        ("e\u0301e", [2]),
        ("\r\n", []),
        ("👩\u200d👧", []),
        ("👍🏽!", [2]),
        ("🇩🇪🇫🇷", [2]),
        ("क्षि", []),
        ("\u1100\u1161\u11a8\u1100", [3]),
        ("✍\ufe0fa", [2]),
        ("\ud83d\ude00", []),
    ],
)
def test_graphemes(text: str, breaks: list[int]) -> None:
    assert [at for at in range(1, len(text)) if is_grapheme_break(text, at)] == breaks


@given(st.text(max_size=20))
def test_no_break_before_a_combining_mark(text: str) -> None:
    for at in range(1, len(text)):
        if unicodedata.combining(text[at]):
            assert not is_grapheme_break(text, at)


def test_wide_characters_count_twice() -> None:
    assert width("ab", 0, 2) == 2
    assert width("北京a", 0, 3) == 5
    assert width("北京a", 1, 3) == 3


def test_every_stop_is_a_candidate_and_belongs_to_the_tail_of_another() -> None:
    for stop in STOPS + SURE:
        for pattern in (CANDIDATE, CANDIDATE_FIRST, TAIL):
            assert pattern.match(stop), stop


def test_every_stop_is_punctuation() -> None:
    assert {unicodedata.category(char) for char in STOPS + SURE} <= {"Po"}
    assert len(set(STOPS + SURE)) >= len(STOPS + SURE) - 1  # the danda is in both of its blocks


@pytest.mark.parametrize(
    "text", ["plain words", "a, b: c; d", "3,5 f(x)", "3.5", "main.c", "?a=b", "v1.2.3", "Größe", "Привет мир"]
)
def test_ordinary_text_has_no_candidates(text: str) -> None:
    assert [found for found in CANDIDATE.finditer(text) if found[0] not in ":;"] == []


def test_where_words_end() -> None:
    text = " one two，三。」四"
    assert [found.start() for found in WORD_END.finditer(text, 1)] == [4, 9, 12]


def test_georgian_has_no_small_letters_that_matter() -> None:
    assert is_lower("a")
    assert is_lower("я")
    assert not is_lower("ა")
    assert not is_lower("A")
    assert not is_lower("中")
