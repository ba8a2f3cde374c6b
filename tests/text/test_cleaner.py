"""The golden corpus, and what a caller of the Cleaner relies on."""

from __future__ import annotations

import pytest

from llm2ws.errors import ConfigError
from llm2ws.text.cleaner import REPLACE_CHARS, Cleaner
from llm2ws.text.fragments import Piece
from tests.text.corpus import answers, check, said, stream


@pytest.mark.parametrize(("raw", "expected"), answers())
def test_what_is_said_of_a_whole_answer(raw: str, expected: str) -> None:
    check(raw, expected)


# --- replacements ----------------------------------------------------------------------------------------------------

REPLACE = {
    "SQL": "sequel",
    "New York": "the Apple",
    "New York City": "the Big Apple",
    "C++": "C plus plus",
    "nginx": "engine x",
    "Dr": "Doctor",
}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("SQL is old.", "sequel is old."),
        ("MySQL, SQLite, sql: no.", "MySQL, SQLite, sql: no."),
        ("SQL", "sequel"),
        ("New York City, New York, New Yorkers", "the Big Apple, the Apple, New Yorkers"),
        ("New York Citizens", "the Apple Citizens"),
        ("New York Ci", "the Apple Ci"),
        ("C++ and C+", "C plus plus and C+"),
        ("**SQL** `nginx` [SQL](http://SQL.com) SQL_2", "sequel engine x sequel SQL_2"),
        ("Dr. No", "Doctor. No"),
        ("| SQL | nginx |", "sequel, engine x"),
    ],
)
def test_words_are_replaced(raw: str, expected: str) -> None:
    assert stream(Cleaner(replace=REPLACE), [raw]) == expected
    assert stream(Cleaner(replace=REPLACE), raw) == expected


def test_what_was_said_instead_is_not_looked_at_again() -> None:
    assert stream(Cleaner(replace={"a": "b", "b": "**a**"}), "a b") == "b **a**"


def test_a_replacement_stands_for_its_word_as_a_whole() -> None:
    assert Cleaner(replace=REPLACE).feed("My SQL,") == [
        Piece("My", 0, 2),
        Piece(" ", 2, 3),
        Piece("sequel", 3, 6),
        Piece(",", 6, 7),
    ]


def test_a_word_that_no_pattern_could_hold_is_refused() -> None:
    longest = "a" * REPLACE_CHARS
    assert stream(Cleaner(replace={longest: "b"}), f"{longest} c") == "b c"
    with pytest.raises(ConfigError, match="more than 200 characters"):
        Cleaner(replace={longest + "a": "b"})


def test_a_token_without_markup_passes_in_one_piece() -> None:
    cleaner = Cleaner()
    cleaner.feed("It was")
    assert cleaner.feed(" never") == [Piece(" never", 6, 12)]
    assert cleaner.feed("theless, so") == [Piece("theless, so", 12, 23)]


def test_the_host_stands_for_the_whole_address() -> None:
    assert Cleaner().feed("At https://www.a.org/x?y ok") == [
        Piece("At", 0, 2),
        Piece(" ", 2, 3),
        Piece("a.org", 3, 24),
        Piece(" ok", 24, 27),
    ]


@pytest.mark.parametrize("mark", ["[", "<a b=", "![", "$x", "&am", "https://a/"])
def test_what_might_be_markup_becomes_text_at_last(mark: str) -> None:
    """Bounded holding: a model that never closes a bracket is not silent for ever."""
    cleaner = Cleaner()
    text = f"So {mark}" + " or" * 500
    assert len(said(cleaner.feed(text))) > len(text) - 310 - len(mark)
