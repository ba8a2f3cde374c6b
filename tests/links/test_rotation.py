"""Connections have a life: before it ends, speech has moved to another one, between two groups of words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from random import random

import pytest

from llm2ws.links.account import LIFE_SHARES
from llm2ws.links.pool import Pool
from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import CloseIn, SpeakIn, Violation
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Coding, FaultySpeech, decode, script, tokens
from llm2ws.turn import Audio, Conversation, Notice, Outcome
from scripts.virtual_clock import run
from tests.whole import audio_of, endpoint, listen, sentences

QUICK = Coding(char_samples=4, word_pause_s=0.002, sentence_pause_s=0.004, lead_in_s=0.0)
GOODBYE = Violation(1000, "")
LIFE_S = 3_600.0


async def writer(text: str, gap_s: float) -> AsyncIterator[str]:
    for token in tokens(text):
        await asyncio.sleep(gap_s)
        yield token


async def converse(pool: Pool, speech: FaultySpeech, number: int, life_s: float) -> None:
    """Three turns, each of about the life of a connection. They do not all begin at once."""
    await asyncio.sleep(number * life_s / 50)
    where = endpoint(speech, limits=Limits(chars_per_speak=2_000, life_s=life_s))
    conversation = Conversation(pool, [where], pace=Pace.LISTENER)
    for n in range(3):
        text = f"This is conversation {number} and turn {n}. {sentences(400)}"
        turn = conversation.turn(writer(text, life_s / len(tokens(text))))
        events = await listen(turn)
        assert decode(audio_of(events)) == text
        assert (turn.outcome, turn.stats.resumed) == (Outcome.DONE, 0)
        assert not [event for event in events if isinstance(event, Notice)]


async def converse_fifty_times(life_s: float, jitter: Callable[[], float] = random) -> list[Violation]:
    """How each connection was closed, once none of the turns has been interrupted."""
    async with FaultySpeech(coding=QUICK, limits=Enforced(session_s=life_s)) as speech:
        async with Pool(jitter=jitter) as pool, asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(converse(pool, speech, number, life_s))
        assert speech.connections >= 140  # each conversation has outlived three of them, some of which two have shared
        return speech.closed_with


@pytest.mark.soak
def test_fifty_conversations_outlive_their_connections_and_none_is_interrupted() -> None:
    closed_with = run(converse_fifty_times(2.0))
    assert closed_with == [GOODBYE] * len(closed_with)


@pytest.mark.soak
def test_the_same_in_real_time() -> None:
    # All move as early as any, 10 % before the end: a busy machine may not come round to all of them in 3 % of so short a life.
    # Nor may it close each idle connection before the endpoint does.
    asyncio.run(converse_fifty_times(8.0, jitter=lambda: 0.0))


async def second_opened(speech: FaultySpeech) -> float:
    await speech.until(lambda s: s.connections == 2)
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_an_hour_of_speech_moves_in_mid_turn_before_the_connection_is_closed(jitter: float) -> None:
    async def speak() -> None:
        text = sentences(6_000)
        async with FaultySpeech(coding=QUICK, limits=Enforced(session_s=LIFE_S)) as speech, Pool(jitter=lambda: jitter) as pool:
            where = endpoint(speech)
            assert where.dialect.limits.life_s == LIFE_S
            conversation = Conversation(pool, [where], pace=Pace.LISTENER)
            turn = conversation.turn(writer(text, 5_000 / len(tokens(text))))
            moved = asyncio.create_task(second_opened(speech))
            assert decode(audio_of(await listen(turn))) == text
            assert (turn.outcome, turn.stats.resumed, speech.connections) == (Outcome.DONE, 0, 2)
            closed = next(entry.at for entry in speech.log if isinstance(entry.message, CloseIn))
            low, high = LIFE_SHARES
            assert await moved == pytest.approx(LIFE_S * (low + jitter * (high - low)), abs=5.0)
            assert await moved <= closed < LIFE_S  # the new one was there first
            assert speech.closed_with == [GOODBYE]

    run(speak())


def test_where_no_other_connection_is_allowed_a_turn_stays_without_a_pause_and_in_its_voice() -> None:
    async def speak() -> None:
        coding = Coding(char_samples=240)
        async with (
            FaultySpeech(coding=coding, limits=Enforced()) as one,
            FaultySpeech() as other,
            Pool(jitter=lambda: 0.0) as pool,
        ):
            limits = Limits(chars_per_speak=2_000, life_s=20.0)
            where = [endpoint(one, name="one", limits=limits, connections=1), endpoint(other, name="other")]
            turn = Conversation(pool, where).turn(
                script(*[part for n in range(40) for part in (f"Sentence {n} is this one. ", 1.0)])
            )
            loop, came_at = asyncio.get_running_loop(), list[float]()
            async with turn:
                async for event in turn.events():
                    assert not isinstance(event, Notice)
                    came_at += [loop.time()] if isinstance(event, Audio) else []
            assert came_at[-1] - came_at[0] > 30.0
            assert max(after - before for before, after in pairwise(came_at)) < 5.0
            assert (turn.outcome, one.connections, other.connections) == (Outcome.DONE, 1, 0)

    run(speak())


def test_short_turns_find_a_new_connection_when_theirs_is_old() -> None:
    async def speak() -> None:
        async with FaultySpeech(coding=QUICK, limits=Enforced(session_s=LIFE_S)) as speech, Pool(jitter=lambda: 0.0) as pool:
            conversation = Conversation(pool, [endpoint(speech)])
            for n in range(200):
                turn = conversation.turn(script(f"Turn {n}. "))
                assert decode(audio_of(await listen(turn))) == f"Turn {n}."
                assert turn.stats.resumed == 0
                await asyncio.sleep(60.0)
            assert speech.connections == 4
            used = [entry for entry in speech.log if isinstance(entry.message, SpeakIn)]
            ages = [entry.at for entry, other in pairwise(used) if other.connection > entry.connection]
            assert ages == pytest.approx([LIFE_S * 0.9 * n for n in (1, 2, 3)], abs=200.0)

    run(speak())
