"""Where a repeat goes on: after a lost connection a text is spoken again, and what was heard of it must not be.

Voices never repeat bit for bit, and a word may come a little faster or slower the second time, so the place cannot be counted
in bytes. It is found: both takes are reduced to loudness in steps of 10 ms, and the last 2 s of what was heard are aligned with
the repeat (dynamic time warping), near where they must be. Where the takes do agree bit for bit, the place is exact.

In doubt words are repeated, none is lost: of ends that are as likely the earliest is taken. A real voice changes from step to
step, so that the place is known within a syllable; else, in mid-word, the repeat goes on from the pause before that word.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from itertools import pairwise

from ...audio import AudioFormat, Encoding, decode_alaw, decode_mulaw

__all__ = ["NEAR_S", "Envelope", "Repeat", "Seam", "Take", "place_like"]

STEP_S = 0.010
MATCH_STEPS = 200  # of what was heard, aligned with the repeat
SLACK_STEPS = 20  # the repeat may begin so much earlier or later ...
SLACK_SHARE = 0.08  # ... and be so much faster or slower
EXACT_S = 1.0  # of equal bytes: the takes are the same
NEAR_S = 0.1  # from where the times of words say that a repeat goes on
PAUSE_STEPS = 3  # of quiet between two words
WORD_STEPS = 100  # no word is longer
SYLLABLE_STEPS = 45
DIP = 3.0  # doublings of loudness by which a syllable's edge is quieter

# What an alignment costs, in doublings of loudness by which the steps differ, and besides
WARP_COST = 0.15  # for each step by which the takes differ in speed
DRIFT_COST = 0.15  # for each step away from where the place would be if both takes were equally fast
# Found by trying, with scripts/bench_seam.py and thousands of cuts like its. Below the first two, words are lost or repeated.
EQUAL_COST = 3.0  # ends that cost no more than this above the best one are as likely
SURE_STEPS, SURE_COST = 25, 0.2  # so good a match, for each step, after so many more steps: no better one is to be expected
GOOD_COST = 0.8  # for each step: beyond it there is no match

LIVELY_STEPS, LIVELY = 20, 0.08  # a voice whose loudness changes from step to step can be aligned to the step


@dataclass(slots=True)
class Envelope:
    """Loudness in steps of 10 ms: log2 of the mean magnitude plus one, so 0 is digital silence and 15 full scale."""

    format: AudioFormat
    steps: list[float] = field(default_factory=list)
    step_bytes: int = field(init=False)  # how many bytes one step lasts
    _sample_bytes: int = field(init=False)
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self.step_bytes, self._sample_bytes = self.format.bytes_for(STEP_S), self.format.sample_bytes

    def feed(self, data: bytes) -> None:
        """Take audio, any number of bytes."""
        data = self._rest + data
        size = self.step_bytes
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        samples = array("h", _linear(data[:whole], self.format))
        per_step = size // self._sample_bytes
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
    def rest(self) -> list[float]:
        """The same for what came after the last whole step; [] where there is nothing."""
        whole = len(self._rest) - len(self._rest) % self.format.sample_bytes
        samples = array("h", _linear(self._rest[:whole], self.format))
        return [math.log2(1 + sum(map(abs, samples)) / len(samples))] if samples else []


@dataclass(slots=True)
class Take:
    """One speaking of a text, as far as it was received."""

    format: AudioFormat
    envelope: Envelope = field(init=False)
    keep_s: float | None = None  # None keeps all of its audio; else so much of its end
    data: bytearray = field(default_factory=bytearray)

    _keep_bytes: float = field(init=False)

    def __post_init__(self) -> None:
        self.envelope = Envelope(self.format)
        self._keep_bytes = math.inf if self.keep_s is None else self.format.bytes_for(self.keep_s)

    def forget(self, n_bytes: int) -> None:
        """Forget all but so much of its end."""
        del self.data[: max(0, len(self.data) - n_bytes)]
        del self.envelope.steps[: max(0, len(self.envelope.steps) - n_bytes // self.envelope.step_bytes)]

    @property
    def ends_quiet(self) -> bool:
        """Whether it breaks off in a pause."""
        steps = [*self.envelope.steps, *self.envelope.rest]
        return not steps or steps[-1] <= _quiet(steps)

    def feed(self, data: bytes) -> None:
        """Take audio: whole samples."""
        self.envelope.feed(data)
        self.data += data
        # Not at each read, and not much later: there is one of these in each of hundreds of conversations.
        if len(self.data) > 1.25 * self._keep_bytes:
            del self.data[: -int(self._keep_bytes)]


@dataclass(frozen=True, slots=True)
class Seam:
    """Where the repeat goes on: `at_bytes` of it are dropped.

    `overlap_s`: about how much is heard twice. `confidence`: 1 for equal takes, 0 where nothing matched.
    """

    at_bytes: int
    overlap_s: float
    confidence: float


class Repeat:
    """A text that is said again, until it is known where it goes on from the end of what was `heard` of it.

    The place is looked for while the repeat comes, step by step, and told as soon as it is sure.
    """

    def __init__(self, heard: Take) -> None:
        self.take = Take(heard.format)
        self._heard = heard
        steps = [*heard.envelope.steps, *heard.envelope.rest]
        self._quiet = _quiet(steps)
        self._spoken = len(steps) - _onset(steps, self._quiet)  # steps, without the silence before the first word
        self._tail = steps[-min(MATCH_STEPS, self._spoken) :]
        self._slack = SLACK_STEPS + math.ceil(SLACK_SHARE * self._spoken)
        self._column = [math.inf] * len(self._tail)
        self._aligned = 0  # steps of the repeat
        self._ends: list[tuple[float, int]] = []  # what it costs that the heard ends here, and the step of the repeat

    def feed(self, data: bytes) -> Seam | None:
        """Take audio of the repeat: whole samples. None while too little of it has come to tell."""
        self.take.feed(data)
        return self._find(complete=False)

    def finish(self) -> Seam:
        """All of it has come: the place as well as it can be told."""
        seam = self._find(complete=True)
        assert seam is not None
        return seam

    def _find(self, *, complete: bool) -> Seam | None:
        if not self._spoken:
            return Seam(0, 0.0, 1.0)  # only silence was heard
        if (exact := _exact(self._heard, self.take)) is not None:
            return exact
        steps = self.take.envelope.steps
        begin = _onset(steps, self._quiet)
        due = begin + self._spoken
        lowest = max(begin, due - self._slack)
        begin = max(begin, lowest - len(self._tail) * 9 // 8, self._aligned)
        for self._aligned, step in enumerate(steps[begin:], begin + 1):
            self._align(step)
            if self._aligned >= lowest:
                self._ends.append((self._column[-1] + DRIFT_COST * abs(self._aligned - due), self._aligned))
                if self._aligned >= due + self._slack or self._is_sure(due):
                    return self._place(due)
        return self._place(due) if complete else None

    def _align(self, other: float) -> None:
        """Take one step of the repeat: a column of dynamic time warping.

        Both sequences go forward; that one of them waits for the other costs a little.
        """
        column, above = self._column, math.inf
        diagonal = 0.0  # the tail may begin anywhere
        for i, loud in enumerate(self._tail):
            left = column[i]
            best = diagonal
            if above + WARP_COST < best:
                best = above + WARP_COST
            if left + WARP_COST < best:
                best = left + WARP_COST
            diagonal = left
            difference = loud - other
            column[i] = above = best + (difference if difference > 0 else -difference)

    def _is_sure(self, due: int) -> bool:
        best, _ = min(self._ends)
        last = max(at for cost, at in self._ends if cost <= best + EQUAL_COST)
        return best <= SURE_COST * len(self._tail) and self._aligned >= max(last, due) + SURE_STEPS

    def _place(self, due: int) -> Seam:
        """From the ends that are likely: the earliest of them, so that in doubt words are repeated and none is lost."""
        steps, quiet = self.take.envelope.steps, self._quiet
        best, at = min(self._ends, default=(math.inf, len(steps)))
        cost = best / len(self._tail)
        likely = [end for end_cost, end in self._ends if end_cost <= best + EQUAL_COST] or [at]
        first = likely[0]
        while first < likely[-1] and steps[first] <= quiet:  # within a pause they are all the same
            first += 1
        if cost > GOOD_COST:  # no match: back to before the earliest place where it may be
            cut = _pause_before(steps, max(0, due - self._slack), quiet)
        elif self._tail[-1] <= quiet and steps[likely[0] - 1] <= quiet:  # between two words
            cut = min(first, max(at, likely[0]))
        elif _is_lively(self._tail[-LIVELY_STEPS:]):
            cut = min(range(max(0, first - 3), first), key=steps.__getitem__, default=0)
        else:
            cut = _pause_before(steps, first, quiet)
        overlap_s = max(0.0, (at - cut) * STEP_S)
        return Seam(cut * self.take.envelope.step_bytes, overlap_s, max(0.0, 1 - cost / (2 * GOOD_COST)))


def _exact(heard: Take, repeat: Take) -> Seam | None:
    """Return where the repeat holds the same bytes as the end of what was heard, nearest to where it must be."""
    size = repeat.envelope.step_bytes
    end = bytes(heard.data[-heard.format.bytes_for(EXACT_S) :])
    n = len(heard.envelope.steps)
    due, slack = n * size, (SLACK_STEPS + math.ceil(SLACK_SHARE * n)) * size
    width = heard.format.sample_bytes
    # The silence before the first word may be longer or shorter the second time.
    lead = len(end) - len(end.lstrip(heard.format.silence[:1]))
    if lead < len(end):
        end = end[lead - lead % width :]
    found: int | None = None
    at = repeat.data.find(end, max(0, due - slack - len(end)))
    while at >= 0 and at + len(end) <= due + slack:
        here = at + len(end)
        if at % width == 0 and (found is None or abs(here - due) < abs(found - due)):
            found = here
        at = repeat.data.find(end, at + 1)
    return None if found is None else Seam(found, 0.0, 1.0)


def _onset(steps: list[float], quiet: float) -> int:
    """Where speech begins: behind the last step where there is none."""
    return next((at for at, step in enumerate(steps) if step > quiet), len(steps))


def _is_lively(steps: list[float]) -> bool:
    """Whether the loudness changes all the time, as that of a real voice does."""
    changes = sorted(abs(a - b) for a, b in pairwise(steps))
    return len(changes) >= LIVELY_STEPS // 2 and changes[len(changes) // 2] >= LIVELY


def place_like(heard: Take, repeat: Take, at_s: float) -> float:
    """Return the place near `at_s` in a repeat where it is quiet, or loud, as at the end of what was heard; else `at_s`."""
    quiet, steps, at = _quiet(heard.envelope.steps), repeat.envelope.steps, int(at_s / STEP_S)
    near = range(max(0, at - round(NEAR_S / STEP_S)), min(len(steps), at + round(NEAR_S / STEP_S) + 1))
    like = [j for j in near if (steps[j] <= quiet) == heard.ends_quiet]
    if not like or at in like:
        return at_s
    nearest = min(like, key=lambda j: abs(j - at))
    return (nearest if nearest > at else nearest + 1) * STEP_S


def _quiet(steps: list[float]) -> float:
    """Below this a step is a pause: some 27 dB under the loud ones."""
    loud = sorted(steps)[int(0.95 * (len(steps) - 1))] if steps else 0.0
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
