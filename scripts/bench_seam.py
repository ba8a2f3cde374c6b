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
import sys
from collections.abc import AsyncGenerator, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llm2ws.audio import AudioFormat
from llm2ws.pool import Endpoint, Pool
from llm2ws.speech.deepgram import Deepgram
from llm2ws.speech.dialect import Setup
from llm2ws.speech.pacing import Pace
from llm2ws.testing import Coding, Drop, Faults, FaultySpeech, decode, tokens
from llm2ws.turn import Audio, Conversation, Notice
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
HANDSHAKE_S, FIRST_BYTE_S, LEAD_IN_S, PACE = 0.05, 0.08, 0.2, 3.0
SLACK_S, SLACK_SHARE = 0.2, 0.08  # of a repeat, that is looked through for the place


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
    searched_s = group_s * (1 + SLACK_SHARE) + SLACK_S + LEAD_IN_S + FORMAT.seconds(max_frame_bytes)
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


if __name__ == "__main__":
    main()
