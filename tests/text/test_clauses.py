from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.text.clauses import best_place, last_clause_end


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("one two three four, five six seven", "one two three four,"),
        ("one, two three four five six seven eight nine ten eleven", "one, two three four five six seven eight nine ten"),
        ("一二三四五六七八，九十", "一二三四五六七八，"),
        ("abcdefghij", "abcdefghij"),
        ('word <break time="1 s, 2 s, 3 s"/>', "word"),
        ("1,000,000,000", "1,000,000,000"),
    ],
)
def test_the_best_place(text: str, head: str) -> None:
    assert text[: best_place(text, 0, len(text))] == head


@given(st.text(min_size=1, max_size=60))
def test_the_best_place_is_inside(text: str) -> None:
    assert 0 < best_place(text, 0, len(text)) <= len(text)


def test_the_last_clause_end_past_a_floor() -> None:
    assert last_clause_end("well, so it went; and then", 0, 26, 0) == 17
    assert last_clause_end("well, so it went and then", 0, 25, 0) == 5
    assert last_clause_end("well, so it went and then", 0, 25, 6) == 0
