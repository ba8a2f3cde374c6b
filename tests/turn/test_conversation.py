from __future__ import annotations

import asyncio
import math
from contextlib import aclosing, suppress
from random import Random

import pytest

from llm2ws.errors import LocalProtocolError, SlowConsumerError
from llm2ws.sources.inlet import Inlet
from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.testing import Faults, FaultySpeech, decode, script, tokens
from llm2ws.turn import Done, Outcome, Turn
from tests.turn.talk import CODING, STORY, heard, speaking, talk


def feeding(turn: Turn) -> asyncio.Task[None]:
    """The task that reads a turn's source."""
    return turn._tasks[0]


async def test_many_interruptions_leave_no_stale_byte() -> None:
    random = Random(1)
    async with FaultySpeech(coding=CODING, limits=Enforced(), pace=20.0) as speech:
        speech.faults = Faults(audio_after_clear_s=0.002, stale_flushed=True, first_byte_s=0.002)
        async with talk(speech, limits=Limits()) as conversation:
            for number in range(40):
                words = " ".join(f"turn{number}word{n}," for n in range(40))
                closed = asyncio.Event()
                async with conversation.turn(script(*tokens(words), math.inf, on_close=closed.set)) as turn:
                    audio, stop_after = b"", random.choice((0, 0, 100, 2_000, 20_000))
                    if stop_after:
                        async with aclosing(turn.audio()) as chunks:
                            async for chunk in chunks:
                                audio += chunk
                                if len(audio) > stop_after:
                                    break
                    else:
                        for _ in range(random.randrange(30)):
                            await asyncio.sleep(0)
                assert closed.is_set() or turn.stats.first_token_s is None
                assert words.startswith(decode(audio))
        assert speech.connections == 1


async def test_of_two_turns_at_once_the_second_is_read_ahead_and_spoken_after() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        inlet = Inlet()
        async with conversation.turn(inlet) as one, conversation.turn(script(*tokens("Second turn. "))) as two:
            await asyncio.wait({feeding(two)})
            await inlet.put("First turn. ")
            inlet.end()
            assert decode(b"".join([chunk async for chunk in two.audio()])) == "Second turn."
            assert decode(b"".join([chunk async for chunk in one.audio()])) == "First turn."
        assert speech.texts() == ["First turn. ", "Second turn. "]


async def test_a_listener_that_takes_nothing_ends_its_own_turn_only() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech, slow_consumer_s=0.05) as conversation:
        async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
            with pytest.raises(SlowConsumerError):
                async for _ in turn.events():
                    await asyncio.wait({speaking(turn)})
        assert turn.outcome is Outcome.LOST
        assert await heard(conversation.turn(script("Next. "))) == "Next."


async def test_a_turn_is_used_once() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        turn = conversation.turn(script("One. "))
        with pytest.raises(LocalProtocolError):
            await turn.interrupt()
        assert await heard(turn) == "One."
        with pytest.raises(LocalProtocolError, match="started before"):
            await heard(turn)


@pytest.mark.parametrize("left", ["at its end", "early", "by an error"])
async def test_the_hook_of_the_end_is_called_once_however_a_turn_is_left(left: str) -> None:
    ends: list[Done] = []
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        with suppress(ZeroDivisionError):
            async with conversation.turn(script("One. ", "Two."), on_done=ends.append) as turn:
                if left == "at its end":
                    async for _ in turn.events():
                        assert ends == []
                elif left == "by an error":
                    raise ZeroDivisionError
    (done,) = ends
    assert (done.outcome, done.stats) == (Outcome.DONE if left == "at its end" else Outcome.INTERRUPTED, turn.stats)
    assert done.spoken.complete is (left == "at its end")
