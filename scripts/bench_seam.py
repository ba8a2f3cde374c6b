"""How well speech goes on after a connection breaks: what is lost, what is heard twice, how much later it comes.

    scripts/bench seam [--frame-bytes N] [--seeds N]

The connection is cut before every frame of audio of one reply, for voices that vary by so much per word from one speaking to
the next. The whole stack runs, on a virtual clock. The columns:

seams    cuts, each with one repeat of the group that was lost
lost     words that were never heard
twice    words heard twice, or begun and then heard whole
share    seams at which that happened (%)
most     words heard twice at one seam
late     from the cut to the next audio, the longest (s)
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator
from itertools import accumulate, count
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llm2ws.audio import AudioFormat
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.localspeech.engine import Engine, SpokenWord
from llm2ws.localspeech.server import SpeechServer
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.speech.utterance.seam import EXACT_S, STEP_S, Envelope, Repeat, Take
from llm2ws.testing import Coding, Drop, Faults, FaultySpeech, decode, script, tokens
from llm2ws.turn import Audio, Conversation, Notice
from scripts.bench_pacing import TEXT as PROSE
from scripts.virtual_clock import run

__all__ = ["FRAGMENTS", "STRETCHES", "TEXT", "Cut", "cuts"]

TEXT = (
    "Rain falls because warm air carries water upwards. High up it is cold, and the air spreads. There the vapour gathers on "
    "specks of dust. At first the drops are so small that they float. They bump into each other and grow. Then they fall. "
    "Not all of them arrive. In dry summers grey veils hang below a cloud. In winter they begin as ice. A single degree "
    "decides between snow and rain. After a shower the air smells clean. You can see much further than before."
)
FRAGMENTS = 12
STRETCHES = (0.0, 0.02, 0.08)
FORMAT = AudioFormat(sample_rate_hz=8_000)
SPEEDS = (1.0, 1.02, 0.98, 1.06, 0.94)
NEAR_S = 0.03  # two places that are no further apart are the same to the ear
SILENT = 3.0  # in the envelope's measure: the pauses of the embedded voice are below it
HANDSHAKE_S, FIRST_BYTE_S, LEAD_IN_S, PACE = 0.05, 0.08, 0.2, 3.0
SURE_S = 0.25  # of a repeat, beyond the place, until that is sure


class Cut(NamedTuple):
    """What one cut did."""

    lost: int  # words
    twice: int
    exact: bool  # every character came, once
    late_s: float  # from the cut to the next audio
    allowed_s: float  # for that: handshake, first byte, and what the endpoint says again until the place is found
    confidence: float


async def writer() -> AsyncGenerator[str, None]:
    """A model at 20 tokens a second."""
    for token in tokens(TEXT):
        await asyncio.sleep(0.05)
        yield token


async def speak(stretch: float, at_frame: int, seed: int, max_frame_bytes: int) -> Cut | None:
    """One reply, cut before this frame of audio; None where it has no so many."""
    now = asyncio.get_running_loop().time
    coding = Coding(char_samples=480, lead_in_s=LEAD_IN_S, stretch=stretch)  # 60 ms a character
    heard: list[tuple[float, bytes]] = []
    confidence = 1.0
    async with FaultySpeech(coding=coding, pace=PACE, max_frame_bytes=max_frame_bytes, seed=seed) as speech, Pool() as pool:
        speech.faults = Faults(handshake_s=HANDSHAKE_S, first_byte_s=FIRST_BYTE_S)
        where = Endpoint(Deepgram(Setup(speech.url, "", FORMAT)))
        await pool.warm(where)
        speech.drops.append(Drop(at_frame=at_frame))
        async with Conversation(pool, [where], pace=Pace.LISTENER).turn(writer()) as turn, asyncio.TaskGroup() as tasks:
            cut = tasks.create_task(_cut_at(speech))
            async for event in turn.events():
                if isinstance(event, Audio):
                    heard.append((now(), event.data))
                elif isinstance(event, Notice) and event.confidence is not None:
                    confidence = event.confidence
            assert turn.stats.fragments >= FRAGMENTS
            if speech.drops:
                cut.cancel()
                return None
            cut_at = cut.result()
    before_s = FORMAT.seconds(sum(len(data) for at, data in heard if at <= cut_at))
    group_s = before_s - max((s.start_s for s in turn.spoken.stretches if s.start_s <= before_s), default=0.0)
    searched_s = group_s + SURE_S + LEAD_IN_S + FORMAT.seconds(max_frame_bytes)
    lost, twice = compare(said := decode(b"".join(data for _, data in heard)), TEXT)
    late_s = min(at for at, _ in heard if at > cut_at) - cut_at
    return Cut(lost, twice, said == TEXT, late_s, HANDSHAKE_S + FIRST_BYTE_S + searched_s / PACE, confidence)


async def _cut_at(speech: FaultySpeech) -> float:
    await speech.until(lambda s: not s.drops)
    return asyncio.get_running_loop().time()


def compare(said: str, wanted: str) -> tuple[int, int]:
    """How many words were lost, and how many were said more than once or only begun."""
    words, here, spoken = wanted.split(), 0, said.split()
    for word in spoken:
        here += here < len(words) and word == words[here]
    return len(words) - here, len(spoken) - here


def cuts(stretch: float, *, seed: int = 0, max_frame_bytes: int = 3_840) -> Iterator[Cut]:
    """The reply, cut before each of its frames."""
    for at_frame in count():
        cut = run(speak(stretch, at_frame, seed, max_frame_bytes))
        if cut is None:
            return
        yield cut


# A real voice: the embedded endpoint's, which tells where its words begin


class Spoken(NamedTuple):
    """One speaking of a text, and when its words begin (seconds)."""

    audio: bytes
    words: list[SpokenWord]


class Again(NamedTuple):
    """A cut in one speaking, and where another one goes on, in seconds of the first, by the words of both."""

    cut_s: float
    goes_on_s: float
    twice: int  # words that begin in between
    skipped_s: float  # of sound, not of silence: neither heard before nor after


async def render(engine: Engine, text: str, *, speed: float = 1.0) -> Spoken:
    voice = engine.voice("en-us")
    assert voice is not None
    with engine.say(text, voice=voice, fmt=FORMAT, speed=speed) as said:
        audio = b"".join([chunk async for chunk in said])
    return Spoken(audio, list(said.words))


def go_on(first: Spoken, second: Spoken, cut_s: float) -> Again:
    """Hear `first` up to here, then find the place in `second`."""
    heard = Take(FORMAT, keep_s=EXACT_S)
    heard.feed(first.audio[: FORMAT.bytes_for(cut_s)])
    repeat = Repeat(heard)
    seam = repeat.feed(second.audio) or repeat.finish()
    at_s = FORMAT.seconds(seam.at_bytes)
    # Between two words both speakings are taken to go at an even pace.
    times = [[0.0, *(word.at_s for word in said.words), FORMAT.seconds(len(said.audio))] for said in (first, second)]
    here = min(bisect_right(times[1], at_s), len(times[1]) - 1)
    (first_from_s, first_to_s), (from_s, to_s) = (time[here - 1 : here + 1] for time in times)
    goes_on_s = first_from_s + (at_s - from_s) / (to_s - from_s) * (first_to_s - first_from_s)
    between = Envelope(FORMAT)
    between.feed(first.audio[FORMAT.bytes_for(cut_s) : FORMAT.bytes_for(max(cut_s, goes_on_s))])
    skipped_s = STEP_S * sum(step > SILENT for step in between.steps)
    twice = sum(goes_on_s - NEAR_S <= word.at_s < cut_s - NEAR_S for word in first.words)
    return Again(cut_s, goes_on_s, twice, skipped_s)


async def real_cuts(engine: Engine, speed: float, *, every_s: float = 0.09) -> list[Again]:
    """The text in three groups, each cut every so often, and repeated by a voice that is faster by `speed`."""
    done, sentences = list[Again](), re.findall(r"[^.]+\.\s*", TEXT)
    for at in range(0, len(sentences), 4):
        text = "".join(sentences[at : at + 4])
        first, second = await render(engine, text), await render(engine, text, speed=speed)
        n = int(FORMAT.seconds(len(first.audio)) / every_s)
        done += [go_on(first, second, every_s * i) for i in range(1, n)]
    return done


class Guess(NamedTuple):
    """Where `Spoken.split` cuts the text for a listener who was interrupted, against the words that the voice told of."""

    error_s: float  # from that place to where the listener was
    words: int  # too many or too few


async def guesses(engine: Engine, text: str, *, every_s: float = 0.05) -> list[Guess]:
    """A reply over the whole stack, cut every so often."""
    async with SpeechServer(engine) as server, Pool() as pool:
        where = Endpoint(Deepgram(Setup(server.url, "en-us", FORMAT)))
        async with Conversation(pool, [where]).turn(script(text)) as turn:
            async for _ in turn.audio():
                pass
    done = list[Guess]()
    for stretch in turn.spoken.stretches:
        said = "".join(saying.text for saying in stretch.sayings)
        # espeak tells of some pairs of words, as "of the", as one: then the second is given the time of the first.
        told = {len(said[: word.start].split()): word.at_s for word in (await render(engine, said)).words}
        begins = [*accumulate((stretch.start_s + told.get(n, 0.0) for n in range(len(said.split()))), max), stretch.end_s]
        from_char = stretch.sayings[0].start
        for i in range(1, int((stretch.end_s - stretch.start_s) / every_s)):
            at_s = stretch.start_s + every_s * i
            n = len(turn.spoken.split(at_s).heard[from_char:].split())
            # The word that is being said may count as heard or not.
            begun = bisect_right(begins, at_s)
            done.append(Guess(abs(begins[n] - at_s), max(begun - 1 - n, n - begun, 0)))
    return done


async def print_real() -> None:
    print(
        f"\n{'speed':>5} {'seams':>6} {'skipped ms':>11} {'again p50':>10} {'p95':>6} {'most':>6} {'words p95':>10} {'most':>5}"
    )
    async with Engine() as engine:
        for speed in SPEEDS:
            done = await real_cuts(engine, speed)
            again, words = sorted(cut.cut_s - cut.goes_on_s for cut in done), sorted(cut.twice for cut in done)
            p50, p95 = len(done) // 2, 95 * len(done) // 100
            print(
                f"{speed:5.2f} {len(done):6} {1_000 * max(cut.skipped_s for cut in done):11.0f} {again[p50]:10.2f} "
                f"{again[p95]:6.2f} {again[-1]:6.2f} {words[p95]:10} {words[-1]:5}"
            )
        print(f"\n{'heard, text':>12} {'places':>6} {'error p50':>10} {'p95':>6} {'words p95':>10} {'most':>5} {'within':>7}")
        for name, text in (("this", TEXT), ("pacing's", PROSE)):
            cuts_ = await guesses(engine, text)
            errors, off = sorted(guess.error_s for guess in cuts_), sorted(guess.words for guess in cuts_)
            p50, p95 = len(cuts_) // 2, 95 * len(cuts_) // 100
            within = sum(guess.error_s <= 0.4 or guess.words <= 1 for guess in cuts_) / len(cuts_)
            print(f"{name:>12} {len(cuts_):6} {errors[p50]:10.2f} {errors[p95]:6.2f} {off[p95]:10} {off[-1]:5} {within:7.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame-bytes", type=int, default=3_840, help="the longest frame of audio")
    parser.add_argument("--seeds", type=int, default=1, help="how many replies, each with variations of its own")
    options = parser.parse_args()
    print(f"{'vary':>5} {'seams':>6} {'lost':>5} {'twice':>6} {'share':>6} {'most':>5} {'late':>6}")
    for stretch in STRETCHES:
        done = [cut for seed in range(options.seeds) for cut in cuts(stretch, seed=seed, max_frame_bytes=options.frame_bytes)]
        print(
            f"{stretch:5.0%} {len(done):6} {sum(cut.lost for cut in done):5} {sum(cut.twice for cut in done):6} "
            f"{sum(cut.twice > 0 for cut in done) / len(done):6.1%} {max(cut.twice for cut in done):5} "
            f"{max(cut.late_s for cut in done):6.2f}"
        )
    asyncio.run(print_real())


if __name__ == "__main__":
    main()
