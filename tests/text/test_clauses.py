from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.text.abbreviations import words_of
from llm2ws.text.clauses import best_place, columns_end, last_clause_end

WORDS = words_of("en")


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("one two three four, five six seven", "one two three four,"),
        ("one, two three four five six seven eight nine ten eleven", "one, two three four five six seven eight nine ten"),
        ("一二三四五六七八，九十", "一二三四五六七八，"),
        ("abcdefghij", "abcdefghij"),
        ('word <break time="1 s, 2 s, 3 s"/>', "word"),
        ("1,000,000,000", "1,000,000,000"),
        ("the drawings of the old man", "the drawings"),
        ("they said that they had seen the play and that they would", "they said that they had seen the play"),
        ("come and see one another at the meeting at 10 a.m. today", "come and see one another at the meeting"),
    ],
)
def test_the_best_place(text: str, head: str) -> None:
    assert text[: best_place(text, 0, len(text), WORDS)] == head


@given(st.text(min_size=1, max_size=60))
def test_the_best_place_is_inside(text: str) -> None:
    assert 0 < best_place(text, 0, len(text), WORDS) <= len(text)


def test_the_last_clause_end_past_a_floor() -> None:
    assert last_clause_end("well, so it went; and then", 0, 26, 0) == 17
    assert last_clause_end("well, so it went and then", 0, 25, 0) == 5
    assert last_clause_end("well, so it went and then", 0, 25, 6) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a plain text", "a pla"),
        ("===== *** a plain text", "===== *** a pla"),
        ("हिन्दी है", "हिन्दी "),  # vowel signs and the virama have no width of their own
        ("..", ".."),
        ("one", "one"),
    ],
)
def test_columns_of_speech(text: str, said: str) -> None:
    assert text[: columns_end(text, 0, 5)] == said
