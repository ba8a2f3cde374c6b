"""When a speech endpoint fails in the middle of a turn, the next one goes on with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest
import uvloop

from llm2ws.errors import TurnLost
from llm2ws.links.breaker import REST_S
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_v2 import DeepgramV2
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Coding, Drop, FaultySpeech, How, decode, script, tokens
from llm2ws.turn import Conversation, Notice, NoticeKind, Outcome
from scripts.bench_seam import compare
from scripts.virtual_clock import run
from tests.vendors.deepgram_v2 import DeepgramV2Server
from tests.whole import FORMAT, audio_of, endpoint, heard, listen, sentences

ONE = Coding(char_samples=480, lead_in_s=0.1)  # 60 ms a character
OTHER = Coding(char_samples=600, word_pause_s=0.1, lead_in_s=0.0)  # another voice, a slower one
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."


@asynccontextmanager
async def two_endpoints(pace: float | None = 3.0) -> AsyncIterator[tuple[FaultySpeech, FaultySpeech, Conversation]]:
    async with (
        FaultySpeech(coding=ONE, pace=pace, max_frame_bytes=8_000) as one,
        FaultySpeech(coding=OTHER, pace=pace) as other,
    ):
        async with Pool() as pool:
            yield one, other, Conversation(pool, [endpoint(one, name="one"), endpoint(other, name="other")], pace=Pace.LISTENER)


async def killed_at(at_frame: int) -> bool:
    """One reply whose first endpoint dies before this frame of audio; False where it has no so many."""
    async with two_endpoints() as (one, other, conversation):
        one.drops.append(Drop(at_frame=at_frame))
        killer = asyncio.create_task(refuse_from_then_on(one))
        turn = conversation.turn(script(*tokens(STORY)))
        events = await listen(turn)
        if one.drops:
            killer.cancel()
            return False
        said = decode(audio_of(events))
        assert compare(said, STORY)[0] == 0, (at_frame, said)
        assert len(said.replace(" ", "")) - len(STORY.replace(" ", "")) <= turn.stats.repeated_chars
        # What is heard again is a fragment, from its start.
        assert turn.stats.repeated_chars <= max(map(len, other.texts()))
        told = [event.kind for event in events if isinstance(event, Notice)]
        assert NoticeKind.FAILED_OVER in told
        assert turn.outcome is Outcome.DONE
        assert turn.spoken.split(turn.stats.audio_s).heard == STORY
    return True


async def refuse_from_then_on(speech: FaultySpeech) -> None:
    await speech.until(lambda s: not s.drops)
    speech.refusals.extend([503] * 1_000)


def test_an_endpoint_that_dies_at_any_frame_is_replaced_and_every_word_is_heard() -> None:
    frames = next(at_frame for at_frame in count() if not run(killed_at(at_frame)))
    assert frames > 15


def test_the_first_endpoint_is_in_use_again_once_its_rest_is_over() -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, other, conversation):
            assert await heard(conversation.turn(script("One. "))) == "One."
            one.drops.append(Drop(at_frame=0))
            killer = asyncio.create_task(refuse_from_then_on(one))
            for n in range(4):
                assert await heard(conversation.turn(script(f"Turn {n}. "))) == f"Turn {n}."
            await killer
            tried = one.handshakes
            assert len(one.texts()) == 2  # the first turn, and the one in which it died
            assert len(other.texts()) == 4
            assert await heard(conversation.turn(script("While it rests. "))) == "While it rests."
            assert one.handshakes == tried  # after so many failures it is left alone
            one.refusals.clear()
            await asyncio.sleep(REST_S)
            assert await heard(conversation.turn(script("Back again. "))) == "Back again."
            assert one.texts()[-1] == "Back again. "

    run(speak())


def test_a_stand_in_that_needs_no_flush_speaks_a_long_text_whole() -> None:
    """Where the first cannot be had at all: groups are cut for the one that speaks."""

    async def speak() -> None:
        async with FaultySpeech() as down, DeepgramV2Server(coding=Coding(char_samples=480)) as up, Pool() as pool:
            down.refusals.extend([503] * 100)
            stand_in = Endpoint(DeepgramV2(Setup(up.url, "", FORMAT)), name="up")
            turn = Conversation(pool, [endpoint(down, name="down"), stand_in]).turn(script(*tokens(sentences(600))))
            await listen(turn)
            assert turn.outcome is Outcome.DONE
            assert "".join(up.texts()).rstrip() == sentences(600)

    run(speak())


def test_an_endpoint_that_takes_connections_and_stays_silent_is_replaced() -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, _, conversation):
            one.drops.extend([Drop(after_chars=1)] * 1_000)
            turn = conversation.turn(script(*tokens(STORY)))
            assert await heard(turn) == STORY
            assert turn.outcome is Outcome.DONE

    run(speak())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_endpoint_whose_proxy_closes_what_it_accepts_is_replaced(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def speak() -> None:
        async with FaultySpeech(coding=OTHER) as other:
            away = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
            async with away, Pool() as pool:
                url = f"ws://127.0.0.1:{away.sockets[0].getsockname()[1]}/v1/speak"
                first = Endpoint(Deepgram(Setup(url, "", FORMAT)), name="one")
                conversation = Conversation(pool, [first, endpoint(other, name="other")], pace=Pace.LISTENER)
                for _ in range(3):
                    turn = conversation.turn(script(*tokens(STORY)))
                    assert await heard(turn) == STORY
                    assert turn.outcome is Outcome.DONE

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(speak())


@pytest.mark.parametrize("at_frame", [None, 5])
def test_an_endpoint_that_refuses_a_text_for_good_is_replaced_in_this_turn(at_frame: int | None) -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, other, conversation):
            drop = Drop(How.CLOSE, code=1008, reason="DATA-0000", at_frame=at_frame, after_chars=None if at_frame else 1)
            one.drops.append(drop)
            turn = conversation.turn(script(*tokens(STORY)))
            events = await listen(turn)
            assert compare(decode(audio_of(events)), STORY)[0] == 0
            assert turn.outcome is Outcome.DONE
            assert NoticeKind.FAILED_OVER in [event.kind for event in events if isinstance(event, Notice)]
            assert (one.connections, other.connections) == (1, 1)  # what is refused for good is not tried there again
            # Another text may please it.
            assert await heard(conversation.turn(script("Next. "))) == "Next."
            assert one.texts()[-1] == "Next. "

    run(speak())


def test_when_all_endpoints_refuse_a_text_for_good_the_turn_is_lost_by_name() -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, other, conversation):
            for speech in (one, other):
                speech.drops.append(Drop(How.CLOSE, code=1008, reason="DATA-0000", after_chars=1))
            turn = conversation.turn(script(*tokens(STORY)))
            with pytest.raises(TurnLost, match="DATA-0000"):
                await listen(turn)
            assert (one.connections, other.connections) == (1, 1)

    run(speak())


# --- LLMs
