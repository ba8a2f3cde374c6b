"""Where a repeat goes on: with equal takes, with takes that vary, with a real voice and the words that it tells of."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding, alaw, mulaw
from llm2ws.localspeech.engine import Engine
from llm2ws.speech.seam import EXACT_S, Envelope, Take, find_seam
from llm2ws.testing import Coding, Renderer, decode
from scripts.bench_seam import SPEEDS, guesses, real_cuts
from scripts.bench_seam import TEXT as REPLY

FORMAT = AudioFormat(sample_rate_hz=8_000)
TEXT = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. "
CODE: dict[Encoding, Callable[[bytes], bytes]] = {Encoding.LINEAR16: bytes, Encoding.MULAW: mulaw, Encoding.ALAW: alaw}


def speech(seed: int, *, lead_in_s: float = 0.2, stretch: float = 0.0) -> bytes:
    coding = Coding(char_samples=480, lead_in_s=lead_in_s, stretch=stretch)
    return Renderer(coding, FORMAT.sample_rate_hz, Random(seed)).say(TEXT)


def take(audio: bytes, fmt: AudioFormat = FORMAT, *, keep_s: float | None = None) -> Take:
    made = Take(fmt, keep_s=keep_s)
    made.feed(audio)
    return made


def joined(heard: bytes, repeat: bytes) -> str:
    seam = find_seam(take(heard, keep_s=EXACT_S), take(repeat), complete=True)
    assert seam is not None
    return decode(heard + repeat[seam.at_bytes :])


@settings(max_examples=60)
@given(st.integers(81, len(speech(1)) // 2 - 1), st.integers(0, 5))
def test_a_take_that_is_the_same_but_for_its_beginning_goes_on_to_the_sample(cut: int, seed: int) -> None:
    first = speech(1)
    if any(first[: 2 * (cut - FORMAT.sample_rate_hz // 100)]):  # before, and in a first step of 10 ms, nothing can be heard
        assert joined(first[: 2 * cut], speech(seed)) == TEXT.strip()


@settings(max_examples=60)
@given(st.floats(0.05, 0.99), st.integers(0, 50), st.sampled_from((0.02, 0.08)))
def test_a_take_that_varies_loses_no_word(share: float, seed: int, stretch: float) -> None:
    first = speech(seed, stretch=stretch)
    cut = round(share * len(first) / 2) * 2
    words, here, said = TEXT.split(), 0, joined(first[:cut], speech(seed + 1, stretch=stretch)).split()
    for word in said:
        here += here < len(words) and word == words[here]
    assert here == len(words)
    assert len(said) - here <= 1


@pytest.mark.parametrize("encoding", Encoding)
def test_every_encoding_is_listened_to(encoding: Encoding) -> None:
    fmt = AudioFormat(encoding, 8_000)
    loud = b"".join((9_000 * (-1) ** n if n % 4_000 < 2_400 else 0).to_bytes(2, "little", signed=True) for n in range(16_000))
    first = CODE[encoding](loud)
    seam = find_seam(take(first[: 3 * len(first) // 4], fmt), take(first, fmt), complete=True)
    assert seam is not None
    assert abs(seam.at_bytes - 3 * len(first) // 4) <= fmt.bytes_for(0.3)
    assert len(Envelope(fmt).pauses()) == 0
    assert len(take(first, fmt).envelope.pauses()) >= 3


@given(st.binary(max_size=4_000), st.lists(st.integers(0, 4_000), max_size=8))
def test_an_envelope_does_not_depend_on_how_audio_is_cut(data: bytes, places: list[int]) -> None:
    whole, parts = Envelope(FORMAT), Envelope(FORMAT)
    whole.feed(data)
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    for begin, end in pairwise(edges):
        parts.feed(data[begin:end])
    assert whole.steps == parts.steps
    assert all(math.isfinite(step) for step in whole.steps)


@settings(max_examples=40)
@given(st.binary(min_size=2, max_size=40_000), st.binary(max_size=40_000))
def test_any_two_takes_have_an_answer_in_the_end(heard: bytes, repeat: bytes) -> None:
    first, second = take(heard[: len(heard) & ~1]), take(repeat[: len(repeat) & ~1])
    seam = find_seam(first, second, complete=True)
    assert seam is not None
    assert 0 <= seam.at_bytes <= len(second.data)
    assert seam.at_bytes % 2 == 0
    assert 0.0 <= seam.confidence <= 1.0
    assert seam.overlap_s >= 0.0


def test_too_little_of_a_repeat_has_no_answer_yet() -> None:
    heard = speech(1, stretch=0.08)[:32_000]
    assert find_seam(take(heard), take(speech(2, stretch=0.08)[:20_000]), complete=False) is None
    assert find_seam(take(heard), take(speech(2, stretch=0.08)[:42_000]), complete=False) is not None


def test_when_only_silence_was_heard_all_is_said() -> None:
    seam = find_seam(take(bytes(8_000)), take(b""), complete=False)
    assert seam is not None
    assert (seam.at_bytes, seam.confidence) == (0, 1.0)


def test_another_text_is_no_match_and_is_repeated_rather_than_lost() -> None:
    noise = Random(1).randbytes(32_000)
    seam = find_seam(take(speech(1)[:32_000]), take(noise), complete=True)
    assert seam is not None
    assert seam.confidence < 0.5
    assert seam.at_bytes < 32_000 - FORMAT.bytes_for(0.36)


async def test_a_real_voice_goes_on_where_it_broke_off_by_the_words_that_it_tells_of() -> None:
    async with Engine() as engine:
        for speed in SPEEDS[:3]:
            done = await real_cuts(engine, speed, every_s=0.23)
            again = sorted(cut.cut_s - cut.goes_on_s for cut in done)
            assert len(again) > 80
            assert again[0] > -0.15  # less than half of a word is left out at any place
            # Words that run together are repeated together: there is no pause in front of the last one.
            assert again[95 * len(again) // 100] < 0.6
            assert again[-1] < 1.1
            words = sorted(cut.twice for cut in done)
            assert words[len(words) // 2] <= 1
            assert words[-1] <= 5


async def test_what_was_heard_is_told_to_the_word_or_to_400_ms() -> None:
    async with Engine() as engine:
        done = await guesses(engine, REPLY)
    assert len(done) > 400
    within = [guess.words <= 1 or guess.error_s <= 0.4 for guess in done]
    assert sum(within) >= 0.95 * len(within)
    errors = sorted(guess.error_s for guess in done)
    assert errors[len(errors) // 2] < 0.3
