from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from llm2ws.errors import LocalProtocolError, SourceError
from llm2ws.sources.aside import Aside
from llm2ws.sources.inlet import Inlet
from llm2ws.speech.dialects.deepgram_server import FlushIn
from llm2ws.testing import Drop, FaultySpeech, decode, script, tokens
from llm2ws.text.cleaner import Cleaner
from llm2ws.text.fragments import Piece, Policy
from llm2ws.turn import Audio, Done, Notice, NoticeKind, Outcome
from scripts.virtual_clock import run
from tests.turn.talk import CODING, STORY, final_flushes, first_audio, heard, talk


@pytest.mark.parametrize("error", [SourceError("the model failed", hint="try again"), ValueError("bad"), OSError("gone")])
async def test_a_failed_source_is_spoken_as_far_as_it_came(error: Exception) -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        events = list[object]()
        with pytest.raises(SourceError) as caught:
            async with conversation.turn(script(*tokens(STORY), " And then", error)) as turn:
                async for event in turn.events():
                    events.append(event)
        assert caught.value is error or caught.value.__cause__ is error
        assert "bad" not in str(caught.value)
        assert turn.outcome is Outcome.CUT_SHORT
        audio = b"".join(event.data for event in events if isinstance(event, Audio))
        assert decode(audio) == f"{STORY} And then"
        assert final_flushes(speech) == 1
        assert [event.kind for event in events if isinstance(event, Notice)] == [NoticeKind.SOURCE_FAILED]
        assert isinstance(events[-1], Done)
        assert await heard(conversation.turn(script("Next. "))) == "Next."


async def test_a_source_that_fails_before_its_first_token() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        turn = conversation.turn(script(SourceError("no answer")))
        with pytest.raises(SourceError, match="no answer"):
            await heard(turn)
        assert (turn.outcome, speech.count(FlushIn)) == (Outcome.CUT_SHORT, 0)


@pytest.mark.parametrize("item", [7, None, b"bytes", ["list"]])
async def test_a_source_of_the_wrong_type_is_named(item: object) -> None:
    async def source() -> AsyncIterator[object]:
        yield "Hello there, "
        yield item

    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        with pytest.raises(LocalProtocolError, match=type(item).__name__):
            await heard(conversation.turn(source()))  # type: ignore[arg-type]
        assert await heard(conversation.turn(script("Next. "))) == "Next."


async def test_what_is_no_source_is_named_before_anything_is_begun() -> None:
    async def source() -> AsyncIterator[str]:
        yield "Hello."

    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        for wrong in ("Hello.", ["Hello."], source, None):
            with pytest.raises(LocalProtocolError, match=rf"a {type(wrong).__name__} is no source: give from_text\("):
                conversation.turn(wrong)  # type: ignore[arg-type]


class Broken(Cleaner):
    def feed(self, text: str) -> list[Piece]:
        raise ZeroDivisionError


async def test_a_source_is_not_to_blame_for_a_bug_in_what_reads_it() -> None:
    async with FaultySpeech() as speech, talk(speech, cleaner=Broken) as conversation:
        with pytest.raises(ZeroDivisionError):
            await heard(conversation.turn(script("Hello.")))


async def test_an_inlet_is_a_source_and_holds_back_whoever_pushes() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        inlet = Inlet(max_items=2)

        async def push() -> None:
            for token in tokens(STORY):
                await inlet.put(token)
            inlet.end()

        async with asyncio.TaskGroup() as group:
            group.create_task(push())
            assert await heard(conversation.turn(inlet)) == STORY
        inlet = Inlet(max_items=2)
        async with asyncio.TaskGroup() as group:
            async with conversation.turn(inlet):
                pusher = group.create_task(push())
                await asyncio.sleep(0)
            await pusher  # the reader is gone: nothing waits
        inlet = Inlet()
        await inlet.put("So far, so good. ")
        inlet.fail(ValueError("x"))
        with pytest.raises(SourceError, match="ValueError"):
            await heard(conversation.turn(inlet))


async def test_a_pause_of_the_model_lets_go_what_is_held() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        inlet = Inlet()
        async with conversation.turn(inlet) as turn:
            await inlet.put("Hello there.")
            assert await first_audio(turn)
            await speech.until(lambda s: s.texts() == ["Hello there. "])
            inlet.end()
            async for _ in turn.audio():
                pass


async def test_a_source_that_fails_while_the_turn_looks_for_another_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.drops.append(Drop(after_chars=5))
        speech.refusals.clear()
        inlet = Inlet(max_items=100)
        for token in tokens(STORY):
            await inlet.put(token)
        async with conversation.turn(inlet) as turn:
            await speech.until(lambda s: s.connections == 2)
            inlet.fail(ValueError("gone"))
            audio = b""
            with pytest.raises(SourceError):
                async for chunk in turn.audio():
                    audio += chunk
        assert decode(audio) == STORY
        assert turn.outcome is Outcome.CUT_SHORT


async def a_source_that_waits_for_what_is_cancelled() -> AsyncIterator[str]:
    yield "Hello there. "
    await cancelled()


async def cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(9))
    task.cancel()
    await task


async def test_a_source_in_which_something_is_cancelled_has_failed() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        turn = conversation.turn(a_source_that_waits_for_what_is_cancelled())
        with pytest.raises(SourceError, match="CancelledError"):
            await heard(turn)
        assert (turn.outcome, speech.texts()) == (Outcome.CUT_SHORT, ["Hello there. "])


@pytest.mark.parametrize("by", ["leaving", "interrupting"])
async def test_a_source_is_closed_even_when_the_turn_is_over_at_once(by: str) -> None:
    closed = asyncio.Event()
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        async with conversation.turn(script("Hello. ", math.inf, on_close=closed.set)) as turn:
            if by == "interrupting":
                await turn.interrupt()
        assert closed.is_set()


@pytest.mark.parametrize("sign", ["", Aside("tool_call")], ids=["nothing", "an aside"])
def test_a_source_that_gives_anything_at_all_is_alive(sign: str | Aside) -> None:
    async def thinking() -> AsyncIterator[str | Aside]:
        for _ in range(10):
            yield sign
            await asyncio.sleep(4.0)
        yield "Done. "

    async def speak() -> None:
        async with FaultySpeech(coding=CODING) as speech, talk(speech, token_s=5.0) as conversation:
            assert await heard(conversation.turn(thinking())) == "Done."

    run(speak())


def test_a_dead_source_may_take_its_time_to_close() -> None:
    """What is held is let go, and the watchdog is not wound up again."""

    async def slow_to_close() -> AsyncIterator[str]:
        try:
            for token in ("One ", "two ", "three ", "4."):
                yield token
                await asyncio.sleep(2.0)
            await asyncio.sleep(math.inf)
        finally:
            await asyncio.sleep(20.0)

    async def speak() -> None:
        async with FaultySpeech(coding=CODING) as speech, talk(speech, token_s=5.0) as conversation:
            with pytest.raises(SourceError, match="gave nothing for 5 s"):
                await heard(conversation.turn(slow_to_close()))
            assert "".join(speech.texts()).split() == ["One", "two", "three", "4."]

    run(speak())


@pytest.mark.parametrize("policy", Policy)
async def test_a_character_may_come_in_two_tokens(policy: Policy) -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech, policy=policy) as conversation:
        await heard(conversation.turn(script("The letter \ud835", "\udc00. ", "And half \ud835")))
        assert " ".join("".join(speech.texts()).split()) == "The letter \U0001d400. And half"
