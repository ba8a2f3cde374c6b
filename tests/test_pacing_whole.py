"""How long a listener waits and how much silence they hear, over the whole stack on a virtual clock.

`scripts/bench pacing` prints the whole table.
"""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

import pytest

from scripts.bench_pacing import FIRST_BYTES, PACES, Row, measure, plot

FLUSHES = 12  # in a minute, the last one among them


def row(rate: float, pace: float | None, first_byte_s: float) -> Row:
    return Row(rate, pace, first_byte_s, *measure(rate, pace, first_byte_s))


@pytest.mark.parametrize("first_byte_s", FIRST_BYTES)
@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("rate", [10.0, 20.0, 60.0, math.inf])
def test_a_model_as_fast_as_speech_is_heard_at_once_and_without_silence(
    rate: float, pace: float | None, first_byte_s: float
) -> None:
    told = row(rate, pace, first_byte_s).heard
    assert told.first_s <= 0.050
    assert told.silence_s == pytest.approx(0.0, abs=0.001)
    assert told.flushes <= FLUSHES


@pytest.mark.parametrize("pace", PACES)
def test_a_model_slower_than_speech_is_heard_as_soon_as_its_limit_on_flushes_allows(pace: float | None) -> None:
    told = row(5.0, pace, 0.080)
    assert told.heard.first_s <= 0.050
    assert told.heard.flushes <= FLUSHES
    # One who knows the text beforehand chooses better clauses to flush.
    assert told.heard.silence_s <= 1.15 * told.oracle_s
    assert told.heard.silence_s <= told.sentence_s + 0.1


@pytest.mark.parametrize("pace", PACES)
def test_a_model_far_slower_than_speech_adds_its_own_silence_and_hardly_more(pace: float | None) -> None:
    told = row(3.0, pace, 0.300)
    assert told.heard.first_s <= 0.050
    assert told.heard.flushes <= FLUSHES
    assert told.heard.silence_s <= 1.1 * told.oracle_s


def test_the_plot_shows_each_row() -> None:
    drawn = ET.fromstring(plot([row(20.0, None, 0.080), row(5.0, 3.0, 0.080)]))
    texts = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text.startswith("20 tokens/s, at once") for text in texts)
    assert any(text.startswith("5 tokens/s, 3 x speech") for text in texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}rect"))) == 1 + 2 * 3
