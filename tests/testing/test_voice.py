from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.testing import Coding, Renderer, decode
from tests.testing.client import QUICK

WORDS = st.text(st.characters(max_codepoint=0x7FFE, exclude_categories=("C", "Z")), min_size=1, max_size=12)


@given(st.lists(st.lists(WORDS, min_size=1), max_size=4), st.sampled_from([0.0, 0.02, 0.08]), st.integers())
def test_audio_tells_its_text_whatever_its_stretch(groups: list[list[str]], stretch: float, seed: int) -> None:
    coding = Coding(char_samples=25, word_pause_s=0.001, sentence_pause_s=0.002, lead_in_s=0.003, stretch=stretch)
    renderer = Renderer(coding, 8_000, Random(seed))
    pcm = b"".join(renderer.say(" ".join(words) + " ") for words in groups)
    assert decode(pcm) == " ".join(word for words in groups for word in words)


@given(WORDS, st.integers(0, 12))
def test_a_word_said_in_two_groups_is_one_word(word: str, at: int) -> None:
    renderer = Renderer(QUICK, 8_000, Random(0))
    assert decode(b"".join(renderer.say(part) for part in (word[:at], word[at:]) if part)) == word


def test_pauses_and_stretch_have_the_documented_lengths() -> None:
    def seconds(text: str, seed: int = 0, **coding: float) -> float:
        return len(Renderer(Coding(**coding), 24_000, Random(seed)).say(text)) / 48_000  # type: ignore[arg-type]

    assert seconds("ab c", lead_in_s=0) == pytest.approx(3 * 24 / 24_000 + 0.06, abs=1e-4)
    assert seconds("ab. c", lead_in_s=0) == pytest.approx(4 * 24 / 24_000 + 0.25, abs=1e-4)
    stretched = {seconds("x" * 100, seed, lead_in_s=0, char_samples=100, stretch=0.08) for seed in range(20)}
    assert {round(s * 24_000 / 10_000, 2) for s in stretched} == {0.92, 1.0, 1.08}
    leads = {seconds("x", seed) for seed in range(20)}
    assert len(leads) == 20
    assert max(leads) < 0.202


@given(st.lists(WORDS, max_size=3), st.integers(), st.integers())
def test_without_stretch_and_lead_in_a_repeat_is_the_same_whatever_came_before(before: list[str], one: int, other: int) -> None:
    coding = Coding(char_samples=4, lead_in_s=0.0)
    fresh, used = Renderer(coding, 8_000, Random(one)), Renderer(coding, 8_000, Random(other))
    used.say("".join(f"{word} " for word in before))
    assert used.say("Again, odd. ") == fresh.say("Again, odd. ")


def test_half_a_sample_is_no_audio() -> None:
    with pytest.raises(ValueError, match="half a sample"):
        decode(b"\1\0\1")
