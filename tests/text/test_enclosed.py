"""Constructs that are dropped with what they enclose, and the phrase that stands for code."""

from __future__ import annotations

import pytest

from llm2ws.text.cleaner import Cleaner
from llm2ws.text.fragments import Hold, Piece
from tests.text.corpus import ENCLOSED, cases, check, said, stream


@pytest.mark.parametrize(("raw", "expected"), cases(*ENCLOSED))
def test_what_is_enclosed_is_dropped_where_it_surely_ends(raw: str, expected: str) -> None:
    check(raw, expected)


@pytest.mark.parametrize(("phrase", "expected"), [("", "So:\n\nEnd."), ("Code.", "So:\n\nCode.\n\nEnd.")])
def test_a_phrase_stands_for_each_code_block(phrase: str, expected: str) -> None:
    assert stream(Cleaner(code_phrase=phrase), "So:\n```py\na = 1\n```\nEnd.") == expected


def test_the_phrase_for_code_does_not_wait_for_the_end_of_the_code() -> None:
    cleaner = Cleaner(code_phrase="Code.")
    assert said(cleaner.feed("Look:\n```py\n")) == "Look:\n\nCode.\n\n"
    assert cleaner.feed("x = 1\n" * 1000) == []
    assert cleaner.holding.hold is Hold.NOTHING


def test_the_phrase_stands_for_the_line_that_opens_the_block() -> None:
    raw = "```py\nx\n```\nEnd"
    pieces = Cleaner(code_phrase="Code.").feed(raw)
    assert pieces[:2] == [Piece("Code.", 0, 5), Piece("\n\n", 5, 6)]
