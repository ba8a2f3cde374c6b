from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2ws.text.abbreviations import words_of
from llm2ws.text.boundaries import CANDIDATE, Verdict, View
from llm2ws.text.fragments import Hold
from llm2ws.text.stops import hold_of, judge

ENGLISH = words_of("en")


def last(text: str) -> tuple[View, int, Verdict]:
    view = View(text, 0, len(text), 0, ENGLISH)
    at = [found.start() for found in CANDIDATE.finditer(text)][-1]
    return view, at, judge(view, at)


@pytest.mark.parametrize(
    ("text", "hold"),
    [
        ("It is so.", Hold.CAPITAL),
        ("See Dr.", Hold.DOUBT),
        ("See U.S.", Hold.DOUBT),
        ("By J.", Hold.DOUBT),
        ("好。", Hold.SURE),
        ("<b", Hold.NOTHING),
    ],
)
def test_what_a_wait_holds(text: str, hold: Hold) -> None:
    view, at, verdict = last(text)
    assert verdict.hold is not None
    assert hold_of(view, at, verdict).hold is hold


@pytest.mark.parametrize("text", ["a.б", "Dr. S", "so. (a", "e.g. T", "1. A", "Well... it", "<b>.", "Yahoo! and "])
def test_no_wait_where_all_is_known(text: str) -> None:
    view = View(text, 0, len(text), 0, ENGLISH)
    at = next(found.start() for found in CANDIDATE.finditer(text))
    assert judge(view, at).hold is None


_WORDS = "Dr so no etc p.m U.S vol 3 2024 J 好 ไทย Then then I IV Monday iPhone τι"
_MARKS = '। . ... ! ? … 。 " ” » “ ( ) [1] 1) 2) <b> \\{ } 🎉 - — * ` ;'
_PARTS = st.sampled_from([*_WORDS.split(), *_MARKS.split(), " ", "  ", "\n"])


@given(parts=st.lists(_PARTS, min_size=1, max_size=10), origin=st.sampled_from([0, -1]))
@settings(max_examples=1500, deadline=None)
def test_a_longer_view_never_changes_a_verdict(parts: list[str], origin: int) -> None:
    text = "".join(parts)
    for found in CANDIDATE.finditer(text):
        at, settled = found.start(), None
        if text[at] == "\n":
            continue
        for end in range(at + 1, len(text) + 1):
            if text[at] not in ".!?…<\\。।" and end == at + 1:
                continue  # only a candidate before what follows it
            verdict = judge(View(text, 0, end, origin, ENGLISH), at)
            assert settled is None or verdict[:2] == settled[:2]
            settled = verdict if verdict.hold is None else settled
            assert settled is None or verdict.hold is None
