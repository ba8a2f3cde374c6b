"""How long a listener waits and how much silence they hear, over the whole stack on a virtual clock.

`scripts/bench pacing` prints the whole table.
"""

from __future__ import annotations

import math
from itertools import accumulate, combinations, cycle
from statistics import fmean
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench_pacing import FIRST_BYTES, FLUSHES, PACES, WINDOW_S, Row, measure, oracle_silence, plot, texts


@pytest.mark.parametrize("first_byte_s", FIRST_BYTES)
@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("rate", [10.0, 20.0, 60.0, math.inf])
def test_a_model_as_fast_as_speech_is_heard_at_once_and_without_silence(
    rate: float, pace: float | None, first_byte_s: float
) -> None:
    told = measure(rate, pace, first_byte_s)
    assert told.first_s <= 0.050
    assert told.silence_s == pytest.approx(0.0, abs=0.001)
    assert told.flushes <= FLUSHES


def test_a_model_slower_than_speech_is_heard_as_soon_as_its_limit_on_flushes_allows() -> None:
    told = [measure(5.0, pace, 0.080, text) for text, pace in zip(texts(9), cycle(PACES), strict=False)]
    assert told[0].first_s <= 0.050
    assert max(run.flushes for run in told) <= FLUSHES
    silence_s = fmean(run.silence_s for run in told)
    assert silence_s <= fmean(run.sentence_s for run in told)  # of a caller who has no limit
    # One who knows the text beforehand also knows how long it will be, and shares out the Flushes.
    assert silence_s <= fmean(run.oracle_s for run in told) + 1.2


@pytest.mark.parametrize("pace", PACES)
def test_a_model_far_slower_than_speech_adds_its_own_silence_and_hardly_more(pace: float | None) -> None:
    told = measure(3.0, pace, 0.300)
    assert told.first_s <= 0.050
    assert told.flushes <= FLUSHES
    assert told.as_oracle


PARTS = st.lists(st.tuples(st.floats(0.1, 40), st.floats(0.1, 20)), min_size=1, max_size=7)


@given(PARTS, st.sampled_from(PACES), st.sampled_from(FIRST_BYTES), st.integers(2, 4))
def test_nobody_does_better_than_the_oracle_and_somebody_does_as_well(
    parts: list[tuple[float, float]], pace: float | None, first_byte_s: float, flushes: int
) -> None:
    """All ways to put the parts of a text into groups, each sent as soon as it may be."""
    ready, seconds = list(accumulate(gap_s for gap_s, _ in parts)), [audio_s for _, audio_s in parts]
    silences = []
    inner = range(2, len(parts))
    for n in range(len(parts)):
        for cuts in combinations(inner, n):
            sent, free_at, heard_at = list[float](), 0.0, 0.0
            for begin, end in zip((0, 1, *cuts), (1, *cuts, len(parts)), strict=True):
                if begin == end:
                    continue
                at = ready[end - 1]
                if len(sent) >= flushes:
                    at = max(at, sent[-flushes] + WINDOW_S)
                audio_s, start = sum(seconds[begin:end]), max(at, free_at) + first_byte_s
                sent.append(at)
                free_at = start + (0.0 if pace is None else audio_s / pace)
                heard_at = max(heard_at, start) + audio_s
            silences.append(heard_at - sum(seconds) - ready[0] - first_byte_s)
    oracle_s = oracle_silence(ready, seconds, pace, first_byte_s, flushes=flushes)
    assert oracle_s == pytest.approx(max(0.0, min(silences)), abs=0.002)


def row(rate: float, pace: float | None) -> Row:
    return Row(rate, pace, 0.080, [measure(rate, pace, 0.080)])


def test_the_plot_shows_each_row() -> None:
    drawn = ET.fromstring(plot([row(20.0, None), row(5.0, 3.0)]))
    texts = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text.startswith("20 tokens/s, at once") for text in texts)
    assert any(text.startswith("5 tokens/s, 3 x speech") for text in texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2 * 3
