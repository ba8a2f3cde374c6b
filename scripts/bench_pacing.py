"""How long a listener waits and how much silence they hear, for models and endpoints of all speeds. On a virtual clock.

    scripts/bench pacing [--plot FILE.svg]

The whole stack runs: source, turn, pool, a real WebSocket, an endpoint that enforces Deepgram's limits. Only the clock is not
real: it jumps whenever nothing can happen before the next timer. The columns:

first    from the end of the first clause (its last token) to the first audio, less the endpoint's first byte (ms)
silence  within the answer (s)
oracle   the same for one who knows the future and may flush as often: the best cuts at clause ends there are
sentence what a caller makes the listener wait who flushes every sentence and has no quota: from the end of the first clause to
         the first audio, and silence (s)
flushes  the most in any 60 seconds
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Iterator
from itertools import accumulate, pairwise, product
from pathlib import Path
from random import Random
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llm2ws.audio import AudioFormat
from llm2ws.pool import Endpoint, Pool
from llm2ws.speech import DIALECTS
from llm2ws.speech.deepgram_server import FlushIn
from llm2ws.speech.dialect import Setup
from llm2ws.speech.pacing import Pace
from llm2ws.testing import Coding, Faults, FaultySpeech, Renderer, tokens
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


class Run(NamedTuple):
    """What a listener heard of one answer. Seconds."""

    first_s: float  # from the first clause's end to the first audio, less the endpoint's first byte
    silence_s: float
    audio_s: float
    flushes: int  # the most in any 60 seconds


async def writer(rate: float, sent: list[tuple[float, int]]) -> AsyncGenerator[str, None]:
    """A model at `rate` tokens a second, and when how many characters had been written."""
    loop, n = asyncio.get_running_loop(), 0
    for token in tokens(TEXT):
        if rate < math.inf:
            await asyncio.sleep(1 / rate)
        n += len(token)
        sent.append((loop.time(), n))
        yield token


async def speak(rate: float, pace: float | None, first_byte_s: float) -> tuple[Run, list[tuple[float, int]]]:
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
        async with conversation.turn(writer(rate, sent)) as turn:
            async for event in turn.events():
                if isinstance(event, Audio):
                    heard += [(loop.time(), fmt.seconds(len(event.data)))]
        flushes = [received.at for received in endpoint.log if isinstance(received.message, FlushIn)]
    most = max(sum(1 for other in flushes if at - 60.0 < other <= at) for at in flushes)
    clause_end = next(at for at, n in sent if n >= len(units("clause")[0]))
    return Run(heard[0][0] - clause_end - first_byte_s, silence(heard), sum(s for _, s in heard), most), sent


def silence(heard: list[tuple[float, float]]) -> float:
    """What a listener hears of it between the first audio and the last: (when it came, how long it is) for each piece."""
    playing_until, silent = heard[0][0], 0.0
    for at, seconds in heard:
        silent += max(0.0, at - playing_until)
        playing_until = max(playing_until, at) + seconds
    return silent


def units(kind: str) -> list[str]:
    """The text in clauses or sentences."""
    marks = ".?!" if kind == "sentence" else ".?!,;:"
    ends = [i + 1 for i, char in enumerate(TEXT) if char in marks and TEXT[i + 1 : i + 2] in (" ", "\n", "")]
    return [TEXT[a:b] for a, b in pairwise([0, *ends])]


def timetable(kind: str, sent: list[tuple[float, int]]) -> tuple[list[float], list[float]]:
    """For each unit of the text: when it had been written, and how long its audio is."""
    parts = units(kind)
    ready = [next(at for at, n in sent if n >= end) for end in accumulate(map(len, parts))]
    return ready, [len(Renderer(CODING, 24_000, Random(0)).say(part.strip() + " ")) / 48_000 for part in parts]


def oracle_silence(sent: list[tuple[float, int]], pace: float | None, first_byte_s: float, flushes: int) -> float:
    """The least silence that cuts at clause ends can give with so many flushes, by dynamic programming."""
    ready, seconds = timetable("clause", sent)
    total = [0.0, *accumulate(seconds)]
    slow = 0.0 if pace is None else 1 / pace
    first = ready[0] + first_byte_s
    # For each number of units flushed: when the endpoint is free and when the listener has heard them, at the earliest.
    best = {1: (first + slow * seconds[0], first + seconds[0])}
    done = math.inf
    for _ in range(flushes - 1):
        following: dict[int, tuple[float, float]] = {}
        for i, (free_at, heard_at) in best.items():
            for j in range(i + 1, len(ready) + 1):
                begin = max(ready[j - 1], free_at) + first_byte_s
                audio_s = total[j] - total[i]
                option = (begin + slow * audio_s, max(heard_at, begin) + audio_s)
                if j not in following or option[1] < following[j][1]:
                    following[j] = option
        best = following
        done = min(done, best.get(len(ready), (math.inf, math.inf))[1])
    return max(0.0, done - first - total[-1])


def sentence_wait(sent: list[tuple[float, int]], pace: float | None, first_byte_s: float) -> float:
    """What a caller makes the listener wait who flushes each sentence as soon as it is written."""
    ready, seconds = timetable("sentence", sent)
    free_at = heard_at = 0.0
    for at, audio_s in zip(ready, seconds, strict=True):
        begin = max(at, free_at) + first_byte_s
        free_at = begin + (0.0 if pace is None else audio_s / pace)
        heard_at = max(heard_at, begin) + audio_s
    return heard_at - sum(seconds) - (timetable("clause", sent)[0][0] + first_byte_s)


def measure(rate: float, pace: float | None, first_byte_s: float) -> tuple[Run, float, float]:
    """A row: what was heard, the oracle's silence, and how long one waits who hears it sentence by sentence."""
    heard, sent = run(speak(rate, pace, first_byte_s))
    minutes = max(1.0, (sent[-1][0] - sent[0][0]) / 60)
    return heard, oracle_silence(sent, pace, first_byte_s, int(12 * minutes)), sentence_wait(sent, pace, first_byte_s)


class Row(NamedTuple):
    """A model and an endpoint, and what came of them."""

    rate: float
    pace: float | None
    first_byte_s: float
    heard: Run
    oracle_s: float
    sentence_s: float


def rows() -> Iterator[Row]:
    """All combinations."""
    for rate, pace, first_byte_s in product(RATES, PACES, FIRST_BYTES):
        yield Row(rate, pace, first_byte_s, *measure(rate, pace, first_byte_s))


_WIDTH, _LEFT, _BAR = 640, 250, 16


def plot(measured: list[Row]) -> str:
    """An SVG: the silence of each row as a bar, the oracle's and that of sentence by sentence as marks on it."""
    most_s = max(1.0, *(max(row.heard.silence_s, row.oracle_s, row.sentence_s) for row in measured))

    def x(seconds: float) -> float:
        # As a root: of 35 s and of half a second, both are to be seen.
        return _LEFT + (_WIDTH - _LEFT - 60) * math.sqrt(max(0.0, seconds) / most_s)

    out = []
    for i, row in enumerate(measured):
        y = 50 + i * (_BAR + 4)
        pace = "at once" if row.pace is None else f"{row.pace:g} x speech"
        name = f"{row.rate:g} tokens/s, {pace}, first byte {1_000 * row.first_byte_s:.0f} ms"
        end = x(max(row.heard.silence_s, row.oracle_s, row.sentence_s)) + 8
        out += [
            f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{name}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{x(row.heard.silence_s) - _LEFT:.1f}" height="{_BAR}" fill="#7aa6c2"/>',
            f'<text x="{end:.1f}" y="{y + 12}">{row.heard.silence_s:.2f} s</text>',
            *(
                f'<rect x="{x(mark) - 1:.1f}" y="{y - 1}" width="3" height="{_BAR + 2}" fill="{colour}"/>'
                for mark, colour in ((row.sentence_s, "#c0504d"), (row.oracle_s, "#222"))
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
    options = parser.parse_args()
    print(
        f"{'tokens/s':>8} {'pace':>5} {'byte ms':>7} {'first':>7} {'silence':>8} {'oracle':>7} {'sentence':>8} {'flushes':>7}"
    )
    measured = list[Row]()
    for row in rows():
        measured.append(row)
        print(
            f"{row.rate:8.0f} {row.pace or math.inf:5.1f} {1_000 * row.first_byte_s:7.0f} {1_000 * row.heard.first_s:7.1f} "
            f"{row.heard.silence_s:8.2f} {row.oracle_s:7.2f} {row.sentence_s:8.2f} {row.heard.flushes:7}"
        )
    if options.plot:
        options.plot.write_text(plot(measured))


if __name__ == "__main__":
    main()
