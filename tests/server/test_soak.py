"""Clients come, talk, interrupt, vanish: memory and descriptors of the daemon stay where they were.

LLM2WS_TEST_SOAK_S: for how many seconds, 60 when it is not set.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import aiohttp
import pytest

from llm2ws.speech.deepgram_server import Limits
from llm2ws.testing import Drop, FaultySpeech, How
from tests.server.conftest import CODING, says
from tests.server.test_chat import SPOKEN, TEXT
from tests.server.test_life import process
from tests.sources.replay import End

SOAK_S = float(os.environ.get("LLM2WS_TEST_SOAK_S", "60"))
CLIENTS = 8

# Without limits a minute: with them, so many turns would need hundreds of connections.
UNLIMITED = """
[server.limits]
messages_per_s = 100000
[speech.faulty.limits]
chars_per_window = 1000000000
flushes_per_window = 1000000
"""


def used_by(pid: int, *, peak: bool = False) -> tuple[int, int]:
    """Memory in kB, now or the most that it ever was, and open descriptors."""
    text = Path(f"/proc/{pid}/status").read_text()
    memory = next(line for line in text.splitlines() if line.startswith("VmHWM" if peak else "VmRSS"))
    return int(memory.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def visit(http: aiohttp.ClientSession, chance: random.Random) -> None:
    """One client: it listens to the end, interrupts after some bytes, leaves as soon as it has asked, or reads only."""
    how = chance.choice(["listens", "interrupts", "leaves", "reads"])
    asked = {**SPOKEN, "stream": True, "modalities": ["text"] if how == "reads" else ["text", "audio"]}
    left = {"interrupts": chance.randrange(5_000), "leaves": 0}.get(how, 10**9)
    async with http.post("/v1/chat/completions", json=asked) as answer:
        while left > 0 and (data := await answer.content.readany()):
            left -= len(data)
        if left <= 0:
            answer.close()


async def visits(http: aiohttp.ClientSession, until: float, chance: random.Random) -> int:
    came = 0
    while time.monotonic() < until:
        await visit(http, chance)
        came += 1
    return came


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S * 2 + 60)
async def test_nothing_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")  # pytest keeps what is logged
    speech = FaultySpeech(coding=CODING, limits=Limits())
    speech.drops.extend([Drop(How.RESET, after_chars=200), Drop(How.CLOSE, after_chars=300)] * 20)
    replies = [says(TEXT * 2), says(TEXT), says(TEXT, end=End.CUT), says(TEXT)]
    async with (
        process(tmp_path, *replies, server=UNLIMITED, speech=speech) as daemon,
        aiohttp.ClientSession(daemon.url) as http,
    ):
        chances = [random.Random(seed) for seed in range(CLIENTS)]

        async def measure(seconds: float) -> tuple[int, int]:
            until = time.monotonic() + seconds
            came = await asyncio.gather(*(visits(http, until, chance) for chance in chances))
            assert min(came) > 0
            while True:  # until the last of them has been noticed to have left
                async with http.get("/metrics") as answer:
                    if "llm2ws_conversations 1.0" in await answer.text():  # this one
                        break
            speech.log.clear()
            daemon.llm.requests.clear()
            return used_by(daemon.pid)

        await measure(SOAK_S / 4)  # what is loaded and pooled once
        memory, descriptors = await measure(SOAK_S / 4)
        memory_then, descriptors_then = await measure(SOAK_S / 2)
        assert memory_then < memory * 1.05 + 2_000
        assert descriptors_then <= descriptors + CLIENTS
        daemon.signal(signal.SIGTERM)
        assert await daemon.code() == 0
