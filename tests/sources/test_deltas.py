"""What is new in each output, whichever way a server tells it."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import SourceError
from llm2ws.sources.deltas import Deltas, Finals

TOKENS = st.lists(st.text(alphabet="ab 1", max_size=3), max_size=10)


def told(*outputs: str, cumulative: bool | None) -> str:
    deltas = Deltas(cumulative=cumulative)
    return "".join(map(deltas.feed, outputs)) + deltas.finish()


@given(TOKENS)
def test_what_is_known_to_be_one_way_is_read_so(tokens: list[str]) -> None:
    assert told(*tokens, cumulative=False) == "".join(tokens)
    assert told(*accumulate(tokens), cumulative=True) == "".join(tokens)


@given(st.lists(st.text(alphabet="ab 1", min_size=1, max_size=3), max_size=10))
def test_a_cumulative_answer_is_told_apart(tokens: list[str]) -> None:
    assert told(*accumulate(tokens), cumulative=None) == "".join(tokens)


@given(st.text(min_size=1), st.lists(st.text()))
def test_other_answers_are_told_apart_where_a_token_does_not_begin_with_the_one_before(first: str, rest: list[str]) -> None:
    tokens = [first, *(text for text in rest if text)]
    for index in range(1, len(tokens)):
        if tokens[index].startswith(tokens[index - 1]):
            tokens[index] = ("b" if tokens[index - 1].startswith("a") else "a") + tokens[index]

    assert told(*tokens, cumulative=None) == "".join(tokens)


@pytest.mark.parametrize(
    ("outputs", "texts"),
    [
        (["One", " two", " three"], ["One", " two", " three"]),
        (["One", "One two", "One two three"], ["One", "", " two three"]),  # known from the second that grew
        (["One", "One two", "One two three", "One two three four"], ["One", "", " two three", " four"]),
        (["1", "10", " m"], ["1", "", "10 m"]),  # it was "110 m"
        (["", "One", "", " two"], ["", "One", "", " two"]),  # nothing is new in nothing
        (["ha", "ha", "ha", "!"], ["ha", "", "", "haha!"]),
    ],
)
def test_what_is_given_when(outputs: list[str], texts: list[str]) -> None:
    deltas = Deltas(cumulative=None)

    assert [deltas.feed(output) for output in outputs] == texts


def test_what_was_held_back_comes_at_the_end() -> None:
    assert told("One", "One two", cumulative=None) == "One two"
    assert told("ha", "ha", cumulative=None) == "haha"


def test_half_a_character_is_not_said() -> None:
    assert told("caf\ufffd", "café", "café \ufffd\ufffd", "café 🎉", cumulative=True) == "café 🎉"


def test_what_is_taken_back() -> None:
    assert told("One two", "One", "One two!", cumulative=True) == "One two!"  # as models with stop words do
    with pytest.raises(SourceError, match="took back what it had said"):
        told("One two", "One three", cumulative=True)


MESSAGES = st.lists(st.lists(st.text(alphabet="ab. ", min_size=1, max_size=4), min_size=1, max_size=4), max_size=4)
LEVELS = ("text", "part", "item")


@given(MESSAGES, st.data())
def test_what_comes_in_deltas_and_again_in_final_objects_is_given_once(messages: list[list[str]], data: st.DataObject) -> None:
    """Each message comes in as many deltas as the server likes, the rest of it in one final object at least."""
    finals = Finals()
    given = ""
    levels = [level for level in LEVELS if data.draw(st.booleans(), label=level)]
    for number, tokens in enumerate(messages):
        key = number if data.draw(st.booleans(), label="has a number") else 0
        for token in tokens[: data.draw(st.integers(0, len(tokens)), label="deltas")] if levels else tokens:
            finals.delta(token, key)
            given += token
        for level in levels:
            given += finals.rest("".join(tokens), key, level)
    for number, tokens in enumerate(messages):
        given += finals.rest("".join(tokens), number, "response")

    assert given == "".join(map("".join, messages))


@pytest.mark.parametrize(
    ("deltas", "texts", "rests"),
    [
        ([], ["One.", "One."], ["One.", "One."]),  # the same twice in an answer
        (["One. ", "Two."], ["One. Two."], [""]),
        (["One. "], ["One. Two."], ["Two."]),
        ([" One. "], ["One."], [""]),  # white space is not the same everywhere
        (["\nOne."], ["One. Two."], [" Two."]),
        (["One [1]."], ["One."], [""]),  # with changes: what was said is not said again
        (["A draft. ", "One."], ["One.", "Two."], ["", "Two."]),
    ],
)
def test_what_is_new_in_final_texts(deltas: list[str], texts: list[str], rests: list[str]) -> None:
    finals = Finals()
    for text in deltas:
        finals.delta(text)

    assert [finals.rest(text, index, "item") for index, text in enumerate(texts)] == rests


def test_a_message_that_comes_only_in_a_final_object_is_not_lost_before_one_that_came() -> None:
    finals = Finals()
    finals.delta("Two.", 1)

    assert [finals.rest(text, index, "response") for index, text in enumerate(["One.", "Two."])] == ["One.", ""]


def test_the_whole_answer_may_come_again_and_again() -> None:
    finals = Finals()

    assert [finals.rest(text) for text in ("One.", "One. Two.", "One. Two.")] == ["One.", " Two.", ""]
