"""Faults of connections, listeners and models, one by one and together: for each there is one outcome.

Minutes pass in seconds here: sockets are real, the clock is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import signal
from collections.abc import AsyncIterator
from random import Random
from typing import Literal

import pytest

from llm2ws.errors import SourceError, TurnLost
from llm2ws.links.pool import Endpoint
from llm2ws.localspeech.engine import Engine
from llm2ws.localspeech.server import SpeechServer
from llm2ws.service import Service
from llm2ws.settings.fields import Settings, Speech
from llm2ws.speech.dialect import Limits, Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.utterance.pacing import AHEAD_S, Pace
from llm2ws.testing import Coding, Drop, Faults, FaultyNetwork, FaultySpeech, How, Renderer, decode, script, tokens
from llm2ws.turn import Audio, Conversation, Notice, NoticeKind, Outcome, Turn, TurnEvent
from llm2ws.turn.feeder import SLICE_CHARS
from scripts.bench_seam import STRETCHES, compare, cuts
from scripts.bench_seam import TEXT as REPLY
from scripts.virtual_clock import run
from tests.support import ROOT
from tests.whole import FORMAT, audio_of, endpoint, final_flushes, heard, listen, sentences, talk

SLOW = Coding(char_samples=480, lead_in_s=0.0)  # 60 ms a character: speech at its usual speed
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."


# --- connections that break


def check_cuts(stretch: float, *, seed: int, max_frame_bytes: int) -> None:
    done = list(cuts(stretch, seed=seed, max_frame_bytes=max_frame_bytes))
    assert len(done) > 50
    assert not any(cut.lost for cut in done)
    assert max(cut.twice for cut in done) <= (1 if stretch else 0)
    assert all(cut.exact for cut in done if not stretch)
    assert all(cut.late_s <= cut.allowed_s for cut in done)
    share = sum(cut.twice > 0 for cut in done) / len(done)
    # Most cuts are within a word, which is then heard whole: only a few of these places are found to be in a pause.
    assert share <= 0.85
    print(f"variation of {stretch:.0%}: {share:.0%} of {len(done)} seams repeat a word")


@pytest.mark.parametrize("stretch", [*(pytest.param(s, marks=pytest.mark.soak) for s in (0.0, 0.02)), 0.08])
def test_a_reply_cut_at_every_frame_loses_no_word_and_repeats_at_most_one(stretch: float) -> None:
    check_cuts(stretch, seed=0, max_frame_bytes=16_000)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "stretch"), list(enumerate(STRETCHES, 1)))
def test_the_same_with_small_frames_and_other_variations(seed: int, stretch: float) -> None:
    check_cuts(stretch, seed=seed, max_frame_bytes=3_840)


@pytest.mark.parametrize("at_frame", range(50, 102, 4))
def test_a_slow_voice_is_cut_while_much_of_its_text_is_under_way(at_frame: int) -> None:
    """What is said again is longer than anyone would wait for, as is known by now: it is said again none the less."""

    async def speak() -> None:
        slow = Coding(char_samples=2_800)  # 0.35 s a character
        async with FaultySpeech(coding=slow, limits=Enforced(), max_frame_bytes=32_000) as speech:
            async with talk(endpoint(speech), pace=Pace.NONE) as conversation:
                speech.drops.append(Drop(at_frame=at_frame))
                said = await heard(conversation.turn(script(sentences(900))))
                assert compare(said, sentences(900)) in ((0, 0), (0, 1))

    run(speak())


@pytest.mark.parametrize("resume", ["seam", "next-group", "fail"])
def test_what_becomes_of_a_broken_text_is_a_setting(resume: Literal["seam", "next-group", "fail"]) -> None:
    async def speak() -> None:
        async with FaultySpeech(coding=SLOW, pace=3.0) as speech:
            entry = Speech(dialect="deepgram", url=speech.url, resume=resume, sample_rate_hz=FORMAT.sample_rate_hz)
            async with Service(Settings(speech={"main": entry}), llms=[]) as service:
                speech.drops.append(Drop(at_frame=20))
                async with service.conversation().turn(script(*tokens(STORY))) as turn:
                    events = list[TurnEvent]()
                    with contextlib.nullcontext() if resume != "fail" else pytest.raises(TurnLost):
                        async for event in turn.events():
                            events.append(event)
        said = decode(audio_of(events)).split()
        told = [event.kind for event in events if isinstance(event, Notice)]
        assert STORY.startswith(" ".join(said[:3]))
        match resume:
            case "seam":
                assert " ".join(said) == STORY
                assert (told, turn.stats.left_out_chars) == ([NoticeKind.RESUMED], 0)
            case "next-group":
                assert said[-1] == STORY.split()[-1] or turn.stats.left_out_chars
                assert 0 < turn.stats.left_out_chars < len(STORY)
                assert (told, turn.outcome) == ([NoticeKind.RESUMED], Outcome.DONE)
            case "fail":
                assert (told, turn.outcome) == ([], Outcome.LOST)

    run(speak())


# --- interruptions


@pytest.mark.soak
def test_two_hundred_interruptions_at_random_moments_leave_nothing_behind() -> None:
    random = Random(5)

    async def interrupt(conversation: Conversation, speech: FaultySpeech, number: int) -> float:
        """One turn that is interrupted. Gives how much speech had been asked for in vain, in seconds."""
        before = len(speech.texts())
        speech.pace = random.choice((1.2, 3.0, None))
        speech.faults = Faults(first_byte_s=random.choice((0.0, 0.1)), audio_after_clear_s=0.1, stale_flushed=True)
        words = " ".join(f"turn{number}word{n}{'.' if n % 9 == 8 else ''}" for n in range(100))
        gap_s = random.choice((0.0, 0.02, 0.2))
        steps = [step for token in tokens(words) for step in ((token, gap_s) if gap_s else (token,))]
        closed = asyncio.Event()
        async with conversation.turn(script(*steps, math.inf, on_close=closed.set)) as turn:
            begin = asyncio.get_running_loop().time()
            listener = asyncio.create_task(take(turn))
            await asyncio.sleep(random.uniform(0.001, 12.0))
            began_s = turn.stats.first_audio_s
            lasted_s = asyncio.get_running_loop().time() - begin
            await turn.interrupt()
            assert closed.is_set()
            audio = await listener
            assert words.startswith(decode(audio)), number
        # It is played from when it comes, unless it comes too slowly.
        played_s = 0.0 if began_s is None else min(FORMAT.seconds(len(audio)), lasted_s - began_s)
        assert turn.outcome is Outcome.INTERRUPTED
        sent = Renderer(SLOW, FORMAT.sample_rate_hz, Random(0)).say("".join(speech.texts()[before:]))
        return FORMAT.seconds(len(sent)) - played_s

    async def interrupt_again_and_again() -> None:
        async with FaultySpeech(coding=SLOW, limits=UNLIMITED) as speech:
            where = endpoint(speech, limits=Limits(chars_per_speak=2_000))  # for any others a connection would not be enough
            async with talk(where, pace=Pace.LISTENER) as conversation:
                in_vain = [await interrupt(conversation, speech, number) for number in range(200)]
            assert speech.connections == 1
        print(f"at most {max(in_vain):.1f} s were asked for in vain")
        assert 10.0 < max(in_vain) <= AHEAD_S

    run(interrupt_again_and_again())


async def take(turn: Turn) -> bytes:
    return b"".join([chunk async for chunk in turn.audio()])


# --- models and endpoints that fail together


QUICK = Coding(char_samples=1, word_pause_s=0.001, sentence_pause_s=0.001, lead_in_s=0.0)
UNLIMITED = Enforced()


def test_a_model_that_dies_while_its_turn_looks_for_another_connection() -> None:
    async def die() -> None:
        async with FaultySpeech(coding=SLOW, pace=3.0) as speech, talk(endpoint(speech)) as conversation:
            speech.drops.append(Drop(at_frame=2))
            speech.faults = Faults(handshake_s=1.0)
            source = script(*tokens(STORY), 1.7, " And then", SourceError("the model is gone"))
            async with conversation.turn(source) as turn:
                with pytest.raises(SourceError, match="gone"):
                    audio = bytearray()
                    async for event in turn.events():
                        if isinstance(event, Audio):
                            audio += event.data
                assert decode(bytes(audio)) == f"{STORY} And then"
                assert turn.outcome is Outcome.CUT_SHORT
                assert turn.stats.resumed == 1
            assert final_flushes(speech) == 1
            assert await heard(conversation.turn(script("Next. "))) == "Next."

    run(die())


def test_a_model_that_stands_still_while_an_interruption_is_confirmed() -> None:
    async def stall() -> None:
        async with FaultySpeech(coding=SLOW, pace=2.0) as speech, talk(endpoint(speech)) as conversation:
            speech.faults = Faults(cleared_s=0.8, stale_flushed=True)
            async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
                await speech.until(lambda s: s.frames > 2)
            speech.faults = Faults(stale_flushed=True)
            # The next model begins while the place is being cleared, then pauses with a sure end held.
            async with conversation.turn(script("One more", 0.3, " thing.", 30.0, " And another. ")) as turn:
                audio = b"".join([chunk async for chunk in turn.audio()])
            assert decode(audio) == "One more thing. And another."
            assert speech.connections == 1

    run(stall())


def test_a_stalled_model_and_a_dropped_connection_each_have_their_own_end() -> None:
    async def stall() -> None:
        async with FaultySpeech(coding=SLOW, pace=2.0) as speech:
            async with talk(endpoint(speech), token_s=20.0) as conversation:
                speech.drops.append(Drop(at_frame=4))
                async with conversation.turn(script(*tokens(STORY), math.inf)) as turn:
                    audio = bytearray()
                    with pytest.raises(SourceError, match="nothing for 20 s"):
                        async for chunk in turn.audio():
                            audio += chunk
                assert decode(bytes(audio)) == STORY
                assert (turn.outcome, turn.stats.resumed) == (Outcome.CUT_SHORT, 1)

    run(stall())


def test_one_token_of_a_megabyte_over_connections_that_break() -> None:
    text = "word " * 200_000

    async def speak() -> None:
        async with FaultySpeech(coding=QUICK, limits=UNLIMITED, max_frame_bytes=20_000) as speech:
            async with talk(endpoint(speech, limits=Limits(chars_per_speak=2_000))) as conversation:
                speech.drops.extend([Drop(How.CUT, at_frame=1), Drop(How.RESET, at_frame=50)])
                turn = conversation.turn(script(text))
                words = (await heard(turn)).split()
                # Of a voice that says the same word for ever, a place is like any other.
                assert words.count("word") >= 200_000 - 2
                assert (turn.outcome, turn.stats.resumed) == (Outcome.DONE, 2)
                assert max(map(len, speech.texts())) <= 2_000

    run(speak())


def test_a_long_text_is_worked_on_in_slices_between_which_others_have_the_loop() -> None:
    text = "<" * 50_000  # which takes long to clean
    rounds = 0

    async def speak() -> None:
        loop = asyncio.get_running_loop()
        reading = True

        def count() -> None:
            nonlocal rounds
            rounds += 1
            if reading:
                loop.call_soon(count)

        async def source() -> AsyncIterator[str]:
            nonlocal reading
            count()
            yield text
            reading = False

        async with FaultySpeech(coding=QUICK, limits=UNLIMITED) as speech, talk(endpoint(speech)) as conversation:
            turn = conversation.turn(source())
            await heard(turn)
            assert (turn.outcome, turn.stats.source_chars) == (Outcome.DONE, len(text))

    run(speak())
    assert rounds >= len(text) / SLICE_CHARS


def test_a_hundred_thousand_tokens_over_a_connection_that_breaks() -> None:
    pieces = [f" {n}," for n in range(100_000)]

    async def speak() -> None:
        async with FaultySpeech(coding=QUICK, limits=UNLIMITED, max_frame_bytes=20_000) as speech:
            async with talk(endpoint(speech, limits=Limits(chars_per_speak=2_000))) as conversation:
                speech.drops.append(Drop(at_frame=20))
                turn = conversation.turn(script(*pieces))
                assert await heard(turn) == "".join(pieces).strip()
                assert turn.outcome is Outcome.DONE

    run(speak())


NOTHING = [(" ",) * 500, ("\n\n", "\t", " ") * 50, ("```py\n", *["x = 1\n"] * 200, "```\n"), ("...", " — ", "!")]


@pytest.mark.parametrize("steps", NOTHING, ids=["blanks", "lines", "code", "marks"])
@pytest.mark.parametrize("fault", ["none", "refused", "dropped"])
def test_a_text_with_nothing_to_say_whatever_the_endpoint_does(steps: tuple[str, ...], fault: str) -> None:
    async def speak() -> None:
        async with FaultySpeech(coding=QUICK) as speech, talk(endpoint(speech)) as conversation:
            if fault == "refused":
                speech.refusals.append(503)
            if fault == "dropped":
                speech.drops.append(Drop())
            turn = conversation.turn(script(*steps))
            said = await heard(turn)
            assert turn.outcome is Outcome.DONE
            assert said in ("", "The code is on your screen.")
            assert final_flushes(speech) == (1 if said else 0)
            assert await heard(conversation.turn(script("Next. "))) == "Next."

    run(speak())


# --- a real voice, real time


async def test_the_embedded_endpoint_cut_anywhere_is_heard_to_its_end() -> None:
    async with Engine() as engine, SpeechServer(engine) as server, FaultyNetwork(server.address[1]) as network:
        where = Endpoint(Deepgram(Setup(f"ws://127.0.0.1:{network.port}", "en-us", FORMAT)), name="embedded")
        async with talk(where) as conversation:
            whole_s = FORMAT.seconds(len(audio_of(await listen(conversation.turn(script(REPLY))))))
            for cut_s in range(1, int(whole_s), 2):
                network.cut_after = FORMAT.bytes_for(cut_s)
                turn = conversation.turn(script(REPLY))
                events = await listen(turn)
                notices = [event for event in events if isinstance(event, Notice)]
                assert [notice.kind for notice in notices] == [NoticeKind.RESUMED] * turn.stats.resumed
                assert turn.outcome is Outcome.DONE
                again_s = FORMAT.seconds(len(audio_of(events))) - whole_s
                # This voice gives 20 ms more or less for each group of words.
                assert -0.1 < again_s < 1.1, cut_s
                assert turn.spoken.split(turn.stats.audio_s).heard == REPLY
            assert network.connections > whole_s / 3


async def test_a_speech_engine_that_is_killed_in_mid_turn() -> None:
    async with Engine() as engine, SpeechServer(engine, pace=40.0) as server:
        where = Endpoint(Deepgram(Setup(server.url, "en-us", FORMAT)), name="embedded")
        async with talk(where) as conversation:
            whole_s = FORMAT.seconds(len(audio_of(await listen(conversation.turn(script(REPLY))))))
            async with conversation.turn(script(REPLY)) as turn:
                audio, killed = b"", False
                async for chunk in turn.audio():
                    audio += chunk
                    if not killed and len(audio) > FORMAT.bytes_for(whole_s / 3):
                        assert engine.pid is not None
                        os.kill(engine.pid, signal.SIGKILL)
                        killed = True
            assert turn.outcome is Outcome.DONE
            assert turn.stats.resumed == 1
            assert -0.1 < FORMAT.seconds(len(audio)) - whole_s < 1.1


# --- the page about it


def test_each_row_of_the_page_about_faults_names_a_test_that_there_is() -> None:
    page, _, _ = (ROOT / "docs" / "faults.md").read_text().partition("## How sure")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| fault |")]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert re.search(rf"^(async )?def {name}\(|^class {name}\(", (ROOT / path).read_text(), re.MULTILINE), row
