from __future__ import annotations

import asyncio

import pytest

from llm2ws.errors import ConnectFailed
from llm2ws.links.health import QUICK_DEATHS
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup, Traits
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.messages import Event
from llm2ws.testing import Drop, Faults, FaultySpeech, How
from scripts.virtual_clock import run
from tests.links.leasing import CODING, FORMAT, endpoint, ignore, speak


async def test_an_endpoint_that_hangs_up_at_once_is_an_error_by_name() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
        where = endpoint(speech)
        speech.drops.extend([Drop(How.CLOSE, code=1011, reason="NET-0000")] * 20)
        with pytest.raises(ConnectFailed, match=r"ended 3 times without audio.*NET-0000"):
            for _ in range(QUICK_DEATHS + 2):
                told: asyncio.Queue[Event] = asyncio.Queue()
                await pool.lease([where], told.put_nowait)
                await told.get()
        assert speech.connections <= QUICK_DEATHS + 1  # the last end may not have been counted yet


class Uncancelled(Deepgram):
    """An endpoint that has no message for Cancel."""

    traits = Traits(cancels=False)


@pytest.mark.parametrize(("speaks", "drop"), [(Deepgram, None), (Uncancelled, None), (Deepgram, Drop(How.CLOSE, at_message=1))])
def test_interruptions_before_there_is_audio_say_nothing_about_the_endpoint(speaks: type[Deepgram], drop: Drop | None) -> None:
    """It may not confirm them in time, or hang up."""

    async def interrupt() -> None:
        async with FaultySpeech(coding=CODING) as speech, Pool() as pool:
            where = Endpoint(speaks(Setup(speech.url, "", FORMAT)), "test")
            speech.faults = Faults(first_byte_s=3.0, cleared_s=1.5 if drop is None else 0.5)
            for _ in range(QUICK_DEATHS):
                speech.drops.extend([drop] if drop else [])
                slot, _ = await pool.lease([where], ignore)
                slot.speak("Hello. ")
                slot.flush()
                slot.cancel()
                await speech.until(lambda s: s.open == 0)
            speech.faults = Faults()
            assert (await speak(pool, where)).connection.ended is None

    run(interrupt())


async def test_what_was_tried_once_is_no_failure_of_who_may_try_for_longer() -> None:
    async with FaultySpeech(coding=CODING) as busy, FaultySpeech(coding=CODING) as speech, Pool() as pool:
        busy.refusals.append(503)
        one, other = endpoint(busy, name="busy"), endpoint(speech)
        (_, first), (_, second) = await asyncio.gather(pool.lease([one, other], ignore), pool.lease([one], ignore))
        assert (first, second) == (other, one)
