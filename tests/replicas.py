"""What clients notice of three replicas behind a balancer while one is killed and one is replaced."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp

from tests.support import MS

__all__ = ["assert_a_burst_is_served", "assert_a_drained_one_loses_no_call", "assert_idle_clients_come_back", "call", "speak"]

_SPEAK = "/v1/speak?encoding=linear16&sample_rate=24000"


async def speak(http: aiohttp.ClientSession, text: str = "Hello there.") -> int:
    """The status of a request for speech."""
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "wav"}
    async with http.post("/v1/audio/speech", json=body) as response:
        audio = await response.read()
        assert response.status != 200 or len(audio) > 500
        return response.status


@asynccontextmanager
async def call(http: aiohttp.ClientSession, words: int) -> AsyncIterator[Callable[[], Coroutine[None, None, tuple[str, str]]]]:
    """An answer of so many words, of which the first has come. Gives what reads the rest: its outcome, and the error's code."""
    body = {"prompt": " ".join(f"Word number {n}." for n in range(words // 3)), "llm": "echo"}
    async with http.post("/chat", json=body) as response:
        assert response.status == 200
        await response.content.readline()

        async def rest() -> tuple[str, str]:
            name, outcome, code = "", "", ""
            async for raw in response.content:
                line = raw.decode().rstrip()
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and name in ("done", "error"):
                    data = json.loads(line.removeprefix("data: "))
                    outcome, code = str(data.get("outcome", outcome)), str(data.get("code", code))
            return outcome, code

        yield rest


async def assert_a_burst_is_served(url: str) -> None:
    """Many at once, and nobody is turned away."""
    async with aiohttp.ClientSession(url) as http:
        statuses = await asyncio.gather(*(speak(http, f"Hello there, number {n}.") for n in range(60)))
    assert set(statuses) == {200}


async def _say(ws: aiohttp.ClientWebSocketResponse) -> int:
    """Bytes of audio of a turn over Deepgram's protocol."""
    await ws.send_json({"type": "Speak", "text": "Hello there."})
    await ws.send_json({"type": "Flush"})
    received = 0
    while True:
        message = await ws.receive(timeout=20_000 * MS)
        if message.type is aiohttp.WSMsgType.BINARY:
            received += len(message.data)
        elif message.type is not aiohttp.WSMsgType.TEXT:
            return 0
        elif json.loads(message.data)["type"] == "Flushed":
            return received


async def assert_idle_clients_come_back(url: str, kill: Callable[[], Coroutine[None, None, None]]) -> None:
    """Those of the replica that is killed are told at once, and are served when they connect again; the others stay."""
    async with aiohttp.ClientSession(url) as http, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(http.ws_connect(_SPEAK)) for _ in range(9)]
        assert all([await _say(ws) > 500 for ws in clients])

        waiting = {asyncio.create_task(ws.receive(), name=str(n)): ws for n, ws in enumerate(clients)}
        await kill()
        told, _ = await asyncio.wait(waiting, timeout=20_000 * MS, return_when=asyncio.FIRST_COMPLETED)
        left = [ws for task, ws in waiting.items() if not task.done()]
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

        assert told
        assert left
        assert 0 not in [await _say(ws) for ws in left if not ws.closed]
        again = [await stack.enter_async_context(http.ws_connect(_SPEAK)) for _ in told]
        assert all([await _say(ws) > 500 for ws in again])


async def assert_a_drained_one_loses_no_call(url: str, drain: Callable[[], Coroutine[None, None, None]]) -> None:
    """Calls in progress are heard to their end, on all replicas; and nobody who comes meanwhile is turned away."""
    async with aiohttp.ClientSession(url) as http, AsyncExitStack() as stack:
        calls = [await stack.enter_async_context(call(http, 60)) for _ in range(6)]
        statuses = []
        async with asyncio.TaskGroup() as tasks:
            running = {tasks.create_task(drain()), *(rests := [tasks.create_task(rest()) for rest in calls])}
            while not all(task.done() for task in running):
                statuses.append(await speak(http))
        assert [rest.result() for rest in rests] == [("done", "")] * len(calls)
        assert len(statuses) > 2
        assert set(statuses) == {200}
