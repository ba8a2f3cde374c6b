from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llm2ws.text.abbreviations import words_of
from llm2ws.text.boundaries import View
from llm2ws.text.stop_kinds import kind_of_word
from llm2ws.text.stops import _is_ordinary_word

ENGLISH = words_of("en")
_LETTERS = st.text(st.sampled_from("aeinrstXIVxivÄßиեր'."), min_size=1, max_size=8)


@given(
    before=st.sampled_from(["", "z. ", "5 ", "- ", "at the "]), word=_LETTERS | st.sampled_from(sorted(ENGLISH.abbreviations))
)
@settings(max_examples=1000, deadline=None)
def test_a_word_is_taken_for_ordinary_at_first_sight_only_if_a_closer_look_agrees(before: str, word: str) -> None:
    text = f"{before}{word}. The"
    at = len(before + word)
    if _is_ordinary_word(text, 0, at, ENGLISH):
        assert kind_of_word(View(text, 0, len(text), 0, ENGLISH), at) == "sure"
