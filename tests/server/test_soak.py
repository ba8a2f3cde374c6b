"""Clients come, talk, interrupt, vanish: memory, tasks and descriptors of the daemon stay where they were.

LLM2WS_TEST_SOAK_S: for how many seconds, 60 when it is not set. `scripts/soak` does it for ten minutes and shows the figures.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from llm2ws.speech.dialects.deepgram_server import ServerLimits
from llm2ws.testing import Drop, FaultySpeech, How
from tests.server.conftest import CODING, says
from tests.server.processes import process
from tests.server.test_chat import ASK, SPOKEN, TEXT
from tests.sources.replay import End
from tests.support import SOAK_S

CLIENTS = 8
PAUSE_S = 0.4  # the longest between two visits of one client

# Without limits a minute: with them, so many turns would need hundreds of connections.
UNLIMITED = """
[server.limits]
messages_per_s = 100000
[speech.faulty.limits]
chars_per_window = 1000000000
flushes_per_window = 1000000
"""


class Used(NamedTuple):
    """By the daemon."""

    memory_kb: int
    descriptors: int
    tasks: int = 0


def used_by(pid: int, *, peak: bool = False) -> Used:
    """Without the tasks. `peak`: the most memory that it ever had."""
    text = Path(f"/proc/{pid}/status").read_text()
    memory = next(line for line in text.splitlines() if line.startswith("VmHWM" if peak else "VmRSS"))
    return Used(int(memory.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir())))


# --- one visit each ---------------------------------------------------------------------------------------------------------


async def over_http(http: aiohttp.ClientSession, chance: random.Random, path: str, body: object) -> None:
    """A client that listens to the end, interrupts after some bytes, or leaves as soon as it has asked."""
    left = chance.choice([10**9, chance.randrange(5_000), 0])
    async with http.post(path, json=body) as answer:
        while left > 0 and (data := await answer.content.readany()):
            left -= len(data)
        if left <= 0:
            answer.close()


async def chat(http: aiohttp.ClientSession, chance: random.Random) -> None:
    await over_http(http, chance, "/v1/chat/completions", {**chance.choice([ASK, SPOKEN]), "stream": True})


async def relay(http: aiohttp.ClientSession, chance: random.Random) -> None:
    await over_http(http, chance, chance.choice(["/chat", "/chat?audio=1"]), {"prompt": "Why?"})


async def speech(http: aiohttp.ClientSession, chance: random.Random) -> None:
    await over_http(http, chance, "/v1/audio/speech", {"input": TEXT, "response_format": chance.choice(["pcm", "mp3"])})


async def speak(http: aiohttp.ClientSession, chance: random.Random) -> None:
    """Some turns over one connection, of which some are cleared; then a Close, or nothing more."""
    async with http.ws_connect("/v1/speak") as ws:
        for _ in range(chance.randrange(1, 4)):
            await ws.send_json({"type": "Speak", "text": TEXT})
            kind = chance.choice(["Flush", "Clear"])
            await ws.send_json({"type": kind})
            while (message := await ws.receive()).type is aiohttp.WSMsgType.BINARY or "Metadata" in message.data:
                pass
        if chance.random() < 0.5:
            await ws.send_json({"type": "Close"})
            await ws.receive()


async def realtime(http: aiohttp.ClientSession, chance: random.Random) -> None:
    """Some answers in one conversation, of which some are cancelled; then it is left, perhaps in the middle of one."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]}
    async with http.ws_connect("/v1/realtime") as ws:
        for _ in range(chance.randrange(1, 4)):
            await ws.send_json({"type": "conversation.item.create", "item": item})
            await ws.send_json({"type": "response.create"})
            how = chance.choice(["listens", "cancels", "leaves"])
            while (kind := json.loads((await ws.receive()).data)["type"]) != "response.done":
                if kind == "response.output_audio.delta" and how == "cancels":
                    await ws.send_json({"type": "response.cancel"})
                    how = "has cancelled"
                if kind == "response.output_audio.delta" and how == "leaves":
                    return


VISITS: tuple[Callable[[aiohttp.ClientSession, random.Random], Awaitable[None]], ...] = (chat, relay, speech, speak, realtime)


async def visits(http: aiohttp.ClientSession, until: float, chance: random.Random) -> int:
    came = 0
    while time.monotonic() < until:
        await chance.choice(VISITS)(http, chance)
        await asyncio.sleep(chance.random() * PAUSE_S)  # as clients do
        came += 1
    return came


@pytest.mark.soak
@pytest.mark.timeout(SOAK_S * 2 + 60)
async def test_nothing_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")  # pytest keeps what is logged
    speech = FaultySpeech(coding=CODING, limits=ServerLimits())
    speech.drops.extend([Drop(How.RESET, after_chars=200), Drop(How.CLOSE, after_chars=300)] * 20)
    replies = [says(TEXT * 2), says(TEXT), says(TEXT, end=End.CUT), says(TEXT)]
    async with (
        process(tmp_path, *replies, server=UNLIMITED, speech=speech) as daemon,
        aiohttp.ClientSession(daemon.url) as http,
    ):
        chances = [random.Random(seed) for seed in range(CLIENTS)]

        async def measure(seconds: float) -> Used:
            until = time.monotonic() + seconds
            came = await asyncio.gather(*(visits(http, until, chance) for chance in chances))
            assert min(came) > 0
            while True:  # until the last of them has been noticed to have left
                async with http.get("/metrics") as answer:
                    text = await answer.text()
                if "llm2ws_conversations 1.0" in text:  # this one
                    break
            speech.log.clear()
            daemon.llm.requests.clear()
            tasks = re.search(r"^llm2ws_tasks (\d+)", text, re.MULTILINE)
            assert tasks is not None
            used = used_by(daemon.pid)._replace(tasks=int(tasks[1]))
            figures = f"{used.memory_kb} kB, {used.tasks} tasks, {used.descriptors} descriptors"
            print(f"{seconds:5.0f} s, {sum(came):6} visits: {figures}")
            return used

        await measure(SOAK_S / 4)  # what is loaded and pooled once
        before = await measure(SOAK_S / 4)
        now = await measure(SOAK_S / 2)
        assert now.memory_kb < before.memory_kb * 1.05 + 2_000
        assert now.descriptors <= before.descriptors + CLIENTS
        assert now.tasks <= before.tasks + CLIENTS * 3  # of a connection to the speech endpoint, which may be one more
        daemon.signal(signal.SIGTERM)
        assert await daemon.code() == 0
