from __future__ import annotations

from websockets.exceptions import InvalidStatus

from llm2ws.speech.dialects.deepgram_server import ClearIn, CloseIn, FlushIn, ServerLimits, SpeakIn
from llm2ws.testing import FaultySpeech, decode
from tests.testing.client import QUICK, dial, hear, say

# --- the scripted LLM


# --- audio that tells its text


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
    async with FaultySpeech(coding=QUICK, limits=ServerLimits(chars=20, flushes=1)) as speech:
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
    async with FaultySpeech(limits=ServerLimits(session_s=0.01)) as speech, dial(speech) as ws:
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


# --- the network
