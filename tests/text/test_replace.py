"""Words to be said differently, found by a tree of characters."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from llm2ws.text.replace import half_pattern, whole_pattern

KEYS = st.lists(st.text(alphabet="ab_ +1", min_size=1, max_size=5), min_size=1, max_size=6, unique=True)
TEXT = st.text(alphabet="ab_ +1.", max_size=12)


def longest_key(keys: list[str], text: str, at: int) -> str | None:
    """The definition, one key after another."""

    def in_word(char: str) -> bool:
        return char == "_" or char.isalnum()

    for key in sorted(keys, key=len, reverse=True):
        before, after = text[:at][-1:], text[at + len(key) :][:1]
        starts = not (in_word(key[0]) and before and in_word(before))
        ends = not (in_word(key[-1]) and after and in_word(after))
        if text.startswith(key, at) and starts and ends:
            return key
    return None


@given(KEYS, TEXT)
@example(["a", "a b"], "a ba")
def test_the_longest_key_that_is_a_whole_word_is_found(keys: list[str], text: str) -> None:
    pattern = re.compile(whole_pattern(keys))
    for at in range(len(text) + 1):
        found = pattern.match(text, at)
        assert (found.group() if found else None) == longest_key(keys, text, at)


@given(KEYS, TEXT, TEXT)
def test_half_is_found_wherever_more_text_could_change_the_answer(keys: list[str], text: str, more: str) -> None:
    half = re.compile(half_pattern(keys))
    for at in range(len(text)):
        if half.match(text, at) is None:
            assert longest_key(keys, text, at) == longest_key(keys, text + more, at)


def test_without_keys_nothing_is_found() -> None:
    assert re.search(whole_pattern(()), "a") is None
    assert re.search(half_pattern(()), "a") is None
