"""Where a repeat goes on: after a lost connection a text is spoken again, and what was heard of it must not be.

Voices never repeat bit for bit, and a word may come a little faster or slower the second time, so the place cannot be counted
in bytes. It is found: both takes are reduced to loudness in steps of 10 ms, and the last 1.5 s of what was heard are aligned
with the repeat (dynamic time warping), near where they must be. Where the takes do agree bit for bit, the place is exact.

In doubt words are repeated, none is lost: in mid-word the repeat goes on from the pause before that word.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field

from ..audio import AudioFormat, Encoding, decode_alaw, decode_mulaw

__all__ = ["Envelope", "Seam", "Take", "find_seam"]

STEP_S = 0.010
MATCH_STEPS = 150  # of what was heard, aligned with the repeat
SLACK_STEPS = 20  # the repeat may begin so much earlier or later ...
SLACK_SHARE = 0.08  # ... and be so much faster or slower
EXACT_S = 1.0  # of equal bytes: the takes are the same
PAUSE_STEPS = 3  # of quiet between two words
WORD_STEPS = 100  # no word is longer
SYLLABLE_STEPS = 45
DIP = 3.0  # doublings of loudness by which a syllable's edge is quieter
WARP_COST = 0.15  # of each step by which the takes differ in speed
DRIFT_COST = 0.001  # of each step away from where the place would be if both takes were equally fast
GOOD_COST = 0.8  # a step; in doublings of loudness


@dataclass(slots=True)
class Envelope:
    """Loudness in steps of 10 ms: log2 of the mean magnitude plus one, so 0 is digital silence and 15 full scale."""

    format: AudioFormat
    steps: list[float] = field(default_factory=list)
    _rest: bytes = b""

    def feed(self, data: bytes) -> None:
        """Take audio, any number of bytes."""
        data = self._rest + data
        size = self.step_bytes
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        samples = array("h", _linear(data[:whole], self.format))
        per_step = size // self.format.sample_bytes
        # Every eighth sample tells the loudness of speech well enough, for an eighth of the time.
        every = max(1, per_step // 30)
        for at in range(0, len(samples), per_step):
            part = samples[at : at + per_step : every]
            self.steps.append(math.log2(1 + sum(map(abs, part)) / len(part)))

    def pauses(self) -> list[tuple[float, float]]:
        """Where it is quiet for longer than a stop consonant is: from and to, in seconds."""
        if not self.steps:
            return []
        quiet, found, begin = _quiet(self.steps), [], None
        for at, step in enumerate([*self.steps, math.inf]):
            if step <= quiet:
                begin = at if begin is None else begin
            elif begin is not None:
                if at - begin > PAUSE_STEPS:
                    found.append((begin * STEP_S, at * STEP_S))
                begin = None
        return found

    @property
    def step_bytes(self) -> int:
        """How many bytes one step lasts."""
        return self.format.bytes_for(STEP_S)


@dataclass(slots=True)
class Take:
    """One speaking of a text, as far as it was received."""

    format: AudioFormat
    envelope: Envelope = field(init=False)
    keep_s: float | None = None  # None keeps all of its audio; else so much of its end
    data: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.envelope = Envelope(self.format)

    def feed(self, data: bytes) -> None:
        """Take audio: whole samples."""
        self.envelope.feed(data)
        self.data += data
        # Not at each read, and not much later: there is one of these in each of hundreds of conversations.
        if self.keep_s is not None and len(self.data) > 1.25 * (keep := self.format.bytes_for(self.keep_s)):
            del self.data[:-keep]


@dataclass(frozen=True, slots=True)
class Seam:
    """Where the repeat goes on: `at_bytes` of it are dropped.

    `overlap_s`: about how much is heard twice. `confidence`: 1 for equal takes, 0 where nothing matched.
    """

    at_bytes: int
    overlap_s: float
    confidence: float


def find_seam(heard: Take, repeat: Take, *, complete: bool) -> Seam | None:
    """Where `repeat` goes on from the end of `heard`; None while too little of it has come to tell.

    `complete`: all of the repeat has come, so that an answer is given in any case.
    """
    n = len(heard.envelope.steps)
    slack = SLACK_STEPS + math.ceil(SLACK_SHARE * n)
    if not any(step > 1.0 for step in heard.envelope.steps):
        return Seam(0, 0.0, 1.0)  # only silence was heard
    exact = _exact(heard, repeat, slack)
    if exact is not None:
        return exact
    steps = repeat.envelope.steps
    if len(steps) < n + slack and not complete:
        return None
    if not steps:
        return Seam(0, 0.0, 0.0)
    tail = heard.envelope.steps[-MATCH_STEPS:]
    at, cost = _align(tail, steps[: n + slack], max(0, n - slack), n)
    quiet = _quiet(heard.envelope.steps)
    if cost > GOOD_COST:  # no match: back to before the earliest place where it may be
        cut = _pause_before(steps, max(0, n - slack), quiet)
    elif tail[-1] <= quiet and max(steps[max(0, at - 1) : at + 1]) <= quiet:
        cut = at  # between two words
    else:
        cut = _pause_before(steps, at, quiet)
    overlap_s = max(0.0, (at - cut) * STEP_S)
    return Seam(cut * repeat.envelope.step_bytes, overlap_s, max(0.0, 1 - cost / (2 * GOOD_COST)))


def _exact(heard: Take, repeat: Take, slack: int) -> Seam | None:
    """The place where the repeat holds the same bytes as the end of what was heard, nearest to where it must be."""
    size = repeat.envelope.step_bytes
    end = bytes(heard.data[-heard.format.bytes_for(EXACT_S) :])
    due = len(heard.envelope.steps) * size
    width = heard.format.sample_bytes
    # The silence before the first word may be longer or shorter the second time.
    lead = len(end) - len(end.lstrip(heard.format.silence[:1]))
    if lead < len(end):
        end = end[lead - lead % width :]
    found: int | None = None
    at = repeat.data.find(end, max(0, due - slack * size - len(end)))
    while at >= 0 and at + len(end) <= due + slack * size:
        here = at + len(end)
        if at % width == 0 and (found is None or abs(here - due) < abs(found - due)):
            found = here
        at = repeat.data.find(end, at + 1)
    return None if found is None else Seam(found, 0.0, 1.0)


def _align(tail: list[float], steps: list[float], lowest: int, due: int) -> tuple[int, float]:
    """Where in `steps` the `tail` ends, not before `lowest`, and what a step of the best alignment costs.

    Both sequences go forward; that one of them waits for the other costs a little. Of equal places the one nearest to `due`
    is taken.
    """
    begin = lowest - len(tail) - len(tail) // 8
    row = steps[max(0, begin) :]
    if begin < 0:  # the repeat may begin with less silence: as much as can be missing is put in front of it
        row, begin = [0.0] * SLACK_STEPS + row, -SLACK_STEPS
    costs = [0.0] * len(row)  # the tail may begin anywhere
    for i, loud in enumerate(tail):
        left = diagonal = math.inf
        for j, other in enumerate(row):
            above = costs[j]
            best = diagonal if i else 0.0
            if above + WARP_COST < best:
                best = above + WARP_COST
            if left + WARP_COST < best:
                best = left + WARP_COST
            diagonal = above
            difference = loud - other
            costs[j] = left = best + (difference if difference > 0 else -difference)
    ends = range(max(0, lowest - begin - 1), len(row))
    best_end = min(ends, key=lambda j: costs[j] / len(tail) + DRIFT_COST * abs(begin + j + 1 - due), default=len(row) - 1)
    return max(0, begin + best_end + 1), costs[best_end] / len(tail)


def _quiet(steps: list[float]) -> float:
    """Below this a step is a pause: some 27 dB under the loud ones."""
    loud = sorted(steps)[int(0.95 * (len(steps) - 1))]
    return max(1.0, loud - 4.5)


def _pause_before(steps: list[float], at: int, quiet: float) -> int:
    """Where to go on so that the word at `at` is heard whole: the end of the pause before it.

    Words that run together have none. Then it is the quietest place within a long syllable, and if there is no such place
    either, a word's length back.
    """
    at = min(at, len(steps))
    run = 0
    for j in range(at - 1, max(-1, at - WORD_STEPS), -1):
        if steps[j] <= quiet:
            run += 1
        elif run >= PAUSE_STEPS:
            return j + run  # one step of the pause is left in front of the word
        else:
            run = 0
        if at - j == SYLLABLE_STEPS:
            dip = min(range(j, at), key=steps.__getitem__)
            if steps[dip] <= max(steps[j:at]) - DIP:
                return dip
    return max(0, at - WORD_STEPS)


def _linear(data: bytes, fmt: AudioFormat) -> bytes:
    match fmt.encoding:
        case Encoding.LINEAR16:
            return data
        case Encoding.MULAW:
            return decode_mulaw(data)
        case Encoding.ALAW:
            return decode_alaw(data)
