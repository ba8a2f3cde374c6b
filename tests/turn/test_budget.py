"""Answers one after another against the limits of a connection: an answer that has begun does not fall silent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from llm2ws.links.pool import Pool
from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import DEEPGRAM_LIMITS
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Coding, FaultySpeech, decode, tokens
from llm2ws.turn import Audio, Conversation, Notice, NoticeKind, Outcome
from scripts.virtual_clock import run
from tests.whole import FORMAT, endpoint

SPOKEN = Coding(char_samples=480, lead_in_s=0.0)  # 60 ms a character
TOKEN_S = 1 / 60


def prose(rnd: random.Random) -> str:
    """An answer of 15 to 130 words in sentences of eight, no two words alike."""
    words = [f"{rnd.choice('bdfgklmn')}{rnd.choice('aeiou')}{n}" for n in range(rnd.randint(15, 130))]
    return " ".join(" ".join(words[at : at + 8]).capitalize() + "." for at in range(0, len(words), 8))


async def written(text: str) -> AsyncIterator[str]:
    for token in tokens(text):
        await asyncio.sleep(TOKEN_S)
        yield token


async def converse(
    pool: Pool, speech: FaultySpeech, seed: int, turns: int, heard_out: int = 1_000, **options: object
) -> list[tuple[float, bool]]:
    """How long each answer was silent after it had begun, and whether the listener was told of a delay."""
    loop, rnd, result = asyncio.get_running_loop(), random.Random(seed), list[tuple[float, bool]]()
    conversation = Conversation(pool, [endpoint(speech, **options)], pace=Pace.LISTENER, spill=True)
    for _ in range(turns):
        text, audio, silence_s, played_to, delayed = prose(rnd), bytearray(), 0.0, 0.0, False
        async with conversation.turn(written(text)) as turn:
            async for event in turn.events():
                if isinstance(event, Audio):
                    silence_s = max(silence_s, loop.time() - played_to if audio else 0.0)
                    played_to = max(played_to, loop.time()) + FORMAT.seconds(len(event.data))
                    audio += event.data
                elif isinstance(event, Notice):
                    delayed |= event.kind is NoticeKind.DELAYED
        assert (decode(bytes(audio)), turn.outcome) == (text, Outcome.DONE)
        result.append((silence_s, delayed))
        if len(result) <= heard_out:
            await asyncio.sleep(max(0.0, played_to - loop.time()))
    return result


@pytest.mark.parametrize("seed", [2, 4])
def test_one_listeners_answers_one_after_another_do_not_fall_silent(seed: int) -> None:
    async def main() -> None:
        async with FaultySpeech(coding=SPOKEN, pace=1.5, limits=DEEPGRAM_LIMITS) as speech, Pool() as pool:
            turns = await converse(pool, speech, seed, 12, heard_out=4)
            assert max(silence_s for silence_s, _ in turns) < 1.0
            assert speech.connections <= 3

    run(main())


def test_nor_do_those_of_four_listeners_in_ten_minutes() -> None:
    async def main() -> None:
        async with FaultySpeech(coding=SPOKEN, pace=1.0, limits=DEEPGRAM_LIMITS) as speech, Pool() as pool:
            turns = await asyncio.gather(*(converse(pool, speech, 10 + n, 10) for n in range(4)))
            assert max(silence_s for each in turns for silence_s, _ in each) < 1.0

    run(main())


def test_where_no_other_connection_is_to_be_had_a_silence_is_told() -> None:
    async def main() -> None:
        async with FaultySpeech(coding=SPOKEN, pace=1.5, limits=Enforced(flushes=6)) as speech, Pool() as pool:
            limits = Limits(flushes_per_window=6, flush_reserve=2)
            turns = await converse(pool, speech, 1, 8, connections=1, limits=limits)
            assert any(delayed for _, delayed in turns)
            assert all(delayed for silence_s, delayed in turns if silence_s > 2.0)

    run(main())
