"""How long a listener waits and how much silence they hear, for models and endpoints of all speeds. On a virtual clock.

    scripts/bench pacing [--texts N] [--plot FILE.svg]

The whole stack runs: source, turn, pool, a real WebSocket, an endpoint that enforces Deepgram's limits. Only the clock is not
real: it jumps whenever nothing can happen before the next timer. Each row is for one text that was written for it, and others
of random sentences: with a model about as fast as speech much depends on where sentences happen to end. The columns:

first    from the end of the first clause (its last token) to the first audio, less the endpoint's first byte (ms, the longest);
         not for texts that have no mark early on, and are cut before a word. A stop is an end when nothing follows for 120 ms
silence  within the answer (s, the mean of all texts, as are the next two)
oracle   the same for one who knows the future: the least there can be. See `oracle_silence`
sentence what a caller makes the listener wait who flushes every sentence and has no quota: from the first audio that is heard
         here, and silence (s)
<=oracle in how many of a hundred texts the silence is at most 1.1 times the oracle's, or 50 ms more
<=sent   in how many it is at most 100 ms more than that of sentences, or of the oracle where nobody can do better
flushes  the most in any 60 seconds
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import accumulate, pairwise, product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llm2ws.audio import AudioFormat
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.speech.dialects.deepgram_server import FlushIn
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Coding, Faults, FaultySpeech, Renderer, tokens
from llm2ws.text.fragmenter import Fragmenter
from llm2ws.text.fragments import Piece
from llm2ws.turn import Audio, Conversation
from scripts.virtual_clock import run

TEXT = (
    "Rain falls because warm air carries water upwards, and because high up it is cold. As the air rises, it spreads and "
    "cools; the water that it holds as vapour gathers on specks of dust. At first the drops are so small that they float. "
    "They bump into each other, join, and grow, until the air can no longer hold them up. Then they fall.\n\n"
    "Not all of them arrive. In a dry summer you can see grey veils below a cloud that never reach the ground: the drops "
    "have dried up on the way. In winter they begin as crystals of ice, and whether they come down as snow, sleet or rain "
    "depends on the last few hundred metres. A single degree decides.\n\n"
    "How much a cloud holds is easily underestimated. A fair weather cloud, a few hundred metres wide, weighs as much as a "
    "hundred elephants, and it floats all the same, because it is spread so thinly. Thunderclouds hold a thousand times "
    "more. That is why it pours, and why it is over so soon. After such a shower the air is washed clean. You can smell it, "
    "and see much further than before. Would you like to know why the sky is blue again afterwards?"
)
RATES = (3.0, 5.0, 10.0, 20.0, 60.0, math.inf)  # tokens a second
PACES = (1.2, 3.0, None)  # how many times faster than real time the endpoint speaks
FIRST_BYTES = (0.080, 0.300)  # s
CODING = Coding(char_samples=1_320, word_pause_s=0.055, sentence_pause_s=0.25, lead_in_s=0.0)  # 55 ms a character


FLUSHES, WINDOW_S = 12, 60.0  # so many in so long are allowed to all but the caller without quota


def texts(n: int) -> list[str]:
    """`TEXT`, and others of its words in random order: sentences as long as in prose, clauses, now and then a paragraph."""
    random, words = Random(5), [word.strip(".,;:?").lower() for word in TEXT.split()]
    made = [TEXT]
    while len(made) < n:
        text = ""
        length, spread, clauses = random.choice((9, 13, 17, 21)), random.uniform(0.35, 0.6), random.uniform(0.04, 0.14)
        while len(text) < len(TEXT):
            sentence = random.choices(words, k=max(2, round(length * random.lognormvariate(0, spread))))
            for i in range(2, len(sentence) - 2):
                if random.random() < clauses:
                    sentence[i] += random.choice(",,,,;:")
            text += " ".join(sentence).capitalize() + random.choice("......?!") + random.choice((" ",) * 7 + ("\n\n",))
        made.append(text.strip())
    return made[:n]


class Run(NamedTuple):
    """What a listener heard of one answer, and what others would have made of it. Seconds."""

    first_s: float  # from the first clause's end to the first audio, less the endpoint's first byte; 0 without a mark there
    silence_s: float
    flushes: int  # the most in any 60 seconds
    oracle_s: float
    sentence_s: float

    @property
    def as_oracle(self) -> bool:
        """Hardly more silence than there has to be."""
        return self.silence_s <= max(1.1 * self.oracle_s, self.oracle_s + 0.05)

    @property
    def as_sentences(self) -> bool:
        """Hardly more than with each sentence flushed at once, if that is possible at all."""
        return self.silence_s <= max(self.sentence_s, self.oracle_s) + 0.1


async def writer(text: str, rate: float, sent: list[tuple[float, int]]) -> AsyncGenerator[str, None]:
    """A model at `rate` tokens a second, and when how many characters had been written."""
    loop, n = asyncio.get_running_loop(), 0
    for token in tokens(text):
        if rate < math.inf:
            await asyncio.sleep(1 / rate)
        n += len(token)
        sent.append((loop.time(), n))
        yield token


async def speak(text: str, rate: float, pace: float | None, first_byte_s: float) -> Run:
    """One answer over the real stack."""
    loop = asyncio.get_running_loop()
    sent: list[tuple[float, int]] = []
    heard: list[tuple[float, float]] = []
    fmt = AudioFormat()
    async with FaultySpeech(coding=CODING, pace=pace, max_frame_bytes=9_600) as endpoint, Pool() as pool:
        endpoint.faults = Faults(first_byte_s=first_byte_s)
        where = Endpoint(DIALECTS["deepgram"](Setup(endpoint.url, "", fmt)))
        await pool.warm(where)
        conversation = Conversation(pool, [where], pace=Pace.LISTENER, slow_consumer_s=math.inf)
        async with conversation.turn(writer(text, rate, sent)) as turn:
            async for event in turn.events():
                if isinstance(event, Audio):
                    heard += [(loop.time(), fmt.seconds(len(event.data)))]
        flushes = [received.at for received in endpoint.log if isinstance(received.message, FlushIn)]
    most = max(sum(1 for other in flushes if at - WINDOW_S < other <= at) for at in flushes)
    first = heard[0][0]
    cuts = legal_cuts(text)
    written, seconds = timetable(text, cuts, sent)
    after_s = 0.0 if text[cuts[0] - 1].isalnum() else first - first_byte_s - written[0]
    oracle_s = oracle_silence([first - first_byte_s, *written[1:]], seconds, pace, first_byte_s)
    sentences = timetable(text, sentence_ends(text), sent)
    return Run(after_s, silence(heard), most, oracle_s, sentence_wait(*sentences, pace, first_byte_s) - first)


def silence(heard: list[tuple[float, float]]) -> float:
    """What a listener hears of it between the first audio and the last: (when it came, how long it is) for each piece."""
    playing_until, silent = heard[0][0], 0.0
    for at, seconds in heard:
        silent += max(0.0, at - playing_until)
        playing_until = max(playing_until, at) + seconds
    return silent


def legal_cuts(text: str) -> list[int]:
    """All places at which an answer may be cut, as characters before them: the first fragment, then each clause end."""
    fragmenter, cuts, n = Fragmenter(), list[int](), 0
    for token in tokens(text):
        fragments = fragmenter.feed(Piece(token, n, n + len(token)))
        n += len(token)
        if cuts or fragments:
            fragments += fragmenter.release(clause=True)
        cuts += [fragment.end for fragment in fragments]
    return [*cuts, *(fragment.end for fragment in fragmenter.finish())]


def sentence_ends(text: str) -> list[int]:
    """The ends of its sentences."""
    return [i + 1 for i, char in enumerate(text) if char in ".?!" and text[i + 1 : i + 2] in (" ", "\n", "")]


def timetable(text: str, ends: Sequence[int], sent: list[tuple[float, int]]) -> tuple[list[float], list[float]]:
    """For each part of the text: when it had been written, and how long its audio is."""
    written = [next(at for at, n in sent if n >= end) for end in ends]
    parts = [text[a:b].strip() + " " for a, b in pairwise([0, *ends])]
    return written, [len(Renderer(CODING, 24_000, Random(0)).say(part)) / 48_000 for part in parts]


def oracle_silence(
    ready: Sequence[float], seconds: Sequence[float], pace: float | None, first_byte_s: float, *, flushes: int = FLUSHES
) -> float:
    """The least silence there can be, to a millisecond, for one who knows the whole text and when it will be written.

    It is a true optimum under the rules that hold for us: cuts are where the Fragmenter can make them, at most `flushes` are
    sent in any 60 seconds, the endpoint speaks one group after the other, and the first group is ours, sent when ours is, so
    that nobody does better by beginning later. What one cannot have who does not know the future: to know with its last letter
    that a clause has ended, and to know how long the answer will be, which says how to share out the Flushes.

    The silence is what the listener is behind in the end, and so the most that any group is behind. Whether a schedule exists
    in which none is more than so much behind is searched in full, without those that another one is better than in everything
    (`_Sent.beats`).
    """
    total = [0.0, *accumulate(seconds)]
    first = ready[0] + first_byte_s
    low, high = first, ready[-1] + first_byte_s + total[-1]  # all that is left in one group is always possible
    while high - low > 0.001:
        middle = (low + high) / 2
        if _possible(middle, ready, total, 0.0 if pace is None else 1 / pace, first_byte_s, flushes):
            high = middle
        else:
            low = middle
    return low - first


class _Sent(NamedTuple):
    at: tuple[float, ...]  # the last Flushes
    free_at: float  # when the endpoint has spoken them

    def beats(self, other: _Sent) -> bool:
        """Whether whoever has sent the same text like this can do all that the other can."""
        if len(self.at) > len(other.at) or self.free_at > other.free_at:
            return False
        return all(a <= b for a, b in zip(reversed(self.at), reversed(other.at), strict=False))


def _possible(
    behind: float, ready: Sequence[float], total: Sequence[float], slow: float, first_byte_s: float, flushes: int
) -> bool:
    """Whether each group can begin by `behind` plus the audio before it."""
    first = _Sent((ready[0],), ready[0] + first_byte_s + slow * total[1])
    to_try, tried = [(1, first)], defaultdict[int, list[_Sent]](list)
    while to_try:
        done, sent = to_try.pop()
        if done == len(ready):
            return True
        allowed_at = sent.at[-flushes] + WINDOW_S if len(sent.at) >= flushes else -math.inf
        for upto in range(done + 1, len(ready) + 1):
            at = max(ready[upto - 1], allowed_at)
            begin = max(at, sent.free_at) + first_byte_s
            if begin > behind + total[done]:
                break
            option = _Sent((*sent.at, at)[-flushes:], begin + slow * (total[upto] - total[done]))
            if not any(other.beats(option) for other in tried[upto]):
                tried[upto].append(option)
                to_try.append((upto, option))
    return False


def sentence_wait(written: Sequence[float], seconds: Sequence[float], pace: float | None, first_byte_s: float) -> float:
    """By when the audio of a caller would have had to begin, to be heard without a break, who flushes each sentence at once."""
    free_at = heard_at = 0.0
    for at, audio_s in zip(written, seconds, strict=True):
        begin = max(at, free_at) + first_byte_s
        free_at = begin + (0.0 if pace is None else audio_s / pace)
        heard_at = max(heard_at, begin) + audio_s
    return heard_at - sum(seconds)


def measure(rate: float, pace: float | None, first_byte_s: float, text: str = TEXT) -> Run:
    """One answer, on a clock of its own."""
    return run(speak(text, rate, pace, first_byte_s))


class Row(NamedTuple):
    """A model and an endpoint, and what came of them with each text."""

    rate: float
    pace: float | None
    first_byte_s: float
    runs: list[Run]

    def mean(self, column: str) -> float:
        """Of a column, over the texts."""
        return fmean(getattr(run, column) for run in self.runs)


def rows(n: int) -> Iterator[Row]:
    """All combinations, each with `n` texts."""
    spoken = texts(n)
    for rate, pace, first_byte_s in product(RATES, PACES, FIRST_BYTES):
        yield Row(rate, pace, first_byte_s, [measure(rate, pace, first_byte_s, text) for text in spoken])


_WIDTH, _LEFT, _BAR = 640, 250, 16
_MARKS = ("silence_s", "oracle_s", "sentence_s")


def plot(measured: list[Row]) -> str:
    """An SVG: the silence of each row as a bar, the oracle's and that of sentence by sentence as marks on it."""
    most_s = max(1.0, *(max(map(row.mean, _MARKS)) for row in measured))

    def x(seconds: float) -> float:
        # As a root: of 35 s and of half a second, both are to be seen.
        return _LEFT + (_WIDTH - _LEFT - 60) * math.sqrt(max(0.0, seconds) / most_s)

    out = []
    for i, row in enumerate(measured):
        y = 50 + i * (_BAR + 4)
        pace = "at once" if row.pace is None else f"{row.pace:g} x speech"
        name = f"{row.rate:g} tokens/s, {pace}, first byte {1_000 * row.first_byte_s:.0f} ms"
        end = x(max(map(row.mean, _MARKS))) + 8
        out += [
            f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{name}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{x(row.mean("silence_s")) - _LEFT:.1f}" height="{_BAR}" fill="#7aa6c2"/>',
            f'<text x="{end:.1f}" y="{y + 12}">{row.mean("silence_s"):.2f} s</text>',
            *(
                f'<rect x="{x(mark) - 1:.1f}" y="{y - 1}" width="3" height="{_BAR + 2}" fill="{colour}"/>'
                for mark, colour in ((row.mean("sentence_s"), "#c0504d"), (row.mean("oracle_s"), "#222"))
            ),
        ]
    size = f'width="{_WIDTH}" height="{60 + len(measured) * (_BAR + 4)}"'
    title = "Silence within an answer; black: one who knows the future, red: sentence by sentence without quota"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            f'<text x="12" y="24" font-size="13">{title}</text>',
            *out,
            "</svg>",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw the silence")
    parser.add_argument("--texts", type=int, default=10, metavar="N", help="how many answers for each row (10)")
    options = parser.parse_args()
    names = ("tokens/s", "pace", "byte ms", "first", "silence", "oracle", "sentence", "<=oracle", "<=sent", "flushes")
    print(" ".join(f"{name:>8}" for name in names))
    measured = list[Row]()
    for row in rows(options.texts):
        measured.append(row)
        print(
            f"{row.rate:8.0f} {row.pace or math.inf:8.1f} {1_000 * row.first_byte_s:8.0f} "
            f"{1_000 * max(run.first_s for run in row.runs):8.1f} "
            f"{row.mean('silence_s'):8.2f} {row.mean('oracle_s'):8.2f} {row.mean('sentence_s'):8.2f} "
            f"{100 * row.mean('as_oracle'):8.0f} {100 * row.mean('as_sentences'):8.0f} {max(run.flushes for run in row.runs):8}"
        )
    if options.plot:
        options.plot.write_text(plot(measured))


if __name__ == "__main__":
    main()
