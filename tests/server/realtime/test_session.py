"""Realtime with the official SDK over TCP: what clients hear, in which order, and what the LLM is told afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest
from msgspec.structs import replace
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.exceptions import ConnectionClosed

from llm2ws.settings.fields import ClientLimits, Key, Llm, Secret, Server, Settings, Speech
from llm2ws.testing import Coding, Drop, FaultySpeech, decode
from tests.server.conftest import CODING, Running, Start, says
from tests.sources.replay import SSE, End, Reply
from tests.support import MS

EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)

SPOKEN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


class Client:
    """The SDK's connection, whose events are also held against the SDK's types strictly."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self.sdk = connection

    async def next(self) -> Any:
        raw = await self.sdk.recv_bytes()
        EVENT.validate_json(raw)
        return self.sdk.parse_event(raw)

    async def until(self, kind: str) -> list[Any]:
        """Events up to the first of a kind."""
        events = [await self.next()]
        while events[-1].type != kind:
            events.append(await self.next())
        return events

    async def only(self, kind: str) -> Any:
        """The next event, which is of a kind."""
        event = await self.next()
        assert event.type == kind, event
        return event

    async def error(self) -> Any:
        return (await self.only("error")).error

    async def user(self, text: str) -> str:
        content: Any = [{"type": "input_text", "text": text}]
        await self.sdk.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await self.only("conversation.item.added")
        return str((await self.only("conversation.item.done")).item.id)

    async def ask(self, text: str, **response: Any) -> list[Any]:
        await self.user(text)
        await self.sdk.response.create(**({"response": response} if response else {}))  # type: ignore[arg-type]
        return await self.until("response.done")

    async def set(self, **session: Any) -> Any:
        wanted: Any = {"type": "realtime", **session}
        await self.sdk.session.update(session=wanted)
        return (await self.only("session.updated")).session


@pytest.fixture(autouse=True)
def _headers_are_not_logged() -> None:
    """At DEBUG the client's library logs what it sends, its key too."""
    logging.getLogger("websockets.client").setLevel(logging.INFO)


@asynccontextmanager
async def connected(url: str, key: str = "none", model: str = "scripted") -> AsyncIterator[Client]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client, client.realtime.connect(model=model) as sdk:
        connection = Client(sdk)
        await connection.only("session.created")
        yield connection


def kinds(events: list[Any]) -> list[str]:
    """Their types, each of a row once; deltas of text and of audio take turns, and here are one of each."""
    types = [kind for kind, _ in groupby(event.type for event in events)]
    return list(dict.fromkeys(types))


def audio(events: list[Any]) -> bytes:
    return b"".join(b64decode(event.delta) for event in events if event.type == "response.output_audio.delta")


def transcript(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == "response.output_audio_transcript.delta")


def told(running: Running, n: int = -1) -> list[dict[str, Any]]:
    """What the LLM was asked."""
    messages: list[dict[str, Any]] = running.llm.requests[n].body["messages"]
    return messages


def calls(*arguments: str, text: str = "") -> Reply:
    """The scripted LLM calls `weather` once for each of `arguments`, after `text`."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": text}]
    for n, one in enumerate(arguments):
        call = {"index": n, "id": f"call_{n}", "type": "function", "function": {"name": "weather", "arguments": ""}}
        deltas.append({"tool_calls": [call]})
        deltas += [{"tool_calls": [{"index": n, "function": {"arguments": part}}]} for part in (one[:3], one[3:])]
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    return Reply([b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + [b"data: [DONE]\n\n"], 200, SSE)


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
        assert told(running) == [{"role": "user", "content": "How much?"}]


async def test_the_conversation_is_remembered(start: Start) -> None:
    async with start("*One.*", "Two.") as running, connected(running.url) as client:
        await client.set(instructions="Be brief.")
        await client.ask("Count.")
        await client.ask("Go on.")

        assert told(running) == [
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


@pytest.mark.parametrize("modality", ["audio", "text"])
async def test_function_calls(start: Start, modality: str) -> None:
    arguments = '{"city": "Bonn"}'
    async with start(calls(arguments, arguments), "Rain.") as running, connected(running.url) as client:
        tool: dict[str, Any] = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
        await client.set(tools=[tool], tool_choice={"type": "function", "name": "weather"}, output_modalities=[modality])
        events = await client.ask("Will it rain?")

        one = [
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "conversation.item.done",
            "response.output_item.done",
        ]
        assert [kind for kind, _ in groupby(e.type for e in events)] == ["response.created", *one, *one, "response.done"]
        output = events[-1].response.output
        assert [(item.type, item.name, item.call_id, item.arguments) for item in output] == [
            ("function_call", "weather", f"call_{n}", arguments) for n in (0, 1)
        ]
        assert events[-1].response.status == "completed"
        body = running.llm.requests[-1].body
        assert body["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
        assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}

        for item in output:
            answer: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
            await client.sdk.conversation.item.create(item=answer)
            await client.until("conversation.item.done")
        await client.sdk.response.create()
        await client.until("response.done")
        asked, called, *answers = told(running)
        assert (asked["role"], called["role"]) == ("user", "assistant")
        assert [call["function"] for call in called["tool_calls"]] == [{"name": "weather", "arguments": arguments}] * 2
        assert answers == [{"role": "tool", "tool_call_id": f"call_{n}", "content": "rain"} for n in (0, 1)]


async def test_a_function_call_comes_after_the_speech_before_it(start: Start) -> None:
    async with start(calls("{}", text="Let me look.")) as running, connected(running.url) as client:
        events = await client.ask("Will it rain?")

        assert [item.type for item in events[-1].response.output] == ["message", "function_call"]
        types = [event.type for event in events]
        assert types.index("response.output_item.done") < types.index("response.function_call_arguments.delta")
        assert decode(audio(events)) == "Let me look."


async def test_cancel_keeps_what_was_heard(start: Start) -> None:
    text = "One two three. " * 40
    speech = FaultySpeech(coding=Coding(char_samples=2_400))  # 10 characters a second, made much faster
    async with start(says(text, end=End.HOLD), "Yes.", speech=speech) as running, connected(running.url) as client:
        await client.user("Count.")
        await client.sdk.response.create()
        begun = await client.until("response.output_audio.delta")
        await client.sdk.response.cancel()
        events = begun + await client.until("response.done")
        await running.llm.left.wait()  # its answer was not read on

        done = events[-1].response
        assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
        assert kinds(events) == SPOKEN
        assert done.output[0].status == "incomplete"
        await client.ask("Go on.")
        heard = "".join(message["content"] for message in told(running)[1:-1])
        assert text.startswith(heard)
        assert len(heard) < 60  # hardly any time has passed since its first audio


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

        heard = told(running)[1]["content"]
        assert heard == shown
        assert text.startswith(heard)
        assert len(text) / 4 < len(heard) < len(text) * 3 / 4

        await client.sdk.conversation.item.truncate(item_id=item.id, content_index=0, audio_end_ms=end_ms * 20)
        assert (await client.error()).param == "audio_end_ms"


async def test_truncate_while_it_speaks_then_cancel(start: Start) -> None:
    text = "One two three four. Five six seven eight. Nine ten. " * 3
    async with start(says(text, end=End.HOLD), "Yes.") as running, connected(running.url) as client:
        await client.user("Count.")
        await client.sdk.response.create()
        item_id = (await client.until("response.output_audio.delta"))[-1].item_id
        await client.sdk.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=0)
        await client.until("conversation.item.truncated")
        await client.sdk.response.cancel()
        await client.until("response.done")
        await client.ask("Go on.")

        assert [message["content"] for message in told(running)] == ["Count.", "Go on."]  # none of it was heard


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

        assert [message["content"] for message in told(running)] == ["a", "b", "c"]


async def test_a_response_apart_from_the_conversation(start: Start) -> None:
    async with start("Yes.") as running, connected(running.url) as client:
        await client.user("First.")
        other = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Other."}]}
        apart: Any = {"conversation": "none", "input": [other], "metadata": {"a": "b"}, "instructions": "Be kind."}
        await client.sdk.response.create(response=apart)
        events = await client.until("response.done")

        assert "conversation.item.added" not in kinds(events)
        assert (events[-1].response.conversation_id, events[-1].response.metadata) == (None, {"a": "b"})
        assert [message["content"] for message in told(running)] == ["Be kind.", "Other."]
        await client.ask("Second.")
        assert [message["content"] for message in told(running)] == ["First.", "Second."]


@pytest.mark.parametrize(("name", "rate"), [("audio/pcmu", 8_000), ("audio/pcma", 8_000)])
async def test_formats_of_telephony(start: Start, name: str, rate: int) -> None:
    def local(settings: Settings) -> Settings:
        return replace(settings, speech={"local": Speech()}, llm={"echo": Llm(tokens_per_s=0)})

    async with start(change=local) as running, connected(running.url, model="echo") as client:
        shown = await client.set(audio={"output": {"format": {"type": name}, "voice": "marin", "speed": 1.5}})
        assert (shown.audio.output.format.type, shown.audio.output.voice, shown.audio.output.speed) == (name, "marin", 1.5)
        events = await client.ask("Good morning to you.")

        pcm = audio(events)
        assert 0.5 < len(pcm) / rate < 3
        assert len(set(pcm)) > 20  # speech


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


MESSAGE = {"type": "message", "role": "user"}
WRONG: list[tuple[str | bytes | dict[str, Any], str, str]] = [
    ("no JSON", "invalid_json", ""),
    ("[]", "invalid_value", ""),
    ("{}", "invalid_value", ""),
    (b"\0\1", "invalid_message", ""),
    ({"type": "session.close"}, "invalid_value", "type"),
    ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "not_served", "type"),
    ({"type": "input_audio_buffer.commit"}, "not_served", "type"),
    ({"type": "output_audio_buffer.clear"}, "not_served", "type"),
    ({"type": "session.update"}, "invalid_value", ""),
    ({"type": "session.update", "session": {}}, "invalid_value", "session"),
    ({"type": "session.update", "session": {"type": "transcription"}}, "invalid_value", "session.type"),
    ({"type": "session.update", "session": {"type": "realtime", "model": "other"}}, "", "session.model"),
    ({"type": "session.update", "session": {"type": "realtime", "tracing": "auto"}}, "invalid_value", "session.tracing"),
    ({"type": "session.update", "session": {"type": "realtime", "temperature": 1}}, "unknown_parameter", "session"),
    (
        {"type": "session.update", "session": {"type": "realtime", "output_modalities": ["audio", "text"]}},
        "invalid_value",
        "session.output_modalities",
    ),
    (
        {
            "type": "session.update",
            "session": {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}},
        },
        "invalid_value",
        "session.audio.input.turn_detection",
    ),
    (
        {"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"format": {"type": "audio/mp3"}}}}},
        "invalid_value",
        "session.audio.output.format.type",
    ),
    (
        {
            "type": "session.update",
            "session": {"type": "realtime", "audio": {"output": {"format": {"type": "audio/pcmu", "rate": 24_000}}}},
        },
        "",
        "",
    ),
    (
        {"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"voice": "no/such"}}}},
        "model_not_found",
        "model",
    ),
    (
        {"type": "session.update", "session": {"type": "realtime", "audio": {"output": {"speed": 9}}}},
        "invalid_value",
        "session.audio.output.speed",
    ),
    (
        {"type": "session.update", "session": {"type": "realtime", "tools": [{"type": "mcp", "server_label": "x"}]}},
        "",
        "",
    ),
    ({"type": "conversation.item.create", "item": {**MESSAGE, "content": [{"type": "input_audio"}]}}, "invalid_value", ""),
    ({"type": "conversation.item.create", "item": {"type": "message", "role": "judge"}}, "invalid_value", "item.role"),
    ({"type": "conversation.item.create", "item": {"type": "mcp_call"}}, "invalid_value", "item.type"),
    (
        {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "no", "output": ""}},
        "invalid_value",
        "item.call_id",
    ),
    ({"type": "conversation.item.create", "item": MESSAGE, "previous_item_id": "no"}, "item_not_found", "previous_item_id"),
    ({"type": "conversation.item.retrieve", "item_id": "no"}, "item_not_found", "item_id"),
    (
        {"type": "conversation.item.truncate", "item_id": "no", "content_index": 0, "audio_end_ms": 1},
        "item_not_found",
        "item_id",
    ),
    (
        {"type": "conversation.item.truncate", "item_id": "mine", "content_index": 0, "audio_end_ms": 1},
        "invalid_value",
        "item_id",
    ),
    (
        {"type": "conversation.item.truncate", "item_id": "mine", "content_index": 0, "audio_end_ms": -1},
        "invalid_value",
        "audio_end_ms",
    ),
    ({"type": "conversation.item.create", "item": {**MESSAGE, "id": "mine"}}, "", "item.id"),
    ({"type": "response.create", "response": {"input": []}}, "invalid_value", ""),
    ({"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "no"}]}}, "item_not_found", "item_id"),
    ({"type": "response.cancel"}, "response_cancel_not_active", ""),
]


async def test_an_llm_whose_api_knows_no_tools_is_not_asked_with_them(start: Start) -> None:
    async with start(change=lambda settings: replace(settings, llm={"scripted": Llm(kind="echo")})) as running:
        async with connected(running.url) as client:
            tools = [{"type": "function", "name": "weather"}]
            for event, where in (
                ({"type": "session.update", "session": {"type": "realtime", "tools": tools}}, "session.tools"),
                ({"type": "response.create", "response": {"tools": tools}}, "response.tools"),
            ):
                await client.sdk.send_raw(json.dumps(event))
                error = await client.error()
                assert (error.type, error.code, error.param) == ("invalid_request_error", "not_served", where)
            assert (await client.ask("Hello.", output_modalities=["text"]))[-1].response.status == "completed"


async def test_every_wrong_event_is_a_typed_error_and_the_connection_stays(start: Start) -> None:
    async with start("Yes.") as running, connected(running.url) as client:
        mine: Any = {**MESSAGE, "id": "mine", "content": [{"type": "input_text", "text": "Hello."}]}
        await client.sdk.conversation.item.create(item=mine)
        await client.until("conversation.item.done")
        for n, (wrong, code, param) in enumerate(WRONG):
            event = {**wrong, "event_id": f"mine_{n}"} if isinstance(wrong, dict) else None
            await client.sdk.send_raw(json.dumps(event) if isinstance(wrong, dict) else wrong)
            error = await client.error()
            assert error.message, wrong
            assert error.type == "invalid_request_error", wrong
            assert error.event_id == (event and event["event_id"]), wrong
            assert not code or error.code == code, (wrong, error)
            assert not param or error.param == param, (wrong, error)

        await client.sdk.response.create()
        assert (await client.until("response.done"))[-1].response.status == "completed"
        await client.sdk.response.cancel()
        assert (await client.error()).code == "response_cancel_not_active"


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
async def test_the_llm_fails(start: Start, modality: str) -> None:
    broken = Reply(says("One two three. ").pieces[:5], 200, SSE, End.CUT)
    async with start(broken, Reply([b"{}"], 401, SSE), "Fine.") as running, connected(running.url) as client:
        for _ in range(2):
            done = (await client.ask("Count.", output_modalities=[modality]))[-1].response
            assert (done.status, done.status_details.error.type) == ("failed", "server_error")
        assert (await client.ask("So?"))[-1].response.status == "completed"


@pytest.mark.parametrize("modality", ["audio", "text"])
async def test_limits_end_an_answer(start: Start, modality: str) -> None:
    server = Server(limits=ClientLimits(text_chars=200))
    async with start("One two three. " * 20, server=server) as running, connected(running.url) as client:
        done = (await client.ask("Count.", output_modalities=[modality], max_output_tokens=5))[-1].response

        assert (done.status, done.status_details.reason) == ("incomplete", "max_output_tokens")
        assert running.llm.requests[-1].body["max_tokens"] == 5
        await client.sdk.send_raw(
            json.dumps(
                {
                    "type": "conversation.item.create",
                    "item": {**MESSAGE, "content": [{"type": "input_text", "text": "x" * 201}]},
                }
            )
        )
        assert (await client.error()).code == "string_above_max_length"


async def test_a_lost_endpoint_fails_the_response(start: Start) -> None:
    speech = FaultySpeech(coding=CODING)
    async with start("One.", speech=speech) as running, connected(running.url) as client:
        speech.drops.append(Drop(after_chars=1))
        speech.refusals.extend([401] * 9)
        done = (await client.ask("Count."))[-1].response
        assert (done.status, done.status_details.type) == ("failed", "failed")


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
