from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat
from llm2ws.speech.utterance.heard import Heard, Saying, Spoken, Stretch
from llm2ws.speech.utterance.utterance import Utterance
from llm2ws.text.fragments import Boundary, Fragment

FORMAT = AudioFormat(sample_rate_hz=8_000)


def spoken(*groups: tuple[str, float], extra: str = "") -> Spoken:
    """What an Utterance says it spoke: texts, each a group with so many seconds of audio."""
    utterance, at = Utterance(FORMAT), 0
    for index, (text, seconds) in enumerate(groups):
        utterance.add(Fragment(index, text, at, at + len(text), Boundary.SENTENCE, ""))
        at += len(text)
        utterance.say()
        utterance.flush()
        utterance.received(b"\x01" * FORMAT.bytes_for(seconds))
        utterance.acked()
    if not extra:
        utterance.finish()
    return utterance.spoken("".join(text for text, _ in groups) + extra)


def test_ends_of_groups_are_exact() -> None:
    told = spoken(("One two.", 1.0), (" Three four.", 3.0), extra=" And")
    assert told.split(1.0) == Heard("One two.", " Three four. And", 0.0)
    assert told.split(4.0) == Heard("One two. Three four.", " And", 0.0)
    assert told.split(0.0) == Heard("", "One two. Three four. And", 0.0)
    assert told.seconds == pytest.approx(4.0)


def test_what_was_heard_to_its_end_was_heard_whole() -> None:
    told = spoken(("One two.", 1.0), (" Three.  ", 1.0))
    assert told.complete
    assert told.split(2.0) == Heard("One two. Three.  ", "", 0.0)
    assert told.split(99.0).unheard == ""


def test_a_cut_within_a_group_is_between_two_words_and_says_how_sure_it_is() -> None:
    told = spoken(("One two three four five six seven eight nine ten.", 5.0), extra=" more")
    half = told.split(2.5)
    assert half.heard.split() in (told.text.split()[:4], told.text.split()[:5], told.text.split()[:6])
    assert 0.1 < half.error_s <= 0.5
    assert told.split(0.2).error_s < half.error_s


def test_a_text_that_stands_for_something_else_is_not_divided_beyond_its_span() -> None:
    told = Spoken(
        "see [x](https://example.org) now", (Stretch(0.0, 2.0, (Saying("see example.org now ", 0, 32, 0.0),)),), complete=False
    )
    for tenth in range(21):
        heard, unheard, _ = told.split(tenth / 10)
        assert heard + unheard == told.text


def test_nothing_was_said() -> None:
    assert spoken().split(1.0) == Heard("", "", 0.0)
    assert Spoken("text", (), complete=False).split(3.0) == Heard("", "text", 0.0)
    assert Spoken("text", (), complete=False).seconds == 0.0


TEXT = st.text("ab .,é—", min_size=1, max_size=20).filter(lambda text: any(map(str.isalnum, text)))


@given(
    st.lists(st.tuples(TEXT, st.floats(0.01, 5)), min_size=1, max_size=5), st.lists(st.floats(-1, 30), min_size=2, max_size=8)
)
def test_heard_and_unheard_are_the_text_and_more_is_heard_later(groups: list[tuple[str, float]], places: list[float]) -> None:
    told, before = spoken(*groups, extra=" rest"), ""
    ends = {0, *accumulate(len(text) for text, _ in groups)}
    for place in sorted(places):
        heard, unheard, error_s = told.split(place)
        assert heard + unheard == told.text
        assert heard.startswith(before)
        assert 0.0 <= error_s <= 1.0
        if len(heard) not in ends:  # between two words
            assert not heard or not unheard or heard[-1].isspace() or unheard[0].isspace()
        before = heard
