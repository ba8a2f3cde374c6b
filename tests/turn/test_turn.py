"""Turns over real sockets: what is heard, in every order of events that a listener, a model and an endpoint can bring about."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from random import Random

import pytest

from llm2ws.audio import AudioFormat
from llm2ws.errors import LocalProtocolError, SlowConsumerError, SourceError, SpeechError, TurnLost
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.sources.aside import Aside
from llm2ws.sources.inlet import Inlet
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import ClearIn, CloseIn, FlushIn, SpeakIn
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.speech.utterance.utterance import Resume
from llm2ws.testing import Coding, Drop, Faults, FaultyNetwork, FaultySpeech, How, decode, script, tokens
from llm2ws.text.cleaner import Cleaner
from llm2ws.text.fragments import Piece, Policy
from llm2ws.turn import Audio, Conversation, Done, Notice, NoticeKind, Outcome, Said, Turn
from scripts.virtual_clock import run

FORMAT = AudioFormat(sample_rate_hz=8_000)
# 10 ms a character: long enough for a seam to be found, short enough for a test.
CODING = Coding(char_samples=80, word_pause_s=0.06, sentence_pause_s=0.12, lead_in_s=0.0)
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."


@asynccontextmanager
async def talk(speech: FaultySpeech, **options: object) -> AsyncIterator[Conversation]:
    """A conversation with an endpoint. What it does not know of a turn's options goes to the Endpoint."""
    own = {name: options.pop(name) for name in ("limits", "silence_s", "connections") if name in options}
    endpoint = Endpoint(Deepgram(Setup(speech.url, "", FORMAT, speech.key or "")), name="test", **own)  # type: ignore[arg-type]
    async with Pool() as pool:
        yield Conversation(pool, [endpoint], **options)  # type: ignore[arg-type]


async def heard(turn: Turn) -> str:
    """All of a turn, as words."""
    async with turn:
        return decode(b"".join([chunk async for chunk in turn.audio()]))


def feeding(turn: Turn) -> asyncio.Task[None]:
    """The task that reads a turn's source."""
    return turn._tasks[0]


def speaking(turn: Turn) -> asyncio.Task[None]:
    """The task that speaks a turn."""
    return turn._tasks[1]


async def first_audio(turn: Turn) -> bytes:
    async with aclosing(turn.audio()) as audio:
        return await anext(audio)


def final_flushes(speech: FaultySpeech) -> int:
    """How many Flushes come after the last Speak."""
    kinds = [type(entry.message) for entry in speech.log]
    return kinds[::-1].index(SpeakIn) if SpeakIn in kinds else kinds.count(FlushIn)


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


async def test_what_happens_is_told_in_order() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        source: AsyncIterator[str | Aside] = script(Aside("first"), *tokens(STORY), Aside("finish", {"reason": "stop"}))
        async with conversation.turn(source) as turn:
            events = [event async for event in turn.events()]
        assert [event.kind for event in events if isinstance(event, Aside)] == ["first", "finish"]
        said = [event for event in events if isinstance(event, Said)]
        assert "".join(event.text for event in said).split() == STORY.split()
        assert all(" ".join(STORY[slice(*event.span)].split()) == event.text.strip() for event in said)
        assert [event.at_s for event in said] == sorted(event.at_s for event in said)
        at_s = 0.0
        for event in events:
            if isinstance(event, Audio):
                assert event.at_s == pytest.approx(at_s)
                assert len(event.data) % 2 == 0
                at_s += FORMAT.seconds(len(event.data))
        done = events[-1]
        assert isinstance(done, Done)
        assert done.outcome is Outcome.DONE
        assert done.spoken.split(at_s) == (STORY, "", 0.0)
        stats = done.stats
        assert stats.audio_s == pytest.approx(at_s)
        times = [stats.first_token_s, stats.first_fragment_s, stats.first_speak_s, stats.first_flush_s, stats.first_audio_s]
        assert times == sorted(times)  # type: ignore[type-var]
        assert (stats.source_chars, stats.flushes) == (len(STORY), speech.count(FlushIn))
        assert [event async for event in turn.events()] == []


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


async def test_a_long_text_keeps_every_limit_of_the_endpoint() -> None:
    enforced = Enforced(chars=2_400, flushes=20, window_s=0.3)
    text = " ".join(f"Sentence number {n} says little, but it says it." for n in range(150))
    quick = Coding(char_samples=1, word_pause_s=0.001, sentence_pause_s=0.001, lead_in_s=0.0)
    async with FaultySpeech(coding=quick, limits=enforced) as speech:
        limits = Limits(2_000, 2_400, 20, 8, window_s=0.6)  # a busy machine delays messages
        async with talk(speech, limits=limits) as conversation:
            turn = conversation.turn(script(text))
            assert await heard(turn) == text
            assert turn.stats.refused_flushes == 0
        assert [how.code for how in speech.closed_with] == [1000]


@pytest.mark.parametrize("policy", Policy)
async def test_a_token_of_any_length_is_cut_for_the_endpoint(policy: Policy) -> None:
    quick = Coding(char_samples=1, word_pause_s=0.001, sentence_pause_s=0.001, lead_in_s=0.0)
    text = "word " * 2_000 + "x" * 3_000
    limits = Limits(chars_per_speak=500)
    async with (
        FaultySpeech(coding=quick, limits=Enforced()) as speech,
        talk(speech, policy=policy, limits=limits) as conversation,
    ):
        await heard(conversation.turn(script(text)))
        assert "".join(speech.texts()).replace(" ", "") == text.replace(" ", "")
        assert max(map(len, speech.texts())) <= 500


async def test_marks_without_end_are_left_out_and_not_sent() -> None:
    limits = Limits(chars_per_speak=200)
    async with FaultySpeech(coding=CODING, limits=Enforced()) as speech, talk(speech, limits=limits) as conversation:
        turn = conversation.turn(script("One. ", *["... "] * 300, "Two. "))
        assert (await heard(turn)).replace(".", "").split() == ["One", "Two"]
        assert max(map(len, speech.texts())) <= 200


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


async def test_an_interruption_tells_what_was_heard() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        async with conversation.turn(script(*tokens(STORY))) as turn:
            async for event in turn.events():
                if isinstance(event, Done):
                    break
            half = await turn.interrupt(turn.stats.audio_s / 2)
        assert half.heard + half.unheard == STORY
        assert half.heard
        assert half.unheard
        assert half.heard[-1].isspace() or half.unheard[0].isspace()
        assert turn.outcome is Outcome.DONE  # it had been handed out to its end


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


async def test_a_turn_is_used_once() -> None:
    async with FaultySpeech(coding=CODING) as speech, talk(speech) as conversation:
        turn = conversation.turn(script("One. "))
        with pytest.raises(LocalProtocolError):
            await turn.interrupt()
        assert await heard(turn) == "One."
        with pytest.raises(LocalProtocolError, match="started before"):
            await heard(turn)


# --- connections that break


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


# --- sources as strange as they come ------------------------------------------------------------------------------------------


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
