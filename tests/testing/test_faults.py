from __future__ import annotations

import json
import math

import pytest
from websockets.exceptions import ConnectionClosed

from llm2ws.speech.dialects.deepgram_server import EXCESSIVE_FLUSH
from llm2ws.testing import Drop, Faults, FaultySpeech, How, decode
from tests.testing.client import QUICK, dial, hear, say


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
