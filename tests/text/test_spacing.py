"""Spaces around what was dropped."""

from __future__ import annotations

import pytest

from llm2ws.text.fragments import Piece
from llm2ws.text.spacing import Said


def spoken(raw: str) -> str:
    """Says the text; # is dropped, @ is dropped and held words apart."""
    said = Said()
    for place, char in enumerate(raw):
        if char in "#@":
            said.drop(apart=char == "@")
        elif char == "\n":
            said.put(char, place, place + 1)
        else:
            said.say(char, place)
    said.settle()
    return "".join(piece.text for piece in said.take())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a b", "a b"),
        ("a # b", "a b"),
        ("a #b", "a b"),
        ("a# b", "a b"),
        ("a#b", "ab"),
        ("a@b", "a b"),
        ("a.@b", "a. b"),
        ("a@,b", "a,b"),
        ("a #!", "a!"),
        ("a # !", "a!"),
        ("a !", "a !"),
        ("# a", "a"),
        ("a #\nb", "a\nb"),
        ("a\n# b", "a\nb"),
        ("a # # b", "a b"),
        ("a  ", "a  "),
        ("a #", "a"),
        ("  a", "  a"),
    ],
)
def test_spaces_are_mended(raw: str, expected: str) -> None:
    assert spoken(raw) == expected


def test_spaces_at_the_end_wait_for_what_comes_next() -> None:
    said = Said()
    said.say("a ", 0)
    assert said.take() == [Piece("a", 0, 1)]
    assert said.waits
    said.say("b", 2)
    assert said.take() == [Piece(" b", 1, 3)]
    assert not said.waits


def test_a_space_before_what_opens_stays() -> None:
    said = Said()
    said.say("a ", 0)
    said.open()
    said.drop()
    said.say(".env", 3)
    assert said.take() == [Piece("a", 0, 1), Piece(" ", 1, 2), Piece(".env", 3, 7)]


def test_a_paragraph_begins_once() -> None:
    said = Said()
    said.new_paragraph(0)
    assert said.take() == []
    said.say("a", 0)
    said.new_paragraph(1)
    said.new_paragraph(1)
    assert said.take() == [Piece("a", 0, 1), Piece("\n\n", 1, 1)]
