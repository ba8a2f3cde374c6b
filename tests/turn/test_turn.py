"""Turns over real sockets: what is heard, in every order of events that a listener, a model and an endpoint can bring about."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from llm2ws.sources.aside import Aside
from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import ClearIn, CloseIn, FlushIn
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Faults, FaultySpeech, script, tokens
from llm2ws.text.fragments import Policy
from llm2ws.turn import Audio, Done, Outcome, Said, Turn
from tests.turn.talk import CODING, STORY, final_flushes, first_audio, heard, talk

# --- a turn


@pytest.mark.parametrize("pace", Pace)
@pytest.mark.parametrize("policy", Policy)
async def test_all_words_are_heard_in_order_and_flushed_once_at_the_end(pace: Pace, policy: Policy) -> None:
    async with FaultySpeech(coding=CODING, limits=Enforced()) as speech:
        async with talk(speech, pace=pace, policy=policy, limits=Limits(chars_per_speak=2_000)) as conversation:
            turn = conversation.turn(script(*tokens(STORY)))
            assert await heard(turn) == STORY if policy is not Policy.TOKEN else await heard(turn)
            assert turn.outcome is Outcome.DONE
            assert "".join("".join(speech.texts()).split()) == "".join(STORY.split())
            if policy is Policy.TOKEN:
                assert "".join(speech.texts()) == STORY
            else:
                assert all(text.endswith(" ") for text in speech.texts())
                assert len(speech.texts()) > 1
            assert final_flushes(speech) == 1
            assert speech.count(ClearIn) == 0
        await speech.until(lambda s: s.count(CloseIn) == 1)


@pytest.mark.parametrize(
    "steps",
    [(), ("",), (" ", "\n\n"), ("```\nprint(1)\n", "```\n"), (Aside("tool_call"),), ("...", " —"), ("<think>hm", "</think>")],
)
async def test_a_turn_with_nothing_to_say_sends_nothing(steps: tuple[str | Aside, ...]) -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        turn = conversation.turn(script(*steps))
        said = await heard(turn)
        assert turn.outcome is Outcome.DONE
        assert final_flushes(speech) == (1 if said else 0)  # a code block may be announced
        assert await heard(conversation.turn(script("Next. "))) == "Next."


async def test_marks_without_end_are_left_out_and_not_sent() -> None:
    limits = Limits(chars_per_speak=200)
    async with FaultySpeech(coding=CODING, limits=Enforced()) as speech, talk(speech, limits=limits) as conversation:
        turn = conversation.turn(script("One. ", *["... "] * 300, "Two. "))
        assert (await heard(turn)).replace(".", "").split() == ["One", "Two"]
        assert max(map(len, speech.texts())) <= 200


# --- interruptions


async def test_an_interruption_in_mid_sentence_leaves_nothing_behind() -> None:
    async with FaultySpeech(coding=CODING, pace=4.0) as speech, talk(speech, pace=Pace.LISTENER) as conversation:
        speech.faults = Faults(audio_after_clear_s=0.02, stale_flushed=True)
        closed = asyncio.Event()
        async with conversation.turn(script(*tokens(STORY), math.inf, on_close=closed.set)) as turn:
            assert await first_audio(turn)
            result = await turn.interrupt()
            assert closed.is_set()
            events = [event async for event in turn.events()]
        assert result.heard + result.unheard == "".join(turn.spoken.text)
        assert not [event for event in events if isinstance(event, Audio | Said)]
        assert isinstance(events[-1], Done)
        assert turn.outcome is Outcome.INTERRUPTED
        assert await heard(conversation.turn(script("Something else entirely. "))) == "Something else entirely."
        assert (speech.connections, speech.count(ClearIn)) == (1, 1)


MOMENTS: dict[str, tuple[tuple[str | float, ...], Faults, Callable[[FaultySpeech], bool]]] = {
    "before the first token": ((math.inf,), Faults(), lambda s: s.open == 1),
    "during a connect": ((*tokens(STORY), math.inf), Faults(handshake_s=math.inf), lambda s: s.handshakes == 1),
    "between text and first audio": ((*tokens(STORY), math.inf), Faults(first_byte_s=math.inf), lambda s: s.count(FlushIn) > 0),
    "before the last text": ((*tokens(STORY), math.inf), Faults(), lambda s: s.frames > 0),
    "after the last text": (tuple(tokens(STORY)), Faults(flushed_s=math.inf), lambda s: s.frames > 0),
    "after the last ack": (tuple(tokens(STORY)), Faults(), lambda s: s.count(FlushIn) > 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("by", ["interrupt", "leave"])
async def test_an_interruption_at_every_moment(moment: str, by: str) -> None:
    steps, faults, reached = MOMENTS[moment]
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        if moment != "during a connect":
            await heard(conversation.turn(script("Before. ")))
            speech.log.clear()
            speech.frames = 0
        speech.faults = faults
        closed = asyncio.Event()
        async with conversation.turn(script(*steps, on_close=closed.set)) as turn:
            taker = asyncio.create_task(anext(aiter(turn.audio()), b""))
            await asyncio.sleep(0)  # the source has begun
            await speech.until(reached)
            if by == "interrupt":
                await turn.interrupt()
        await taker
        assert turn.outcome is Outcome.INTERRUPTED
        assert closed.is_set()
        speech.faults = Faults()
        assert await heard(conversation.turn(script("Something else. "))) == "Something else."
        assert speech.connections <= (2 if moment == "during a connect" else 1)


@pytest.mark.parametrize("by", ["break", "exception", "cancellation"])
async def test_leaving_early_is_an_interruption(by: str) -> None:
    async with FaultySpeech(coding=CODING, pace=2.0) as speech, talk(speech) as conversation:
        closed, turns = asyncio.Event(), list[Turn]()

        async def listen() -> None:
            async with conversation.turn(script(*tokens(STORY), math.inf, on_close=closed.set)) as turn:
                turns.append(turn)
                async for _ in turn.audio():
                    if by == "break":
                        break
                    if by == "exception":
                        raise KeyError(by)

        task = asyncio.create_task(listen())
        if by == "cancellation":
            await speech.until(lambda s: s.frames > 0)
            task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        wanted = {"break": type(None), "exception": KeyError, "cancellation": asyncio.CancelledError}[by]
        assert type(result) is wanted
        assert closed.is_set()
        assert turns[0].outcome is Outcome.INTERRUPTED
        speech.pace = None
        assert await heard(conversation.turn(script("Next. "))) == "Next."
        assert speech.connections == 1


# --- sources


# --- connections that break


# --- sources as strange as they come ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 9))
async def test_a_turn_that_is_cancelled_as_it_begins_gives_its_place_back(steps: int) -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        assert await heard(conversation.turn(script("One. "))) == "One."
        task = asyncio.create_task(heard(conversation.turn(script("Two. Three. ", math.inf))))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert await heard(conversation.turn(script("Four. "))) == "Four."
        assert speech.connections == 1
