"""What the Cleaner's state holds, and what a pause of the model lets go."""

from __future__ import annotations

import pytest

from llm2ws.text.cleaner import Cleaner
from llm2ws.text.fragments import Hold
from tests.text.corpus import said


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
