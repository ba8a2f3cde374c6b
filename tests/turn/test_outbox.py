from __future__ import annotations

import asyncio

import pytest

from llm2ws.errors import TurnLost
from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.testing import Drop, FaultySpeech, How, decode, script, tokens
from llm2ws.turn import Outcome
from tests.turn.talk import CODING, STORY, first_audio, speaking, talk


async def test_what_came_but_was_not_handed_out_is_interrupted_too() -> None:
    """The endpoint is faster than the listener: all audio is here long before it has been heard."""
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        async with conversation.turn(script(*tokens(STORY))) as turn:
            audio = turn.audio()
            await anext(audio)
            await asyncio.wait({speaking(turn)})
            await turn.interrupt()
            assert [chunk async for chunk in audio] == []
        assert turn.outcome is Outcome.INTERRUPTED


async def test_a_slow_consumer_holds_back_what_is_asked_for() -> None:
    text = " ".join(f"Sentence number {n} says little, but it says it." for n in range(60))
    async with FaultySpeech(coding=CODING, limits=Enforced()) as speech, talk(speech, limits=Limits()) as conversation:
        async with conversation.turn(script(text)) as turn:
            await first_audio(turn)
            await asyncio.sleep(0.2)  # it would have been spoken ten times over
            asked_s = sum(map(len, speech.texts())) * 0.02
            assert asked_s < 45
            assert len("".join(speech.texts())) < 0.9 * len(text)
            assert decode(b"".join([chunk async for chunk in turn.audio()]))
        assert turn.outcome is Outcome.DONE


async def test_what_had_come_before_a_turn_was_lost_is_handed_out() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.drops.append(Drop(How.CLOSE, code=1008, reason="", at_frame=20))
        received = 0
        async with conversation.turn(script(STORY)) as turn:
            with pytest.raises(TurnLost) as caught:
                async for chunk in turn.audio():
                    await asyncio.wait({speaking(turn)})  # all is here before the first is taken
                    received += len(chunk)
        assert turn.outcome is Outcome.LOST
        assert caught.value.delivered_s == turn.stats.audio_s == turn.format.seconds(received) > 0
