from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from llm2ws.errors import SpeechError, TurnLost
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.utterance.groups import Resume
from llm2ws.testing import Coding, Drop, Faults, FaultyNetwork, FaultySpeech, How, decode, script, tokens
from llm2ws.turn import Audio, Conversation, Notice, NoticeKind, Outcome
from tests.turn.talk import CODING, FORMAT, STORY, first_audio, heard, talk


@pytest.mark.parametrize("field", ["warn_code", "code"])
async def test_a_refused_flush_is_sent_again_when_its_window_has_passed(field: str) -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech, limits=Limits(window_s=0.12)) as conversation:
        speech.faults = Faults(warning=f'{{"type":"Warning","{field}":"EXCESSIVE_FLUSH"}}')
        speech.refuse_flushes = 3
        turn = conversation.turn(script(*tokens(STORY)))
        assert await heard(turn) == STORY
        assert turn.stats.refused_flushes == 3


async def test_noise_of_the_endpoint_is_no_harm() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.faults = Faults(noise=("{", "[]", '{"type":"Later"}', '{"type":"Warning","code":"HM"}', '{"type":"Error"}'))
        assert await heard(conversation.turn(script(*tokens(STORY)))) == STORY


async def test_a_clear_that_is_never_confirmed_costs_the_connection() -> None:
    async with FaultySpeech(coding=CODING, pace=1.0) as speech, talk(speech) as conversation:
        speech.faults = Faults(cleared_s=math.inf)
        async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
            await first_audio(turn)
        assert await heard(conversation.turn(script("Next. "))) == "Next."
        assert speech.connections == 2


async def test_a_late_cleared_keeps_the_connection() -> None:
    async with FaultySpeech(coding=CODING, pace=1.0) as speech, talk(speech) as conversation:
        speech.faults = Faults(cleared_s=0.1, audio_after_clear_s=0.05)
        async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
            await first_audio(turn)
        speech.pace = None
        assert await heard(conversation.turn(script("Next. "))) == "Next."
        assert speech.connections == 1


VARIED_START = replace(CODING, lead_in_s=0.2)


async def frames_of_the_story() -> int:
    async with FaultySpeech(coding=VARIED_START) as speech, talk(speech) as conversation:
        await heard(conversation.turn(script(*tokens(STORY))))
        return speech.frames


@pytest.mark.parametrize("how", How)
async def test_a_connection_cut_at_every_frame_loses_and_repeats_nothing(how: How) -> None:
    total = await frames_of_the_story()
    assert total > 10
    for at_frame in range(total):
        async with FaultySpeech(coding=VARIED_START) as speech, talk(speech) as conversation:
            speech.drops.append(Drop(how, at_frame=at_frame))
            async with conversation.turn(script(*tokens(STORY))) as turn:
                events = [event async for event in turn.events()]
            assert decode(b"".join(event.data for event in events if isinstance(event, Audio))) == STORY, at_frame
            assert turn.outcome is Outcome.DONE
            assert turn.stats.resumed == 1
            assert NoticeKind.RESUMED in [event.kind for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize("stretch", [0.02, 0.08])
async def test_a_voice_that_varies_loses_no_word(stretch: float) -> None:
    coding = Coding(char_samples=400, word_pause_s=0.06, sentence_pause_s=0.25, lead_in_s=0.2, stretch=stretch)
    words, repeats = STORY.split(), 0
    for seed in range(8):
        async with FaultySpeech(coding=coding, seed=seed) as speech, talk(speech) as conversation:
            speech.drops.append(Drop(at_frame=3 + 5 * seed))
            said = (await heard(conversation.turn(script(*tokens(STORY))))).split()
        position, extra = 0, 0
        for word in said:
            if position < len(words) and word == words[position]:
                position += 1
            else:
                extra += 1  # a word, or the part of one that had been heard, again
        assert position == len(words), (seed, said)
        assert extra <= 2, (seed, said)
        repeats += extra > 0
    print(f"stretch {stretch:.0%}: {repeats} of 8 seams repeat something")


async def test_a_connection_lost_before_any_audio_is_no_loss() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.drops.extend([Drop(after_chars=5), Drop(How.CUT, after_chars=5)])
        turn = conversation.turn(script(*tokens(STORY)))
        assert await heard(turn) == STORY
        assert (turn.stats.resumed, speech.connections) == (2, 3)


async def test_a_connection_lost_in_mid_group_is_lost_by_name_where_that_is_wanted() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech, resume=Resume.FAIL) as conversation:
        speech.drops.append(Drop(How.CLOSE, at_frame=1, code=1011, reason="NET-0000"))
        turn = conversation.turn(script(*tokens(STORY)))
        with pytest.raises(TurnLost, match=r"internal error \(1011 NET-0000\)") as caught:
            await heard(turn)
        assert turn.outcome is Outcome.LOST
        assert caught.value.delivered_s > 0
        assert await heard(conversation.turn(script("Next. "))) == "Next."


@pytest.mark.parametrize(("code", "reason"), [(1008, "DATA-0000"), (1003, "MESSAGE-0000"), (1009, "BIG-0001")])
async def test_what_can_only_fail_again_is_not_tried_again(code: int, reason: str) -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.drops.append(Drop(How.CLOSE, after_chars=1, code=code, reason=reason))
        turn = conversation.turn(script(*tokens(STORY)))
        with pytest.raises(TurnLost, match=reason):
            await heard(turn)
        assert turn.outcome is Outcome.LOST
        assert await heard(conversation.turn(script("Next. "))) == "Next."


async def test_silence_of_the_endpoint_is_a_lost_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech, silence_s=0.05) as conversation:
        speech.faults = Faults(first_byte_s=math.inf)
        async with conversation.turn(script(*tokens(STORY))) as turn:
            await speech.until(lambda s: s.connections == 2)
            speech.faults = Faults()
            assert decode(b"".join([chunk async for chunk in turn.audio()])) == STORY


async def test_a_network_that_swallows_everything_is_given_up_for_another_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech, FaultyNetwork(speech.port) as network:
        endpoint = Endpoint(Deepgram(Setup(f"ws://127.0.0.1:{network.port}", "", FORMAT)), silence_s=0.3)
        async with Pool() as pool:
            conversation = Conversation(pool, [endpoint])
            assert await heard(conversation.turn(script("Before. "))) == "Before."
            network.swallow()
            turn = conversation.turn(script(*tokens(STORY)))
            assert await heard(turn) == STORY
            assert (turn.stats.resumed, speech.connections) == (1, 2)


async def test_an_interruption_while_the_turn_looks_for_another_connection() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.drops.append(Drop(after_chars=5))
        closed = asyncio.Event()
        async with conversation.turn(script(*tokens(STORY), math.inf, on_close=closed.set)) as turn:
            await speech.until(lambda s: s.connections == 1)
            speech.faults = Faults(handshake_s=math.inf)
            await speech.until(lambda s: s.handshakes == 2)
            await turn.interrupt()
            assert closed.is_set()
            assert turn.outcome is Outcome.INTERRUPTED
        speech.faults = Faults()
        assert await heard(conversation.turn(script("Next. "))) == "Next."


async def test_an_endpoint_that_hangs_up_again_and_again_ends_the_turn_by_name() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        speech.drops.extend([Drop(How.CLOSE, after_chars=1, code=1011, reason="NET-0000")] * 50)
        turn = conversation.turn(script(*tokens(STORY)))
        with pytest.raises(SpeechError, match="NET-0000"):
            await heard(turn)
        assert turn.outcome is Outcome.LOST
        assert speech.connections < 10


async def test_an_end_of_life_between_turns_goes_unnoticed() -> None:
    async with FaultySpeech(coding=CODING, limits=Enforced(session_s=0.02)) as speech, talk(speech) as conversation:
        assert await heard(conversation.turn(script("One. "))) == "One."
        await speech.until(lambda s: s.open == 0)
        assert await heard(conversation.turn(script("Two. "))) == "Two."
