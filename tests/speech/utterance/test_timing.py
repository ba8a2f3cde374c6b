from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.speech.messages import Word
from llm2ws.speech.utterance.timing import Known, Mark, cut_raw, find_words, resume_at, time_of, word_end

TEXT = "Hello, my “old” friend. It's 5 pm in well-known Zürich! "


def spoken(text: str, *, letter_s: float = 0.1, start_s: float = 0.0) -> list[Word]:
    """Each word of a text, each character so long, with spaces in between."""
    words, at_s = [], start_s
    for word in text.split():
        words.append(Word(word, at_s, at_s + len(word) * letter_s))
        at_s += (len(word) + 1) * letter_s
    return words


def found(words: list[Word], text: str = TEXT) -> list[str]:
    return [text[mark.begin : mark.end] for mark in find_words(words, text, None, 0.0)]


def test_words_are_found_by_their_letters() -> None:
    assert found(spoken(TEXT)) == ["Hello", "my", "old", "friend", "It's", "5", "pm", "in", "well-known", "Zürich"]
    other = found(spoken("HELLO my old friend its 5pm in wellknown zürich"))
    assert other == ["Hello", "my", "old", "friend", "It's", "5 pm", "in", "well-known", "Zürich"]


def test_what_is_not_in_the_text_is_passed_over() -> None:
    assert found(spoken("Hello um my – five pm Zürich")) == ["Hello", "my", "pm", "Zürich"]
    assert found([Word("", 0.0, 1.0), Word("…", 0.0, 1.0)]) == []


def test_parts_of_a_word_follow_one_another() -> None:
    words = [Word("Hel", 0.0, 0.3), Word("lo,", 0.3, 0.6), Word("m", 0.7, 0.8), Word("y", 0.8, 0.9)]
    marks = find_words(words, TEXT, None, 2.0)
    assert [TEXT[mark.begin : mark.end] for mark in marks] == ["Hel", "lo", "m", "y"]
    assert marks[1].end_s == pytest.approx(2.5)  # without its comma
    assert [TEXT[mark.begin : mark.end] for mark in find_words([Word("“old”", 1.0, 1.5)], TEXT, marks[-1], 2.0)] == ["old"]


def test_times_never_go_back() -> None:
    words = [Word("Hello", 1.0, 2.0), Word("my", 0.5, 0.6), Word("old", 1.5, 2.5)]
    times = [(mark.start_s, mark.end_s) for mark in find_words(words, TEXT, None, 0.0)]
    assert times == [(1.0, 2.0), (2.0, 2.0), (2.0, 2.5)]


def test_when_a_text_begins() -> None:
    marks = [Mark(0, 5, 0.5, 1.0), Mark(11, 14, 2.0, 2.3)]
    assert time_of([], 10, 0.1) == 1.0
    assert time_of(marks, 0, 0.1) == 0.5
    assert time_of(marks, 10, 0.1) == 2.0  # a quote in front of it
    assert time_of(marks, 7, 0.1) == pytest.approx(1.2)
    assert time_of(marks, 24, 0.1) == pytest.approx(3.3)


def test_a_place_in_the_models_own_words() -> None:
    raw, said = "## A *bold* [link](http://x.y/z), `end`.\n", "A bold link, end. "
    cuts = [raw[: cut_raw(said, at, raw)] for at in range(len(said) + 1)]
    assert cuts == [
        "",
        *["## A "] * 5,
        *["## A *bold* "] * 6,
        *["## A *bold* [link](http://x.y/z), "] * 5,
        *[raw] * 2,
    ]


def test_the_end_of_a_word_is_behind_its_marks() -> None:
    assert TEXT[: word_end(TEXT, 5)] == "Hello,"
    assert TEXT[: word_end(TEXT, len(TEXT) - 2)] == TEXT.rstrip()


def test_a_repeat_goes_on_where_the_listener_was() -> None:
    def goes_on(heard: list[Mark], repeat: list[Mark], at_s: float, *, told: bool) -> tuple[float, Known] | None:
        place = resume_at(heard, repeat, at_s, told=told)
        return place and (round(place.at_s, 6), place.known)

    heard = [Mark(0, 5, 0.0, 1.0), Mark(7, 9, 1.5, 2.0)]
    repeat = [Mark(0, 5, 0.2, 0.8), Mark(7, 9, 1.2, 1.8), Mark(11, 14, 2.0, 3.0)]
    assert goes_on(heard, repeat, 0.5, told=True) == (0.5, Known.WORD)
    assert goes_on(heard, repeat, 1.2, told=True) == (1.0, Known.PAUSE)
    assert goes_on(heard, repeat, 1.4, told=True) == (1.2, Known.PAUSE)
    assert goes_on(heard, repeat, 2.1, told=True) == (1.9, Known.PAUSE)
    assert goes_on(heard, repeat, 2.4, told=True) == (2.0, Known.PAUSE)  # before the next word
    assert goes_on(heard, repeat, 2.4, told=False) == (2.2, Known.NOTHING)
    assert goes_on(heard, repeat, 9.0, told=False) is None
    assert goes_on(heard, repeat[:1], 1.7, told=True) is None  # that word has not come yet
    assert goes_on(heard, repeat[:2], 2.1, told=True) is None
    assert goes_on([Mark(0, 5, 0.3, 1.0)], repeat, 0.1, told=True) == (0.1, Known.PAUSE)
    assert goes_on(heard, [], 0.5, told=True) is None


@given(st.floats(0.0, 7.0), st.floats(0.5, 2.0), st.lists(st.booleans(), min_size=40, max_size=40))
def test_the_place_does_not_depend_on_how_words_come_in_parts(at_s: float, speed: float, cuts: list[bool]) -> None:
    def parts(letter_s: float) -> list[Word]:
        words: list[Word] = []
        for n, word in enumerate(spoken(TEXT, letter_s=letter_s)):
            at = len(word.text) // 2 if cuts[n] else 0
            middle_s = word.start_s + at * letter_s
            halves = [Word(word.text[:at], word.start_s, middle_s), Word(word.text[at:], middle_s, word.end_s)]
            words += [half for half in halves if half.text]
        return words

    heard = find_words(spoken(TEXT), TEXT, None, 0.0)
    place = resume_at(
        [mark for mark in heard if mark.start_s <= at_s], find_words(parts(0.1 / speed), TEXT, None, 0.0), at_s, told=True
    )
    if place is not None and place.known is Known.WORD:
        assert place.at_s == pytest.approx(at_s / speed, abs=1e-6)
