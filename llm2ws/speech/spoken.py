"""Which of the model's words were heard: from seconds of audio back to characters of its text."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Heard", "Saying", "Spoken", "Stretch"]

# How long a mark is heard as silence, in units of an average character.
_PAUSES = dict.fromkeys(".!?…。！？।؟", 6.0) | dict.fromkeys(",;:–—،；，、：", 3.0)


class Saying(NamedTuple):
    """Text as it was sent, the span of the model's text that it stands for, and when in the audio it begins (seconds)."""

    text: str
    start: int
    end: int
    at_s: float


class Heard(NamedTuple):
    """The model's text, in two parts. `error_s`: how far off the cut may be, in seconds of audio."""

    heard: str
    unheard: str
    error_s: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """Audio whose both ends are known, and what was said in it."""

    start_s: float
    end_s: float
    sayings: tuple[Saying, ...]


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a turn said. It stays valid after the turn is over.

    `text` is the model's text as far as it was received; `stretches` are those of which audio was handed out.
    """

    text: str
    stretches: tuple[Stretch, ...]
    complete: bool  # all of `text` has been handed out as audio

    @property
    def seconds(self) -> float:
        """How much audio was handed out."""
        return self.stretches[-1].end_s if self.stretches else 0.0

    def split(self, played_s: float) -> Heard:
        """Cut the text where a listener was after `played_s` seconds of the turn's audio, between two words."""
        if self.complete and played_s >= self.seconds:
            return Heard(self.text, "", 0.0)
        cut, error_s = 0, 0.0
        for stretch in self.stretches:
            if played_s >= stretch.end_s and stretch.sayings:
                cut = stretch.sayings[-1].end
            elif played_s > stretch.start_s:
                cut = max(cut, _cut_within(stretch, played_s, self.text))
                # The ends are exact; between them the speaker's pace is not known.
                error_s = 0.05 + 0.1 * min(played_s - stretch.start_s, stretch.end_s - played_s)
        return Heard(self.text[:cut], self.text[cut:], error_s)


def _cut_within(stretch: Stretch, played_s: float, text: str) -> int:
    said = "".join(saying.text for saying in stretch.sayings)
    if not said:
        return 0
    weights = list(accumulate(1.0 + _PAUSES.get(char, 0.0) for char in said))
    share = (played_s - stretch.start_s) / (stretch.end_s - stretch.start_s)
    at = bisect_right(weights, share * weights[-1])
    for saying in stretch.sayings:
        if at <= len(saying.text):
            length = saying.end - saying.start
            cut = saying.start + (at if len(saying.text.rstrip()) == length else round(at / len(saying.text) * length))
            return _word_start(text, min(cut, saying.end), saying.start)
        at -= len(saying.text)
    return stretch.sayings[-1].end


def _word_start(text: str, at: int, lowest: int) -> int:
    """`at`, or the start of the word that it is within: half a word was not heard."""
    if at >= len(text) or text[at].isspace() or text[at - 1 : at].isspace():
        return at
    while at > lowest and not text[at - 1].isspace():
        at -= 1
    return at
