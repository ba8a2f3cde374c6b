"""Realtime with the official SDK over TCP: what clients hear, in which order, and what the LLM is told afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from llm2ws.settings.fields import ClientLimits, Key, Secret, Server
from llm2ws.testing import decode
from tests.server.conftest import Running, Start, says
from tests.server.realtime.client import MESSAGE, SPOKEN, asked, audio, connected, kinds, transcript
from tests.sources.replay import SSE, End, Reply
from tests.support import MS


async def test_text_in_speech_out(start: Start) -> None:
    async with start("It **costs** $3.50, Dr. Smith. Good bye!") as running, connected(running.url) as client:
        events = await client.ask("How much?")

        assert kinds(events) == SPOKEN
        assert decode(audio(events)) == transcript(events).strip() == "It costs $3.50, Dr. Smith. Good bye!"
        done = events[-1].response
        assert (done.status, done.output_modalities) == ("completed", ["audio"])
        assert done.output[0].content[0].transcript == transcript(events)
        assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (3, 7, 10)
        assert len({event.event_id for event in events}) == len(events)
        added = next(event for event in events if event.type == "response.output_item.added").item
        assert {getattr(event, "item_id", added.id) for event in events} == {added.id}
        assert {getattr(event, "response_id", done.id) for event in events} == {done.id}
        assert asked(running) == [{"role": "user", "content": "How much?"}]


async def test_the_conversation_is_remembered(start: Start) -> None:
    async with start("*One.*", "Two.") as running, connected(running.url) as client:
        await client.set(instructions="Be brief.")
        await client.ask("Count.")
        await client.ask("Go on.")

        assert asked(running) == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Count."},
            {"role": "assistant", "content": "*One.*"},  # the model's own words
            {"role": "user", "content": "Go on."},
        ]


async def test_text_only(start: Start) -> None:
    async with start("A **bold** word.") as running, connected(running.url) as client:
        events = await client.ask("Write.", output_modalities=["text"])

        assert kinds(events) == [
            *SPOKEN[:4],
            "response.output_text.delta",
            "response.output_text.done",
            *SPOKEN[-4:],
        ]
        assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "A **bold** word."
        assert events[-1].response.output[0].content[0].text == "A **bold** word."
        assert running.speech.frames == 0


async def test_truncate_cuts_the_history_to_what_was_heard(start: Start) -> None:
    text = "One two three four. Five six seven eight. Nine ten."
    async with start(text, "Yes.") as running, connected(running.url) as client:
        events = await client.ask("Count.")
        item = events[-1].response.output[0]
        seconds = len(audio(events)) / 48_000
        end_ms = int(seconds / 2 * 1000)
        await client.sdk.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=end_ms)
        truncated = await client.only("conversation.item.truncated")
        assert (truncated.item_id, truncated.audio_end_ms) == (item.id, end_ms)
        await client.sdk.conversation.item.retrieve(item_id=item.id)
        shown = (await client.only("conversation.item.retrieved")).item.content[0].transcript
        await client.ask("Go on.")

        heard = asked(running)[1]["content"]
        assert heard == shown
        assert text.startswith(heard)
        assert len(text) / 4 < len(heard) < len(text) * 3 / 4

        await client.sdk.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=end_ms * 20)
        assert (await client.error()).param == "audio_end_ms"


async def test_items_are_placed_and_deleted(start: Start) -> None:
    async with start("Yes.") as running, connected(running.url) as client:
        for text, after in (("b", None), ("a", "root"), ("c", None), ("x", None)):
            content: Any = [{"type": "input_text", "text": text}]
            item: Any = {"type": "message", "role": "user", "id": f"item_{text}", "content": content}
            await client.sdk.conversation.item.create(item=item, **({"previous_item_id": after} if after else {}))
            await client.until("conversation.item.done")
        await client.sdk.conversation.item.delete(item_id="item_x")
        assert (await client.only("conversation.item.deleted")).item_id == "item_x"
        await client.sdk.conversation.item.delete(item_id="item_x")
        assert (await client.error()).code == "item_not_found"
        await client.sdk.response.create()
        await client.until("response.done")

        assert [message["content"] for message in asked(running)] == ["a", "b", "c"]


async def test_a_key_in_the_header_or_the_subprotocol(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    server = Server(keys=(Key(name="one", key=Secret(key)),))
    async with start("Yes.", server=server) as running:
        async with connected(running.url, key) as client:
            assert (await client.ask("So?"))[-1].response.status == "completed"
        protocols = ("realtime", f"openai-insecure-api-key.{key}")
        async with running.http.ws_connect("/v1/realtime", protocols=protocols) as ws:
            assert ws.protocol == "realtime"
            assert (await ws.receive_json())["session"]["model"] == "scripted"
        for offered, status in (("realtime", 401), (f"openai-insecure-api-key.{key}", 400)):
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Protocol": offered}
            async with running.http.get("/v1/realtime", headers=upgrade) as answer:
                assert answer.status == status
                assert (await answer.json())["error"]["message"]


async def test_what_is_refused_before_the_handshake(start: Start) -> None:
    async with start() as running:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await running.http.ws_connect("/v1/realtime?model=other")
        assert caught.value.status == 404
        async with running.http.get("/v1/realtime") as answer:
            assert answer.status == 400
            assert "ws://" in (await answer.json())["error"]["message"]


async def test_a_message_that_is_too_large_ends_the_connection(start: Start) -> None:
    server = Server(limits=ClientLimits(message_bytes=1_000))
    async with start("Yes.", server=server) as running:
        async with connected(running.url) as client:
            await client.sdk.send_raw(json.dumps({"type": "session.update", "session": "x" * 2_000}))
            with pytest.raises(ConnectionClosed, match="1009"):
                await client.next()
        async with connected(running.url) as client:
            assert (await client.ask("So?"))[-1].response.status == "completed"


async def test_too_many_messages_are_refused(start: Start) -> None:
    server = Server(limits=ClientLimits(messages_per_s=3))
    async with start("Yes.", server=server) as running, connected(running.url) as client:
        for _ in range(9):
            await client.sdk.send_raw("{}")
        codes = [(await client.error()).code for _ in range(9)]
        assert codes[-1] == "rate_limit_exceeded"


@asynccontextmanager
async def silent(running: Running) -> AsyncIterator[None]:
    """A client that asks for a text and then neither reads nor answers pings."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(running.url).port, limit=1_000)
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13"
    head = f"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n"
    writer.write(head.encode())
    await reader.readuntil(b"session.created")
    item = {**MESSAGE, "content": [{"type": "input_text", "text": "Count."}]}
    response = {"output_modalities": ["text"]}
    for event in ({"type": "conversation.item.create", "item": item}, {"type": "response.create", "response": response}):
        data = json.dumps(event).encode()
        writer.write(bytes([0x81, 0x80 | 126]) + len(data).to_bytes(2, "big") + bytes(4) + data)  # masked with zeros
    try:
        yield
    finally:
        writer.transport.abort()


async def test_a_client_that_takes_nothing_is_left(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2ws.server.sending.SLOW_CLIENT_S", 100 * MS)
    chunk = {"choices": [{"index": 0, "delta": {"content": "x" * 100_000}, "finish_reason": None}]}
    flood = Reply([b"data: " + json.dumps(chunk).encode() + b"\n\n"] * 200, 200, SSE, End.HOLD)  # 20 MB
    async with start(flood, server=Server(limits=ClientLimits(text_chars=10**9))) as running, silent(running):
        await running.llm.left.wait()
        await running.daemon.until_unused()


async def test_a_client_that_answers_no_ping_is_gone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2ws.server.realtime.session.PING_S", 100 * MS)
    async with start(says("One.", end=End.HOLD)) as running, silent(running):
        await running.llm.left.wait()
        await running.daemon.until_unused()


async def test_one_response_at_a_time(start: Start) -> None:
    async with start(says("One. " * 9, end=End.HOLD), "Two.") as running, connected(running.url) as client:
        await client.user("Count.")
        await client.sdk.response.create()
        await client.until("response.output_audio.delta")
        await client.sdk.response.create()
        errors = [event for event in await client.until("error") if event.type == "error"]
        assert errors[0].error.code == "conversation_already_has_active_response"
        await client.sdk.response.cancel()
        await client.sdk.response.create()  # at once
        first = await client.until("response.done")
        second = await client.until("response.done")
        assert (first[-1].response.status, second[-1].response.status) == ("cancelled", "completed")
        assert decode(audio(second)) == "Two."


async def test_two_responses_at_once_are_one_and_an_error(start: Start) -> None:
    async with start("One. Two.") as running, connected(running.url) as client:
        await client.user("Count.")
        await asyncio.gather(client.sdk.response.create(), client.sdk.response.create())
        events = await client.until("response.done")
        assert events[-1].response.status == "completed"
        errors = [event.error.code for event in events if event.type == "error"]
        assert errors == ["conversation_already_has_active_response"]
        assert len(running.llm.requests) == 1


@pytest.mark.parametrize("modality", ["audio", "text"])
async def test_the_daemon_stops(start: Start, modality: str) -> None:
    async with start(says("One two three. " * 9, end=End.HOLD), server=Server(drain_s=0.0)) as running:
        async with connected(running.url) as client, connected(running.url) as idle:
            await client.user("Count.")
            await client.set(output_modalities=[modality])
            await client.sdk.response.create()
            await client.until(f"response.output_{modality}.delta")
            running.daemon.draining.set()
            with pytest.raises(ConnectionClosed, match="1001"):
                await idle.next()
            running.daemon.deadline.set()
            for stop in list(running.daemon.turns):
                await stop()
            done = (await client.until("response.done"))[-1].response
            assert (done.status, done.status_details.error.code) == ("failed", "draining")
            with pytest.raises(ConnectionClosed, match="1001"):
                await client.next()


async def test_a_client_that_leaves_stops_its_llm(start: Start) -> None:
    async with start(says("One two three. " * 9, end=End.HOLD)) as running:
        async with connected(running.url) as client:
            await client.user("Count.")
            await client.sdk.response.create()
            await client.until("response.output_audio.delta")
            client.sdk._connection.transport.abort()
        await running.llm.left.wait()
        await running.daemon.until_unused()
        assert not running.daemon.turns
