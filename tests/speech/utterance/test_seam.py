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
from llm2ws.speech.utterance.seam import EXACT_S, Envelope, Repeat, Seam, Take
from llm2ws.testing import Coding, Renderer, decode
from scripts.bench_seam import SPEEDS, compare, guesses, real_cuts
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


def place(heard: Take, *repeat: bytes) -> Seam:
    """Where a repeat that comes in these parts goes on."""
    sought = Repeat(heard)
    return next((seam for part in repeat if (seam := sought.feed(part))), None) or sought.finish()


def joined(heard: bytes, repeat: bytes) -> str:
    seam = place(take(heard, keep_s=EXACT_S), repeat)
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
    seam = place(take(first[: 3 * len(first) // 4], fmt), first)
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
    repeat = repeat[: len(repeat) & ~1]
    seam = place(take(heard[: len(heard) & ~1]), repeat)
    assert 0 <= seam.at_bytes <= len(repeat)
    assert seam.at_bytes % 2 == 0
    assert 0.0 <= seam.confidence <= 1.0
    assert seam.overlap_s >= 0.0


def test_too_little_of_a_repeat_has_no_answer_yet() -> None:
    repeat, again = Repeat(take(speech(1, stretch=0.08)[:32_000])), speech(2, stretch=0.08)
    assert repeat.feed(again[:20_000]) is None
    assert repeat.feed(again[20_000:42_000]) is not None


@settings(max_examples=20)
@given(st.integers(8_000, 40_000), st.sampled_from((0.0, 0.02, 0.08)), st.integers(1, 3_000))
def test_the_place_does_not_depend_on_how_the_repeat_comes(cut: int, stretch: float, n_samples: int) -> None:
    heard, again = take(speech(1, stretch=stretch)[: 2 * cut], keep_s=EXACT_S), speech(2, stretch=stretch)
    parts = [again[at : at + 2 * n_samples] for at in range(0, len(again), 2 * n_samples)]
    assert place(heard, *parts) == place(heard, again)


def test_the_place_is_told_before_the_repeat_has_come_as_far_as_it_may_have_to() -> None:
    """Of a repeat that is as fast, a quarter of a second after it; not after all by which it could be slower."""
    heard, again = speech(1, stretch=0.02)[:64_000], speech(3, stretch=0.02)
    repeat = Repeat(take(heard, keep_s=EXACT_S))
    at = next(at for at in range(0, len(again), 160) if repeat.feed(again[at : at + 160]))
    assert at <= 64_000 + FORMAT.bytes_for(0.25 + 0.2)


def test_a_word_that_had_hardly_begun_is_not_lost() -> None:
    """Less than a step of it was heard: it is the same as none, and as the pause behind it."""
    text = "The sky is blue and it is up. "
    coding = Coding(char_samples=480, lead_in_s=0.2, stretch=0.02)
    for seed in range(12):
        first, second = (Renderer(coding, FORMAT.sample_rate_hz, Random(f"{seed} {n}")).say(text) for n in (1, 2))
        for begin in (at for at in range(2, len(first), 2) if any(first[at : at + 2]) and not any(first[at - 2 : at])):
            for samples in (1, 20, 79):
                heard = first[: begin + 2 * samples]
                said = decode(heard + second[place(take(heard, keep_s=EXACT_S), second).at_bytes :])
                assert compare(said, text.strip())[0] == 0, (seed, said)


def test_when_only_silence_was_heard_all_is_said() -> None:
    seam = Repeat(take(bytes(8_000))).feed(b"")
    assert seam is not None
    assert (seam.at_bytes, seam.confidence) == (0, 1.0)


def test_another_text_is_no_match_and_is_repeated_rather_than_lost() -> None:
    noise = Random(1).randbytes(32_000)
    seam = place(take(speech(1)[:32_000]), noise)
    assert seam.confidence < 0.5
    assert seam.at_bytes < 32_000 - FORMAT.bytes_for(0.36)


async def test_a_real_voice_goes_on_where_it_broke_off_by_the_words_that_it_tells_of() -> None:
    async with Engine() as engine:
        for speed in SPEEDS[:3]:
            done = await real_cuts(engine, speed, every_s=0.23)
            again = sorted(cut.cut_s - cut.goes_on_s for cut in done)
            assert len(again) > 80
            assert max(cut.skipped_s for cut in done) <= 0.03
            assert again[95 * len(again) // 100] < 0.3
            assert again[-1] < 0.8
            words = sorted(cut.twice for cut in done)
            assert words[95 * len(words) // 100] <= 1
            assert words[-1] <= 2


async def test_what_was_heard_is_told_to_the_word_or_to_400_ms() -> None:
    async with Engine() as engine:
        done = await guesses(engine, REPLY)
    assert len(done) > 400
    within = [guess.words <= 1 or guess.error_s <= 0.4 for guess in done]
    assert sum(within) >= 0.95 * len(within)
    errors = sorted(guess.error_s for guess in done)
    assert errors[len(errors) // 2] < 0.3
