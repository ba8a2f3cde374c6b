"""A response: its events, in their order, and what is kept of it."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import pytest

from llm2ws.settings.fields import ClientLimits, Server
from llm2ws.testing import Coding, Drop, FaultySpeech, decode
from tests.server.conftest import CODING, Start, says, slow
from tests.server.realtime.client import MESSAGE, SPOKEN, asked, audio, connected, kinds
from tests.sources.replay import SSE, End, Reply


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
        question, called, *answers = asked(running)
        assert (question["role"], called["role"]) == ("user", "assistant")
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
        heard = "".join(message["content"] for message in asked(running)[1:-1])
        assert text.startswith(heard)
        assert len(heard) < 60  # hardly any time has passed since its first audio


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

        assert [message["content"] for message in asked(running)] == ["Count.", "Go on."]  # none of it was heard


async def test_a_response_apart_from_the_conversation(start: Start) -> None:
    async with start("Yes.") as running, connected(running.url) as client:
        await client.user("First.")
        other = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Other."}]}
        apart: Any = {"conversation": "none", "input": [other], "metadata": {"a": "b"}, "instructions": "Be kind."}
        await client.sdk.response.create(response=apart)
        events = await client.until("response.done")

        assert "conversation.item.added" not in kinds(events)
        assert (events[-1].response.conversation_id, events[-1].response.metadata) == (None, {"a": "b"})
        assert [message["content"] for message in asked(running)] == ["Be kind.", "Other."]
        await client.ask("Second.")
        assert [message["content"] for message in asked(running)] == ["First.", "Second."]


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


async def test_a_late_cancel_of_a_text_that_a_slow_client_has_not_read_to_its_end(start: Start) -> None:
    pieces = [
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": "word " * 20_000}}]}).encode() + b"\n\n"
    ] * 40
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    reply = Reply([*pieces, b"data: " + json.dumps(end).encode() + b"\n\n", b"data: [DONE]\n\n"], 200, SSE)
    async with start(reply, server=Server(limits=ClientLimits(text_chars=10**8))) as running, slow(running) as http:
        async with http.ws_connect("/v1/realtime", max_msg_size=0) as ws:
            item = {**MESSAGE, "content": [{"type": "input_text", "text": "Count."}]}
            await ws.send_json({"type": "conversation.item.create", "item": item})
            await ws.send_json({"type": "response.create", "response": {"output_modalities": ["text"]}})
            seen = [await ws.receive_json()]
            while [event["type"] for event in seen].count("response.output_text.delta") < len(pieces):
                seen.append(await ws.receive_json())
            await ws.send_json({"type": "response.cancel"})  # The events that end the answer wait, each with the whole text.
            while seen[-1]["type"] != "response.done":
                seen.append(await ws.receive_json())
            assert seen[-1]["response"]["status"] == "completed"
            await ws.send_json({"type": "response.cancel"})
            while (event := await ws.receive_json())["type"] != "error":
                pass
            assert event["error"]["code"] == "response_cancel_not_active"
