"""Long answers, slow listeners, many turns: limits are kept, nothing is lost, and memory stays what it was."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm2ws.speech.dialect import Limits
from llm2ws.speech.dialects.deepgram_server import ServerLimits as Enforced
from llm2ws.speech.dialects.deepgram_server import Violation
from llm2ws.speech.utterance.pacing import AHEAD_S, Pace
from llm2ws.testing import Coding, FaultySpeech, decode, script, tokens
from llm2ws.turn import Audio, Notice, NoticeKind, Outcome
from scripts.virtual_clock import run
from tests.whole import FORMAT, audio_of, endpoint, listen, sentences, talk

QUICK = Coding(char_samples=1, word_pause_s=0.001, sentence_pause_s=0.001, lead_in_s=0.0)
TEXT = sentences(20_000)
CHARS, FLUSHES, RESERVE = 2_400, 20, 8
READ_AHEAD_CHARS = 20_000  # beyond it the source is not read


async def speak_long(window_s: float, *, spill: bool = False, our_window_s: float | None = None) -> float:
    """20,000 characters against every limit, each counted over `window_s`: how long it took, in seconds."""
    now = asyncio.get_running_loop().time
    async with FaultySpeech(coding=QUICK, limits=Enforced(CHARS, FLUSHES, window_s=window_s)) as speech:
        limits = Limits(2_000, CHARS, FLUSHES, RESERVE, window_s=our_window_s or window_s)
        async with talk(endpoint(speech, limits=limits), spill=spill) as conversation:
            begin = now()
            turn = conversation.turn(script(*tokens(TEXT)))
            events = await listen(turn)
            took_s = now() - begin
            assert decode(audio_of(events)) == TEXT
            assert (turn.outcome, turn.stats.refused_flushes, turn.stats.resumed) == (Outcome.DONE, 0, 0)
            delays = [event for event in events if isinstance(event, Notice) and event.kind is NoticeKind.DELAYED]
            assert len(delays) == (1 if window_s > 1 and not spill else len(delays))
            assert speech.connections >= 2 if spill else speech.connections == 1
        assert speech.closed_with == [Violation(1000, "")] * speech.connections
    return took_s


def demanded_s(window_s: float, connections: int = 1) -> float:
    """What the limit on characters itself demands: full windows before the last characters may be sent."""
    return (-(-len(TEXT) // (CHARS * connections)) - 1) * window_s


def test_a_long_answer_keeps_every_limit_and_takes_no_longer_than_they_demand() -> None:
    took_s = run(speak_long(60.0))
    assert demanded_s(60.0) <= took_s <= 1.1 * demanded_s(60.0)


def test_with_spill_a_second_connection_takes_over_and_every_limit_is_kept() -> None:
    took_s = run(speak_long(60.0, spill=True))
    assert demanded_s(60.0, 2) <= took_s <= 1.1 * demanded_s(60.0, 2)


async def test_the_same_in_real_time_with_shorter_windows() -> None:
    await speak_long(0.3, our_window_s=0.33)  # what a busy machine may delay a message by counts for more in a short window


@pytest.mark.soak
@pytest.mark.parametrize("spill", [False, True])
async def test_the_same_in_real_time_with_windows_of_a_second(spill: bool) -> None:
    await speak_long(1.0, our_window_s=1.05, spill=spill)


# --- a slow consumer


async def answer(n: int) -> AsyncIterator[str]:
    for number in range(n):
        yield f" w{number}{'.' if number % 12 == 11 else ''}"


async def listen_slowly(n_tokens: int, char_samples: int) -> int:
    """Audio is taken at a tenth of real time; the endpoint and the model are as fast as they are allowed to be.

    Gives the most memory that was in use, in bytes, besides the audio that was taken; 0 unless it is traced.
    """
    pause_s = 2 / FORMAT.sample_rate_hz
    coding = Coding(char_samples, word_pause_s=pause_s, sentence_pause_s=pause_s, lead_in_s=0.0)
    heard, most_waiting_s, most_waiting_chars = bytearray(), 0.0, 0
    async with FaultySpeech(coding=coding, limits=Enforced()) as speech:
        where = endpoint(speech, limits=Limits(chars_per_speak=2_000))
        async with talk(where, pace=Pace.LISTENER) as conversation, conversation.turn(answer(n_tokens)) as turn:
            async for event in turn.events():
                if isinstance(event, Audio):
                    heard += event.data
                    most_waiting_s = max(most_waiting_s, turn.stats.audio_s - FORMAT.seconds(len(heard)))
                    most_waiting_chars = max(most_waiting_chars, turn.stats.source_chars - turn.stats.sent_chars)
                    await asyncio.sleep(10 * FORMAT.seconds(len(event.data)))
        assert (speech.connections, turn.stats.resumed, turn.outcome) == (1, 0, Outcome.DONE)
    in_use = max(0, tracemalloc.get_traced_memory()[1] - len(heard))
    words = decode(bytes(heard)).split()
    assert len(words) == n_tokens
    assert words[-1].startswith(f"w{n_tokens - 1}")
    # Whatever the length of the answer: so much audio has been asked for, so much text has been read.
    assert most_waiting_s <= AHEAD_S
    assert most_waiting_chars <= READ_AHEAD_CHARS + 1_000
    return in_use


def test_a_listener_at_a_tenth_of_real_time_loses_nothing_and_holds_the_model_back() -> None:
    run(listen_slowly(5_000, char_samples=40))  # 5 ms a character: 150 s of speech, heard in 25 minutes


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_same_for_fifty_thousand_tokens_within_bounded_memory() -> None:
    tracemalloc.start()
    try:
        in_use = run(listen_slowly(50_000, char_samples=8))
    finally:
        tracemalloc.stop()
    print(f"{in_use / 1e6:.1f} MB")
    assert in_use < 15e6  # the text, when each part of it was said, and no more than AHEAD_S of audio


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_the_same_in_real_time() -> None:
    await listen_slowly(5_000, char_samples=1)


# --- many turns


def used() -> tuple[int, int, int]:
    """Tasks, descriptors, threads."""
    return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def talk_long(n_turns: int, growth_bytes: int) -> None:
    text, before, resident = sentences(300), (0, 0, 0), 0
    async with FaultySpeech(coding=QUICK, limits=Enforced()) as speech:
        async with talk(endpoint(speech, limits=Limits(chars_per_speak=2_000))) as conversation:
            for number in range(n_turns):
                async with conversation.turn(script(*tokens(text))) as turn:
                    async for event in turn.events():
                        if number % 4 == 3 and isinstance(event, Audio):
                            break  # some are interrupted
                assert turn.outcome is (Outcome.INTERRUPTED if number % 4 == 3 else Outcome.DONE)
                speech.log.clear()
                if number == 100:
                    before, resident = used(), resident_bytes()
            assert speech.connections == 1
            await asyncio.sleep(0.05)  # the last task of the last turn
            assert used() == before
            grown = resident_bytes() - resident
            print(f"{grown / 1e6:.2f} MB more after turn 100")
            assert grown < growth_bytes


async def test_three_hundred_turns_leave_nothing_behind() -> None:
    await talk_long(300, growth_bytes=3_000_000)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_thousand_turns_leave_nothing_behind() -> None:
    await talk_long(1_000, growth_bytes=3_000_000)
