"""An answer that the daemon cuts never looks like a whole one, over any API, to a client that reads slowly.

The endpoint has spoken everything before the answer is cut, so that what is missing is what the client has not read yet.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from llm2ws.server.client_turn import ClientTurn
from llm2ws.settings.fields import ClientLimits, Server
from llm2ws.testing import Coding, FaultySpeech
from tests.server.conftest import Running, Start, slow
from tests.server.test_chat import SPOKEN
from tests.sources.replay import Reply, json_reply

TEXT = "One sentence is here, and it is long enough. " * 8
AUDIO_S = 150  # More than what the buffers of two sockets hold.
BYTES_PER_S = 48_000
CODING = Coding(char_samples=24_000 * AUDIO_S // len(TEXT), word_pause_s=0.004, sentence_pause_s=0.01, lead_in_s=0.0)

Cut = Callable[[], Awaitable[None]]


async def events(answer: aiohttp.ClientResponse) -> list[Any]:
    """The data of the server-sent events that come, as JSON, but for [DONE], which is a text."""
    found = []
    async for line in answer.content:
        if line.startswith(b"data: "):
            data = line.removeprefix(b"data: ").strip()
            found.append(data.decode() if data == b"[DONE]" else json.loads(data))
    return found


async def speech(daemon: Running, cut: Cut) -> tuple[float, str]:
    async with slow(daemon) as http, http.post("/v1/audio/speech", json={"input": TEXT, "response_format": "pcm"}) as answer:
        assert answer.status == 200
        n_bytes = len(await answer.content.readexactly(BYTES_PER_S))
        await cut()
        try:
            while data := await answer.content.readany():
                n_bytes += len(data)
        except aiohttp.ClientPayloadError:
            return n_bytes / BYTES_PER_S, "broken off"
        return n_bytes / BYTES_PER_S, "whole"


async def speech_events(daemon: Running, cut: Cut) -> tuple[float, str]:
    body = {"input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    async with slow(daemon) as http, http.post("/v1/audio/speech", json=body) as answer:
        first = await answer.content.readline()
        await cut()
        rest = await events(answer)
    audio = [json.loads(first.removeprefix(b"data: ")), *(event for event in rest if event["type"] == "speech.audio.delta")]
    end = rest[-1]
    return seconds(event["audio"] for event in audio), end["error"]["code"] if "error" in end else end["type"]


async def chat_events(daemon: Running, cut: Cut) -> tuple[float, str]:
    async with slow(daemon) as http, http.post("/v1/chat/completions", json={**SPOKEN, "stream": True}) as answer:
        await answer.content.readline()
        await cut()
        *rest, end = await events(answer)
    choices = [choice for event in rest for choice in event.get("choices", ())]
    audio = [choice["delta"]["audio"]["data"] for choice in choices if "data" in choice["delta"].get("audio", ())]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return seconds(audio), reasons[-1] if end == "[DONE]" else end["error"]["code"]


async def chat_object(daemon: Running, cut: Cut) -> tuple[float, str]:
    asked = asyncio.create_task(daemon.http.post("/v1/chat/completions", json=SPOKEN))
    await cut()
    async with await asked as answer:
        body = await answer.json()
    if "error" in body:
        return 0.0, str(body["error"]["code"])
    [choice] = body["choices"]
    return seconds([choice["message"]["audio"]["data"]]), str(choice["finish_reason"])


async def relay(daemon: Running, cut: Cut) -> tuple[float, str]:
    async with slow(daemon) as http, http.post("/chat?audio=1", json={"prompt": "Why?"}) as answer:
        await answer.content.readline()
        await cut()
        rest = await events(answer)
    return seconds(event["data"] for event in rest if "format" in event), rest[-1]["outcome"]


async def speak(daemon: Running, cut: Cut) -> tuple[float, str]:
    n_bytes, warning = 0, "none"
    async with slow(daemon) as http, http.ws_connect("/v1/speak") as ws:
        await ws.send_json({"type": "Speak", "text": TEXT})
        await ws.send_json({"type": "Flush"})
        await ws.receive()
        await cut()
        async for message in ws:
            if message.type is aiohttp.WSMsgType.BINARY:
                n_bytes += len(message.data)
            elif (event := json.loads(message.data))["type"] in ("Warning", "Flushed"):
                warning = event.get("code", event["type"])
                if warning == "Flushed":
                    break
    return n_bytes / BYTES_PER_S, f"{warning} {ws.close_code}"


async def realtime(daemon: Running, cut: Cut) -> tuple[float, str]:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]}
    audio = []
    async with slow(daemon) as http, http.ws_connect("/v1/realtime") as ws:
        await ws.send_json({"type": "conversation.item.create", "item": item})
        await ws.send_json({"type": "response.create"})
        await cut()
        async for message in ws:
            event = json.loads(message.data)
            if event["type"] == "response.output_audio.delta":
                audio.append(event["delta"])
            elif event["type"] == "response.done":
                details = event["response"]["status_details"]
                reason = details.get("reason") or details.get("error", {}).get("code") or ""
                return seconds(audio), f"{event['response']['status']} {reason}".strip()
    return seconds(audio), "closed"


def seconds(parts: Any) -> float:
    return sum(len(b64decode(part)) for part in parts) / BYTES_PER_S


# How each API ends an answer that is cut because the daemon stops, and at the client's limit of speech; and one that is whole.
ENDS: dict[str, tuple[Callable[[Running, Cut], Awaitable[tuple[float, str]]], str, str, str]] = {
    "speech": (speech, "broken off", "broken off", "whole"),
    "speech, events": (speech_events, "draining", "rate_limit_exceeded", "speech.audio.done"),
    "chat, events": (chat_events, "draining", "length", "stop"),
    "chat, object": (chat_object, "draining", "length", "stop"),
    "relay": (relay, "shutdown", "speech limit", "done"),
    "speak": (speak, "GOING_AWAY 1001", "DATA-0001 1008", "Flushed 1000"),
    "realtime": (realtime, "failed draining", "incomplete max_output_tokens", "completed"),
}


def says(name: str) -> str | Reply:
    """Return what the LLM answers: an object where the client does not ask for a stream."""
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    return json_reply(200, {"id": "chatcmpl-1", "choices": [choice]}) if name == "chat, object" else TEXT


def turns(daemon: Running) -> list[ClientTurn]:
    return [turn for stop in daemon.daemon.turns if isinstance(turn := getattr(stop, "__self__", None), ClientTurn)]


async def spoken(daemon: Running, *, everything: bool) -> None:
    """Wait until the client's turn is being heard; with `everything`, until the endpoint has spoken all of it."""
    async with asyncio.timeout(20):
        while not (found := turns(daemon)) or not (
            found[0].turn.outcome if everything else found[0].turn.stats.first_audio_s is not None
        ):
            async with daemon.http.get("/healthz"):
                pass


@pytest.mark.parametrize("name", ENDS)
async def test_at_the_end_of_the_daemon(start: Start, name: str) -> None:
    ask, end, _, _ = ENDS[name]
    async with start(says(name), speech=FaultySpeech(coding=CODING)) as daemon:

        async def cut() -> None:
            await spoken(daemon, everything=name.startswith("spe"))
            for stop in list(daemon.daemon.turns):
                await stop()

        heard_s, seen = await ask(daemon, cut)
        assert (seen, heard_s < 0.9 * AUDIO_S) == (end, True)
        await daemon.daemon.until_unused()


@pytest.mark.parametrize("name", ENDS)
async def test_at_the_clients_limit_of_speech(start: Start, name: str) -> None:
    ask, _, end, _ = ENDS[name]
    at_once = name.startswith("spe")  # The others speak little faster than a listener hears.
    limit_s = 100.0 if at_once else 3.0
    server = Server(limits=ClientLimits(turn_speech_s=limit_s))
    async with start(says(name), server=server, speech=FaultySpeech(coding=CODING)) as daemon:
        heard_s, seen = await ask(daemon, lambda: spoken(daemon, everything=True) if at_once else asyncio.sleep(0))
        assert (seen, heard_s <= limit_s) == (end, True)
        await daemon.daemon.until_unused()


@pytest.mark.parametrize("name", ENDS)
async def test_a_whole_answer_is_whole(start: Start, name: str) -> None:
    ask, _, _, end = ENDS[name]
    coding = Coding(char_samples=240, word_pause_s=0.004, sentence_pause_s=0.01, lead_in_s=0.0)
    async with start(says(name), speech=FaultySpeech(coding=coding)) as daemon:
        assert (await ask(daemon, lambda: asyncio.sleep(0)))[1] == end
