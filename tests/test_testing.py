from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from llm2ws.speech.dialects.deepgram_server import EXCESSIVE_FLUSH, ClearIn, CloseIn, FlushIn, Limits, SpeakIn
from llm2ws.testing import (
    Coding,
    Drop,
    Faults,
    FaultyNetwork,
    FaultySpeech,
    How,
    Renderer,
    decode,
    script,
    tokens,
)

QUICK = Coding(char_samples=4, word_pause_s=0.002, sentence_pause_s=0.004, lead_in_s=0.002)
WORDS = st.text(st.characters(max_codepoint=0x7FFE, exclude_categories=("C", "Z")), min_size=1, max_size=12)


def dial(speech: FaultySpeech, port: int | None = None, **options: object) -> connect:
    url = f"ws://127.0.0.1:{port or speech.port}/v1/speak"
    return connect(url, compression=None, proxy=None, **options)  # type: ignore[arg-type]


async def say(ws: ClientConnection, text: str, *more: str) -> None:
    await ws.send(json.dumps({"type": "Speak", "text": text}))
    for kind in more:
        await ws.send(json.dumps({"type": kind}))


async def hear(ws: ClientConnection, until: str = "Flushed") -> tuple[bytes, list[str]]:
    """Audio and the types of messages up to one of a type, itself included."""
    audio, kinds = b"", list[str]()
    while until not in kinds:
        message = await ws.recv()
        if isinstance(message, bytes):
            audio += message
        else:
            kinds.append(json.loads(message)["type"])
    return audio, kinds


# --- the scripted LLM


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text


async def test_a_script_gives_fails_and_tells_that_it_is_over() -> None:
    over: list[int] = []
    source = script("a", 0, 0.001, "b", OSError("gone"), on_close=lambda: over.append(1))
    assert [await anext(source), await anext(source)] == ["a", "b"]
    assert over == []
    with pytest.raises(OSError, match="gone"):
        await anext(source)
    assert over == [1]


async def test_a_stalled_script_can_be_cancelled() -> None:
    over = asyncio.Event()
    stalled: AsyncGenerator[str, None] = script(math.inf, on_close=over.set)
    task = asyncio.ensure_future(anext(stalled))
    await asyncio.sleep(0)
    task.cancel()
    await over.wait()
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError


# --- audio that tells its text


@given(st.lists(st.lists(WORDS, min_size=1), max_size=4), st.sampled_from([0.0, 0.02, 0.08]), st.integers())
def test_audio_tells_its_text_whatever_its_stretch(groups: list[list[str]], stretch: float, seed: int) -> None:
    coding = Coding(char_samples=25, word_pause_s=0.001, sentence_pause_s=0.002, lead_in_s=0.003, stretch=stretch)
    renderer = Renderer(coding, 8_000, Random(seed))
    pcm = b"".join(renderer.say(" ".join(words) + " ") for words in groups)
    assert decode(pcm) == " ".join(word for words in groups for word in words)


@given(WORDS, st.integers(0, 12))
def test_a_word_said_in_two_groups_is_one_word(word: str, at: int) -> None:
    renderer = Renderer(QUICK, 8_000, Random(0))
    assert decode(b"".join(renderer.say(part) for part in (word[:at], word[at:]) if part)) == word


def test_pauses_and_stretch_have_the_documented_lengths() -> None:
    def seconds(text: str, seed: int = 0, **coding: float) -> float:
        return len(Renderer(Coding(**coding), 24_000, Random(seed)).say(text)) / 48_000  # type: ignore[arg-type]

    assert seconds("ab c", lead_in_s=0) == pytest.approx(3 * 24 / 24_000 + 0.06, abs=1e-4)
    assert seconds("ab. c", lead_in_s=0) == pytest.approx(4 * 24 / 24_000 + 0.25, abs=1e-4)
    stretched = {seconds("x" * 100, seed, lead_in_s=0, char_samples=100, stretch=0.08) for seed in range(20)}
    assert {round(s * 24_000 / 10_000, 2) for s in stretched} == {0.92, 1.0, 1.08}
    leads = {seconds("x", seed) for seed in range(20)}
    assert len(leads) == 20
    assert max(leads) < 0.202


@given(st.lists(WORDS, max_size=3), st.integers(), st.integers())
def test_without_stretch_and_lead_in_a_repeat_is_the_same_whatever_came_before(before: list[str], one: int, other: int) -> None:
    coding = Coding(char_samples=4, lead_in_s=0.0)
    fresh, used = Renderer(coding, 8_000, Random(one)), Renderer(coding, 8_000, Random(other))
    used.say("".join(f"{word} " for word in before))
    assert used.say("Again, odd. ") == fresh.say("Again, odd. ")


def test_half_a_sample_is_no_audio() -> None:
    with pytest.raises(ValueError, match="half a sample"):
        decode(b"\1\0\1")


# --- the endpoint


async def test_it_speaks_deepgram_and_keeps_a_log() -> None:
    async with FaultySpeech(coding=QUICK) as speech, dial(speech) as ws:
        await say(ws, "Hello wörld. ")
        await say(ws, "Again ", "Flush")
        audio, kinds = await hear(ws)
        assert (decode(audio), kinds) == ("Hello wörld. Again", ["Metadata", "Flushed"])
        await ws.send('{"type":"Close"}')
        await ws.wait_closed()
        assert ws.close_code == 1000
        await speech.until(lambda s: not s.open)
        assert [entry.message for entry in speech.log] == [SpeakIn("Hello wörld. "), SpeakIn("Again "), FlushIn(), CloseIn()]
        assert speech.texts(0) == ["Hello wörld. ", "Again "]


async def test_nothing_is_said_without_a_flush_and_a_clear_forgets() -> None:
    async with FaultySpeech(coding=QUICK) as speech, dial(speech) as ws:
        await say(ws, "forgotten ", "Clear")
        assert await hear(ws, "Cleared") == (b"", ["Metadata", "Cleared"])
        await say(ws, "kept ", "Flush")
        assert decode((await hear(ws))[0]) == "kept"
        assert speech.count(ClearIn) == 1


async def test_frames_have_odd_and_different_sizes() -> None:
    async with FaultySpeech(coding=QUICK, max_frame_bytes=99) as speech, dial(speech) as ws:
        await say(ws, "many frames of audio " * 5, "Flush")
        sizes = set()
        while isinstance(message := await ws.recv(), bytes) or "Flushed" not in message:
            sizes.add(len(message) % 2 if isinstance(message, bytes) else 2)
        assert sizes == {0, 1, 2}
        assert speech.frames > 10


async def test_limits_are_enforced() -> None:
    async with FaultySpeech(coding=QUICK, limits=Limits(chars=20, flushes=1)) as speech:
        async with dial(speech) as ws:
            await say(ws, "one ", "Flush")
            await hear(ws)
            await say(ws, "two ", "Flush")
            assert await hear(ws, "Warning") == (b"", ["Warning"])
            await say(ws, "x" * 13)
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1008, "DATA-0001")
        async with dial(speech) as ws:
            await say(ws, "x" * 2001)
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1009, "BIG-0001")
        assert [how.reason for how in speech.closed_with] == ["DATA-0001", "BIG-0001"]


async def test_a_connection_has_a_life() -> None:
    async with FaultySpeech(limits=Limits(session_s=0.01)) as speech, dial(speech) as ws:
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1011, "NET-0003")


async def test_handshakes_are_refused_as_told_and_keys_are_asked_for() -> None:
    async with FaultySpeech(key="k") as speech:
        speech.refusals.extend([503, 429])
        seen = list[int]()
        for headers in ({}, {}, {}, {"Authorization": "Token k"}):
            try:
                async with dial(speech, additional_headers=headers):
                    seen.append(101)
            except InvalidStatus as exc:
                seen.append(exc.response.status_code * ("dg-error" in exc.response.headers))
        assert seen == [503, 429, 401, 101]
        assert (speech.handshakes, speech.connections) == (4, 1)


@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize("when", [{}, {"after_chars": 4}, {"at_frame": 0}, {"at_frame": 3}])
async def test_connections_are_dropped_as_told(how: How, when: dict[str, int]) -> None:
    async with FaultySpeech(coding=QUICK, max_frame_bytes=50) as speech:
        speech.drops.append(Drop(how, code=1011, reason="NET-0002", **when))
        async with dial(speech) as ws:
            audio = list[bytes]()
            with pytest.raises(ConnectionClosed):
                await say(ws, "many frames of audio ", "Flush")
                while message := await ws.recv():
                    audio += [message] if isinstance(message, bytes) else []
            assert (ws.close_code, ws.close_reason) == ((1011, "NET-0002") if how is How.CLOSE else (1006, ""))
            # What a reset overtakes never arrives.
            assert len(audio) <= when.get("at_frame", 0) if how is How.RESET else len(audio) == when.get("at_frame", 0)
        async with dial(speech) as ws:
            await say(ws, "again ", "Flush")
            assert decode((await hear(ws))[0]) == "again"


async def test_audio_goes_on_after_clear_and_stale_acks_follow() -> None:
    async with FaultySpeech(coding=QUICK, pace=1.0, max_frame_bytes=50) as speech, dial(speech) as ws:
        speech.faults = Faults(audio_after_clear_s=0.02, stale_flushed=True)
        await say(ws, "a long text that goes on and on " * 9, "Flush")
        await speech.until(lambda s: s.frames > 0)
        sent = speech.frames
        await ws.send('{"type":"Clear"}')
        assert (await hear(ws))[1] == ["Metadata", "Cleared", "Flushed"]
        assert speech.frames > sent


async def test_answers_come_late_or_never() -> None:
    async with FaultySpeech(coding=QUICK) as speech, dial(speech) as ws:
        speech.faults = Faults(first_byte_s=math.inf)
        await say(ws, "never ", "Flush")
        speech.faults = Faults(flushed_s=0.001, cleared_s=0.001, noise=("{", '{"type":"Later"}'))
        await say(ws, "", "Clear")
        heard = [await ws.recv() for _ in range(4)]
        assert heard[1:3] == ["{", '{"type":"Later"}']
        await say(ws, "now ", "Flush")
        while isinstance(await ws.recv(), bytes):
            pass


async def test_flushes_are_refused_as_told() -> None:
    async with FaultySpeech(coding=QUICK) as speech, dial(speech) as ws:
        speech.refuse_flushes = 1
        await say(ws, "one ", "Flush", "Flush")
        audio, kinds = await hear(ws)
        assert (decode(audio), kinds) == ("one", ["Metadata", "Warning", "Flushed"])
        assert json.loads(EXCESSIVE_FLUSH)["code"] == "EXCESSIVE_FLUSH"


# --- the network


async def test_a_network_carries_everything() -> None:
    async with FaultySpeech(coding=QUICK) as speech, FaultyNetwork(speech.port, delay_s=0.002) as network:
        async with dial(speech, network.port) as ws:
            await say(ws, "through the proxy ", "Flush")
            assert decode((await hear(ws))[0]) == "through the proxy"
            await ws.close()
        await speech.until(lambda s: not s.open)
        assert network.connections == 1


async def test_a_network_cuts_within_a_frame() -> None:
    async with FaultySpeech(coding=QUICK) as speech, FaultyNetwork(speech.port) as network:
        async with dial(speech, network.port) as ws:
            await ws.recv()
            network.cut_after = 100
            await say(ws, "a text of some length ", "Flush")
            await ws.wait_closed()
            assert ws.close_code == 1006
        async with dial(speech, network.port) as ws:
            await ws.recv()


async def test_a_network_resets() -> None:
    async with FaultySpeech() as speech, FaultyNetwork(speech.port) as network, dial(speech, network.port) as ws:
        await ws.recv()
        network.reset()
        await ws.wait_closed()
        assert ws.close_code == 1006
        await speech.until(lambda s: not s.open)


async def test_a_black_hole_swallows_everything_but_later_connections() -> None:
    async with FaultySpeech(coding=QUICK) as speech, FaultyNetwork(speech.port) as network:
        async with dial(speech, network.port, close_timeout=0.01) as ws:
            await ws.recv()
            network.swallow()
            await say(ws, "unheard ", "Flush")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ws.recv(), 0.05)
            assert speech.log == []
        async with dial(speech, network.port) as ws:
            await ws.recv()


async def test_a_rate_holds_back() -> None:
    async with FaultySpeech(coding=QUICK) as speech, FaultyNetwork(speech.port, rate=100_000) as network:
        async with dial(speech, network.port) as ws:
            await say(ws, "slowly ", "Flush")
            began = asyncio.get_running_loop().time()
            audio, _ = await hear(ws)
            assert asyncio.get_running_loop().time() - began > 0.5 * len(audio) / 100_000
