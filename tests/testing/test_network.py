from __future__ import annotations

import asyncio

import pytest

from llm2ws.testing import FaultyNetwork, FaultySpeech, decode
from tests.testing.client import QUICK, dial, hear, say


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
