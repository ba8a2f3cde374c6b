"""What a program writes for a terminal, and what is left of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.sources.terminal import Terminal


def shown(*pieces: str) -> str:
    terminal = Terminal()
    return "".join(map(terminal.feed, pieces)) + terminal.finish()


SEQUENCES = {
    "a cursor that is hidden and shown": ("\x1b[?25l\x1b[?25hThis\x1b[?25l works.\x1b[?25h", "This works."),
    "a line that is wrapped": ("It uses qu\x1b[2D\x1b[K\nqubits. They are.", "It uses \nqubits. They are."),
    "colours": ("\x1b[1mBold\x1b[0m text. \x1b[38;5;82mGreen\x1b[m.", "Bold text. Green."),
    "a link": ("\x1b]8;;https://x.example\x1b\\docs\x1b]8;;\x1b\\ are here.", "docs are here."),
    "a title": ("\x1b]0;my shell\x07Ready.", "Ready."),
    "other escapes": ("\x1b(BOne\x1b7 two\x1b8\x1b= three\x1bc.", "One two three."),
    "backspaces": ("caf\b\b\b\x1b[Ktea, teh\b\bhe.", "tea, the."),
    "erasing to the right of the end": ("One\x1b[K two\x1b[0K.", "One two."),
    "moving elsewhere": ("One\x1b[2A two\x1b[5;1H three\x1b[1;2D.", "One two three."),
    "more than the last word": ("One two\x1b[9D\x1b[K three.", "One  three."),  # no more than that is taken back
    "an escape alone": ("One \x1b", "One "),
    "a string without end": ("\x1b]0;" + "One. " * 1000 + "Two.", "\x1b]0;" + "One. " * 1000 + "Two."),
    "no words between spaces": ("你好\x1b[0m。世界", "你好。世界"),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_a_terminal_would_show(name: str) -> None:
    written, text = SEQUENCES[name]
    assert shown(written) == text
    assert shown(*written) == text


@given(st.text(alphabet=st.sampled_from("ab .\n\x1b[]0;2DKm\x07\\\b你"), max_size=40), st.lists(st.integers(0, 40), max_size=5))
def test_cuts_do_not_matter(written: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(written)) for cut in cuts), len(written)]
    assert shown(*(written[a:b] for a, b in pairwise(edges))) == shown(written)


@given(st.text(alphabet=st.characters(exclude_characters="\x1b\b")))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert shown(*text) == text


def test_the_end_of_a_sentence_is_not_held_back() -> None:
    terminal = Terminal()
    assert [terminal.feed(piece) for piece in ("One", " two", ".", " Th", "ree")] == ["", "One ", "two.", " ", ""]
    assert terminal.finish() == "Three"
