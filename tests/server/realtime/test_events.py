"""The events that clients send: what is served, and how each wrong one is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from llm2ws.settings.fields import Llm, Settings, Speech
from tests.server.conftest import Start
from tests.server.realtime.client import MESSAGE, audio, connected

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
