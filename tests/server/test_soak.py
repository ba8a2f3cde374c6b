"""Clients come, talk, interrupt, vanish: memory, tasks, descriptors stay where they were. LLM2WS_TEST_SOAK_S: how long."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from pathlib import Path

import pytest

from llm2ws.config import ClientLimits, Server
from llm2ws.testing import Drop, FaultySpeech, How
from tests.server.conftest import CODING, Running, Start, says
from tests.server.test_chat import SPOKEN, TEXT
from tests.sources.replay import End

SOAK_S = float(os.environ.get("LLM2WS_TEST_SOAK_S", "60"))


def resident_kb() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


async def client(daemon: Running, chance: random.Random) -> None:
    """One that listens to the end, interrupts after some bytes, or leaves as soon as it has asked."""
    how = chance.choice(["listens", "interrupts", "leaves", "does not speak"])
    asked = {**SPOKEN, "stream": True, "modalities": ["text"] if how == "does not speak" else ["text", "audio"]}
    async with daemon.http.post("/v1/chat/completions", json=asked) as answer:
        left = {"listens": 10**9, "does not speak": 10**9, "interrupts": chance.randrange(5_000), "leaves": 0}[how]
        while left > 0 and (data := await answer.content.readany()):
            left -= len(data)
        if left > 0:
            return
        answer.close()


async def visitors(daemon: Running, until: float, seed: int) -> int:
    chance, came = random.Random(seed), 0
    while time.monotonic() < until:
        await client(daemon, chance)
        came += 1
    return came


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S * 3 + 60)
async def test_nothing_grows(start: Start) -> None:
    asyncio.get_running_loop().set_debug(False)  # it keeps a traceback for each task
    speech = FaultySpeech(coding=CODING)
    speech.drops.extend([Drop(How.RESET, after_chars=200), Drop(How.CLOSE, after_chars=300)] * 20)
    replies = [says(TEXT * 2), says(TEXT), says(TEXT, end=End.CUT), says(TEXT)]
    server = Server(limits=ClientLimits(messages_per_s=100_000))
    async with start(*replies, server=server, speech=speech) as daemon:

        async def measure(seconds: float) -> tuple[int, int, int]:
            until = time.monotonic() + seconds
            came = await asyncio.gather(*(visitors(daemon, until, seed) for seed in range(8)))
            assert sum(came) > 8
            await daemon.daemon.until_unused()
            gc.collect()
            daemon.speech.log.clear()
            daemon.llm.requests.clear()
            return resident_kb(), len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))

        await measure(SOAK_S / 4)  # what is loaded and pooled once
        before = await measure(SOAK_S / 4)
        after = await measure(SOAK_S / 2)
        assert after[0] < before[0] * 1.1 + 4_000
        assert after[1] <= before[1] + 8
        assert after[2] <= before[2] + 16
        assert not daemon.daemon.turns
        assert daemon.daemon.running == 0
