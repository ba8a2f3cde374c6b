"""The golden corpus, and what a caller of the Cleaner relies on."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

from llm2ws.errors import ConfigError
from llm2ws.text.cleaner import REPLACE_CHARS, Cleaner, Rules
from llm2ws.text.fragments import Hold, Piece

DATA = Path(__file__).parent.parent / "data" / "cleaner"


def constructs() -> Iterable[tuple[str, str, str]]:
    for construct, table in tomllib.loads((DATA / "constructs.toml").read_text("utf-8")).items():
        for raw, said in table["cases"]:
            yield f"{construct}: {raw[:30]!r}", raw, said


def answers() -> Iterable[tuple[str, str, str]]:
    for case in tomllib.loads((DATA / "answers.toml").read_text("utf-8"))["answer"]:
        yield case["name"], case["raw"], case["said"]


CORPUS = [pytest.param(raw, said, id=name) for name, raw, said in [*constructs(), *answers()]]


def stream(cleaner: Cleaner, chunks: Iterable[str]) -> str:
    pieces: list[Piece] = []
    for chunk in chunks:
        pieces += cleaner.feed(chunk)
    return "".join(piece.text for piece in pieces + cleaner.finish())


def tokens(text: str, seed: int) -> Iterable[str]:
    """Chunks of one to seven characters."""
    sizes = random.Random(seed)
    at = 0
    while at < len(text):
        size = sizes.randint(1, 7)
        yield text[at : at + size]
        at += size


@pytest.mark.parametrize(("raw", "said"), CORPUS)
def test_what_is_said(raw: str, said: str) -> None:
    cleaner = Cleaner()
    assert stream(cleaner, [raw]) == said
    assert stream(cleaner, raw) == said
    for seed in range(5):
        assert stream(cleaner, tokens(raw, seed)) == said


def said(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


# --- rules one by one ------------------------------------------------------------------------------------------------


# Raw text for each rule, and the other rules that see something in the same characters.
SWITCHED = {
    "code": ("So:\n```py\na **b** `c`\n```\nEnd", ()),
    "emoji": ("Great 😀! 👍🏽", ()),
    "emphasis": ("**a** _b_ ~~c~~", ()),
    "entities": ("a &amp; b", ()),
    "escapes": ("\\*a\\* \\", ()),
    "footnotes": ("a[^1]\n\n[^1]: b", ("links",)),
    "headings": ("# a #\n\nb\n===\n", ()),
    "html": ("<b>a</b><!-- c --><script>d</script>", ()),
    "images": ("![a](b)", ("links",)),
    "inline_code": ("`**a**`", ()),
    "links": ("[a](b) <c@d.e>", ("html", "urls")),
    "lists": ("- a\n1. b\n- [ ] c", ()),
    "math": ("$x^2$ and $$ and \\(a\\)", ("emoji", "escapes")),
    "quotes": ("> a\n> b", ()),
    "separators": ("a\n\n---\n\nb", ()),
    "tables": ("| a | b |\n|---|---|\n", ()),
    "think": ("<think>a</think>b", ()),
    "unseen": ("a\u200bb\u00adc\r\nd", ()),
    "urls": ("https://example.com/a and <https://b.c/d>", ("html", "links")),
}


@pytest.mark.parametrize("rule", Rules.__slots__)
def test_a_rule_that_is_off_leaves_its_markup_as_it_is(rule: str) -> None:
    raw, others = SWITCHED[rule]
    assert stream(Cleaner(Rules(**dict.fromkeys((rule, *others), False))), raw) == raw
    assert stream(Cleaner(), raw) != raw


def test_code_is_read_out_if_its_rule_is_off_and_markup_is_not_looked_for_in_it() -> None:
    raw = "**So:**\n```py\nx = a**b * `c`\n# no heading\n```\n**End**"
    assert stream(Cleaner(Rules(code=False)), raw) == "So:\n```py\nx = a**b * `c`\n# no heading\n```\nEnd"


# --- the phrase for code ---------------------------------------------------------------------------------------------


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


def test_replacements_work_with_all_rules_off() -> None:
    assert stream(Cleaner(Rules.none(), replace=REPLACE), "**SQL** # x") == "**sequel** # x"


# --- what is held, and let go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "at_once", "hold", "after_a_pause"),
    [
        ("Hello", "Hello", Hold.NOTHING, ""),
        ("Hello ", "Hello", Hold.SURE, " "),
        ("**Hello**", "Hello", Hold.SURE, ""),
        ("Hello **", "Hello", Hold.DOUBT, " "),
        ("See [the docs", "See", Hold.DOUBT, " "),
        ("See [the docs](http", "See", Hold.DOUBT, " "),
        ("See https://exa", "See", Hold.DOUBT, " "),
        ("See <a hr", "See", Hold.DOUBT, " "),
        ("2", "", Hold.DOUBT, "2"),
        ("2.", "", Hold.DOUBT, "2."),
        ("-", "", Hold.DOUBT, ""),
        ("It is $5", "It is", Hold.DOUBT, " $5"),
        ("R&D", "R", Hold.DOUBT, "&D"),
        ("Wow !", "Wow", Hold.DOUBT, " !"),
        ("a http", "a", Hold.DOUBT, " "),
        ("<think>so", "", Hold.NOTHING, ""),
        ("Use `code", "Use code", Hold.NOTHING, ""),
        ("Use `code`", "Use code", Hold.SURE, ""),
        ("Line.\n", "Line.\n", Hold.NOTHING, ""),
    ],
)
def test_what_is_held_and_what_a_pause_lets_go(raw: str, at_once: str, hold: Hold, after_a_pause: str) -> None:
    cleaner = Cleaner()
    assert said(cleaner.feed(raw)) == at_once
    assert cleaner.holding.hold is hold
    assert cleaner.holding.why
    assert said(cleaner.release()) == after_a_pause


def test_a_link_goes_on_after_a_pause_in_its_midst() -> None:
    cleaner = Cleaner()
    pieces = (
        cleaner.feed("See [the")
        + cleaner.release()
        + cleaner.feed(" docs](http://x")
        + cleaner.release()
        + cleaner.feed(".y), ok")
    )
    assert said(pieces) == "See the docs, ok"


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
