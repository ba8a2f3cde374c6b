"""What a turn costs: how often it decides what to do next, and the way of an audio frame and of a token through its files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType

import pytest

from llm2ws.audio import AudioFormat
from llm2ws.links.endpoint import Endpoint
from llm2ws.links.pool import Pool
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.speech.utterance.steps import Act
from llm2ws.testing import Coding, FaultySpeech, decode, script, tokens
from llm2ws.turn import Conversation, Outcome
from llm2ws.turn.feeder import Feeder
from llm2ws.turn.speaker import Speaker
from scripts.virtual_clock import run
from tests.support import ROOT

FORMAT = AudioFormat(sample_rate_hz=8_000)
CODING = Coding(char_samples=80, word_pause_s=0.06, sentence_pause_s=0.12, lead_in_s=0.0)
TEXT = " ".join(f"Sentence number {n} says little, but it says it." for n in range(14))
FRAME_BYTES = 320
FRAMES = 679
PACKAGE = str(ROOT / "llm2ws")


@asynccontextmanager
async def talk(speech_pace: float | None, pace: Pace) -> AsyncIterator[Conversation]:
    """A conversation with an endpoint that speaks so many times faster than real time; None: at once."""
    async with FaultySpeech(coding=CODING, max_frame_bytes=FRAME_BYTES, pace=speech_pace) as speech, Pool() as pool:
        yield Conversation(pool, [Endpoint(Deepgram(Setup(speech.url, "", FORMAT)), name="test", limits=Limits())], pace=pace)


@pytest.mark.parametrize("pace", Pace)
@pytest.mark.parametrize("speech_pace", [None, 1.2, 3.0])
@pytest.mark.parametrize("token_s", [0.0, 0.02])
def test_a_turn_decides_only_when_there_is_something_to_do(
    token_s: float, speech_pace: float | None, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle run is one in which the first step is to wait. Audio by itself brings none about."""
    runs: list[list[object]] = []
    advance, next_step = Speaker._advance, Speaker._next_step

    def counted_advance(self: Speaker, slot: object) -> bool:
        runs.append([])
        return advance(self, slot)  # type: ignore[arg-type]

    def counted_step(self: Speaker, slot: object, now: float) -> object:
        step = next_step(self, slot, now)  # type: ignore[arg-type]
        runs[-1].append(step)
        return step

    monkeypatch.setattr(Speaker, "_advance", counted_advance)
    monkeypatch.setattr(Speaker, "_next_step", counted_step)

    async def speak() -> None:
        async with talk(speech_pace, pace) as conversation:
            steps = [step for token in tokens(TEXT) for step in (token, token_s)] if token_s else tokens(TEXT)
            async with conversation.turn(script(*steps)) as turn:
                chunks = [chunk async for chunk in turn.audio()]
            assert turn.outcome is Outcome.DONE
            assert decode(b"".join(chunks)) == TEXT
            assert len(chunks) >= FRAMES

    run(speak())
    idle = [steps for steps in runs if not steps or not isinstance(steps[0], Act)]
    assert len(runs) >= 3
    assert len(idle) <= 0.02 * len(runs), f"{len(idle)} of {len(runs)} runs did nothing: {idle}"


class Way:
    """The calls of functions of the package, while it is followed: which, and how often one is in another file than the last.

    Calls that the tools of the tests make do not count.
    """

    def __init__(self) -> None:
        self.calls: list[CodeType] = []

    def follow(self) -> None:
        sys.setprofile(self._on_event)

    def leave(self) -> None:
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE) and not _is_test(frame):
            self.calls.append(frame.f_code)

    @property
    def changes(self) -> int:
        files = [code.co_filename for code in self.calls]
        return sum(one != other for one, other in pairwise(files))


def _is_test(frame: FrameType | None) -> bool:
    """Whether a tool of the tests runs, or the formats of audio for it."""
    while frame is not None and frame.f_code.co_filename == f"{PACKAGE}/audio.py":
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith((f"{PACKAGE}/testing", str(ROOT / "tests")))


async def test_an_audio_frame_goes_a_short_way() -> None:
    way, first, n = Way(), 100, 400
    async with talk(8.0, Pace.LISTENER) as conversation, conversation.turn(script(TEXT)) as turn:
        count = 0
        try:
            async for _ in turn.audio():
                count += 1
                if count == first:
                    way.follow()
                elif count == first + n:
                    way.leave()
        finally:
            way.leave()
    assert count >= first + n
    files = Counter(str(Path(code.co_filename).relative_to(PACKAGE)) for code in way.calls)
    assert way.changes / n <= 25, files


async def test_a_plain_token_costs_six_calls_in_four_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the feeder to where its text waits for the end of the sentence, once the first sentence is being spoken."""
    taken: list[Way] = []
    take = Feeder._take

    def followed(self: Feeder, item: str) -> None:
        taken.append(Way())
        taken[-1].follow()
        take(self, item)
        taken[-1].leave()

    monkeypatch.setattr(Feeder, "_take", followed)
    async with talk(None, Pace.NONE) as conversation:
        async with conversation.turn(script("One is said. ", "And", *[" word"] * 9, ".")) as turn:
            assert [chunk async for chunk in turn.audio()]
    for plain in taken[4:-2]:
        assert len(plain.calls) <= 6, [code.co_name for code in plain.calls]
        assert len({code.co_filename for code in plain.calls}) <= 4
