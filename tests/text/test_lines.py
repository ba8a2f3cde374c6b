from __future__ import annotations

import pytest

from llm2ws.text.abbreviations import words_of
from llm2ws.text.boundaries import View
from llm2ws.text.lines import Line, judge_line, line_kind

_FULL = "a line of text that an editor has wrapped at some seventy columns or so"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("# Title", Line(closed=True, item=False, fence="")),
        ("#hashtag", Line(closed=False, item=False, fence="")),
        ("| a | b |", Line(closed=True, item=False, fence="")),
        ("  - item", Line(closed=False, item=True, fence="")),
        ("> 12. item", Line(closed=False, item=True, fence="")),
        ("a) item", Line(closed=False, item=True, fence="")),
        ("```python", Line(closed=True, item=False, fence="```")),
        ("~~~", Line(closed=True, item=False, fence="~~~")),
        ("```code``` here", Line(closed=False, item=False, fence="")),
        ("-5 degrees", Line(closed=False, item=False, fence="")),
        ("1984 was", Line(closed=False, item=False, fence="")),
    ],
)
def test_kinds_of_lines(line: str, kind: Line) -> None:
    assert line_kind(line, 0, len(line)) == kind


@pytest.mark.parametrize(
    ("line", "following", "ends"),
    [
        ("# Title", "", True),
        ("Short line", "", None),
        ("Short line", "Another", True),
        ("Short line", "goes on", False),
        ("short line", "", True),
        ("Here it comes:", "", True),
        (_FULL, "", None),
        (_FULL, "and goes on", False),
        (_FULL, "Copenhagen", False),
        (_FULL, "- item", True),
        (_FULL, "-", None),
        (_FULL, "\n", True),
        (_FULL + ".", "Next", True),
        (_FULL + ".", "next", False),
        ("- " + _FULL, "Next", True),
        ("- " + _FULL, "  next", False),
        (_FULL + _FULL, "next", True),
        ("---", "Next", False),
    ],
)
def test_structure_or_soft_wrap(line: str, following: str, ends: bool | None) -> None:
    text = f"{line}\n{following}"
    verdict = judge_line(View(text, 0, len(text), 0, words_of("en")), len(line), len(line), line_kind(line, 0, len(line)))
    assert (None if verdict.hold is not None else verdict.boundary is not None) is ends
    if ends:
        assert verdict.at == len(line)
