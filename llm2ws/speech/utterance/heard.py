"""Which of the model's words were heard: from seconds of audio back to characters of its text."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from .timing import Mark, cut_raw, word_end

__all__ = ["Heard", "Saying", "Spoken", "Stretch"]

# How long a character is heard, in units of an average letter: marks as silence, digits as words ("1908" has 19 letters).
_UNITS = dict.fromkeys(".!?…。！？।؟", 6.0) | dict.fromkeys(",;:–—،；，、：", 3.0) | dict.fromkeys("0123456789", 4.0)
_UNITS |= dict.fromkeys("%$€£&+=@", 6.0)
_SENTENCE = frozenset(".!?…。！？।؟")


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
    """Audio whose both ends are known, and what was said in it.

    `pauses`: where it is quiet, from and to, in seconds of the turn's audio. `words`: where the words are, from endpoints that
    tell, in characters of all that was said.
    """

    start_s: float
    end_s: float
    sayings: tuple[Saying, ...]
    pauses: tuple[tuple[float, float], ...] = ()
    words: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a turn said. It stays valid after the turn is over.

    `text` is the model's text as far as it was received; `stretches` are those of which audio was handed out.
    """

    text: str
    stretches: tuple[Stretch, ...]
    complete: bool  # all of `text` has been handed out as audio
    unheard: tuple[tuple[int, int], ...] = ()  # spans of `text` for which no endpoint had audio

    @property
    def seconds(self) -> float:
        """How much audio the stretches have; estimated for one that has not come to its end."""
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
                error_s = _error_s(stretch, played_s)
        return Heard(self._without_unheard(cut), self._unheard_text(cut) + self.text[cut:], error_s)

    def _without_unheard(self, cut: int) -> str:
        kept, at = "", 0
        for start, end in self.unheard:
            kept += self.text[at : max(at, min(start, cut))]
            at = max(at, min(end, cut))
        return kept + self.text[at:cut]

    def _unheard_text(self, cut: int) -> str:
        return "".join(self.text[start : min(end, cut)] for start, end in self.unheard if start < cut)


def _error_s(stretch: Stretch, played_s: float) -> float:
    anchors = _anchors(stretch)
    if stretch.words and (played_s <= stretch.words[-1].end_s or anchors[-2][0] >= anchors[-1][0] - 1):
        return 0.0
    # The ends are exact, and pauses nearly so; between them the speaker's pace is not known.
    return 0.1 + 0.15 * min(abs(played_s - at_s) for _, at_s in anchors)


def _cut_within(stretch: Stretch, played_s: float, text: str) -> int:
    said = "".join(saying.text for saying in stretch.sayings)
    if not said:
        return 0
    anchors = _anchors(stretch)
    (first, from_s), (last, to_s) = next(pair for pair in pairwise(anchors) if pair[1][1] >= played_s or pair[1] == anchors[-1])
    weights = _weights(said[first:last])
    share = (played_s - from_s) / (to_s - from_s) if to_s > from_s else 1.0
    at = first + (bisect_right(weights, share * weights[-1]) if weights else 0)
    for saying in stretch.sayings:
        if at <= len(saying.text):
            raw = text[saying.start : saying.end]
            if raw.strip() == saying.text.strip():
                cut = saying.start + len(raw) - len(raw.lstrip()) + at
            else:
                cut = saying.start + cut_raw(saying.text, at, raw)
            return _word_start(text, min(cut, saying.end), saying.start)
        at -= len(saying.text)
    return stretch.sayings[-1].end


def _anchors(stretch: Stretch) -> list[tuple[int, float]]:
    """Characters of the text said whose time is known: the ends, words, and marks whose pause is found where it must be."""
    said = "".join(saying.text for saying in stretch.sayings)
    if stretch.words:
        told = [at for word in stretch.words for at in ((word.begin, word.start_s), (word_end(said, word.end), word.end_s))]
        return [(0, stretch.start_s), *told, (len(said), max(stretch.end_s, told[-1][1]))]
    weights = _weights(said)
    anchors = [(0, stretch.start_s)]
    pauses = list(stretch.pauses)
    for at in range(1, len(said) - 1):
        if said[at] != " " or said[at - 1] not in _UNITS or said[at - 1].isdigit():
            continue
        (before, from_s), total = anchors[-1], weights[-1]
        done = weights[before - 1] if before else 0.0
        due_s = from_s + (weights[at] - done) / max(1e-9, total - done) * (stretch.end_s - from_s)
        slack_s = 0.15 + 0.25 * (due_s - from_s)
        least_s = 0.15 if said[at - 1] in _SENTENCE else 0.06
        near = [p for p in pauses if p[0] > from_s and abs(p[1] - due_s) <= slack_s and p[1] - p[0] >= least_s]
        if near:
            # A longer pause is the likelier one, and so is a nearer one.
            found = max(near, key=lambda p: min(0.4, p[1] - p[0]) - 0.5 * abs(p[1] - due_s))
            anchors.append((at + 1, found[1]))
            pauses = [p for p in pauses if p[0] >= found[1]]
    return [*anchors, (len(said), stretch.end_s)]


def _weights(text: str) -> list[float]:
    return list(accumulate(_UNITS.get(char, 1.0) for char in text))


def _word_start(text: str, at: int, lowest: int) -> int:
    """`at`, or the start of the word that it is within: half a word was not heard."""
    if at >= len(text) or text[at].isspace() or text[at - 1 : at].isspace():
        return at
    while at > lowest and not text[at - 1].isspace():
        at -= 1
    return at
