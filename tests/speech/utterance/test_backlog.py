from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.speech.utterance.backlog import Backlog
from llm2ws.text.fragments import Boundary, Fragment


def fragments(*texts: str, boundary: Boundary = Boundary.SENTENCE) -> list[Fragment]:
    return [Fragment(index, text, 0, len(text), boundary, "a test") for index, text in enumerate(texts)]


def texts_of(backlog: Backlog) -> list[str]:
    """All that there is, taken one by one."""
    chars, texts = backlog.chars, list[str]()
    while backlog.texts:
        texts.append(backlog.pop().text)
    assert (sum(map(len, texts)), backlog.chars) == (chars, 0)
    return texts


@pytest.mark.parametrize(
    ("given_", "spoken", "left"),
    [
        (["Hello.", " And  you?\n"], ["Hello. ", "And you? "], 0),
        (["— ", "Yes."], ["— Yes. "], 0),
        (["Yes.", " —"], ["Yes. — "], 0),  # joined while its neighbour waits
        (["..."], [], 3),
        ([" \n "], [], 0),
        (["", "a"], ["a "], 0),
        ([], [], 0),
        (["1"], ["1 "], 0),
        (["a\x00b\x1b[0m"], ["a b [0m "], 0),
        (["\ud83d\ude00 hi \ud800"], ["\U0001f600 hi "], 0),
    ],
)
def test_what_is_sent_for_what_was_cut(given_: list[str], spoken: list[str], left: int) -> None:
    backlog = Backlog()
    for fragment in fragments(*given_):
        backlog.add(fragment)
    backlog.finish(joinable=False)
    assert (texts_of(backlog), backlog.left_out_chars) == (spoken, left)


def test_a_cut_within_a_word_gets_no_separator() -> None:
    backlog = Backlog()
    for fragment in fragments("unbeliev", "able", " things", boundary=Boundary.LENGTH):
        backlog.add(fragment)
    for fragment in fragments(" end."):
        backlog.add(fragment)
    backlog.finish(joinable=False)
    assert "".join(texts_of(backlog)) == "unbelievable things end. "


@given(st.lists(st.text("ab.—\n ", max_size=6), max_size=8))
def test_exact_texts_are_exact(texts: list[str]) -> None:
    backlog = Backlog(exact=True)
    for fragment in fragments(*texts, boundary=Boundary.WORD):
        backlog.add(fragment)
    backlog.finish(joinable=False)
    whole, spoken = "".join(texts), "".join(texts_of(backlog))
    assert whole.startswith(spoken)
    assert not any(map(str.isalnum, whole[len(spoken) :]))


@given(
    st.lists(
        st.tuples(st.text("ab.— ", min_size=1, max_size=6), st.sampled_from([Boundary.SENTENCE, Boundary.LENGTH])), max_size=8
    )
)
def test_texts_joined_are_the_words(parts: list[tuple[str, Boundary]]) -> None:
    backlog, expected = Backlog(), ""
    for text, boundary in parts:
        backlog.add(Fragment(0, text, 0, len(text), boundary, ""))
        expected += text if boundary is Boundary.LENGTH else text + " "
    backlog.finish(joinable=False)
    texts = texts_of(backlog)
    spoken, words = "".join(texts).split(), expected.split()
    assert spoken == words[: len(spoken)]
    assert not any(map(str.isalnum, "".join(words[len(spoken) :])))
    assert all(any(map(str.isalnum, text)) for text in texts)


def test_no_text_is_longer_than_an_endpoint_takes() -> None:
    backlog = Backlog(max_chars=100)
    whole = "word " * 50 + "x" * 250 + " end."
    for fragment in fragments("-" * 500, whole):
        backlog.add(fragment)
    backlog.finish(joinable=False)
    texts = texts_of(backlog)
    assert max(map(len, texts)) <= 100
    assert "".join(texts).split() == whole.split()


def test_what_was_taken_can_be_put_back() -> None:
    backlog = Backlog()
    for fragment in fragments("One.", "Two.", "Three."):
        backlog.add(fragment)
    backlog.put_back([backlog.pop(), backlog.pop()])
    assert texts_of(backlog) == ["One. ", "Two. ", "Three. "]


def test_marks_that_nothing_follows_are_left_out() -> None:
    backlog = Backlog()
    for text in ("One.", "—"):
        backlog.add(fragments(text)[0])
        taken = backlog.pop() if text == "One." else None
        assert taken is None or taken.text == "One. "
    backlog.finish(joinable=True)  # with what was sent before
    assert backlog.chars == 2
    backlog.drop_unspeakable()
    assert (texts_of(backlog), backlog.left_out_chars) == ([], 1)
