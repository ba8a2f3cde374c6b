"""Chunks for what a source gives, as OpenAI's SDK reads them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llm2ws.server.chunks import DONE, ChatRequest, Writer, completion
from llm2ws.sources.aside import Aside

ITEMS: list[str | Aside] = [
    "Let me ",
    "see.",
    Aside("tool_call", {"index": 0, "id": "call_1", "name": "weather"}),
    Aside("tool_call", {"index": 0, "arguments": '{"city": "Rome"}'}),
    Aside("refusal", {"text": "No."}),
    Aside("of your own", {"x": 1}),
]


def read(data: bytes) -> list[ChatCompletionChunk]:
    events = [event for event in data.split(b"\n\n") if event]
    return [ChatCompletionChunk.model_validate(json.loads(event.removeprefix(b"data: "))) for event in events]


def asked(**fields: Any) -> ChatRequest:
    return msgspec.json.decode(json.dumps({"model": "m", "messages": [{}], **fields}), type=ChatRequest)


@pytest.mark.parametrize("usage", [True, False])
def test_the_chunks_are_openais(usage: bool) -> None:
    writer = Writer("m")
    finish = Aside("finish", {"reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 4}})
    written = b"".join(writer.item(item) for item in [*ITEMS, finish])
    end = writer.end(asked(stream_options={"include_usage": usage}))
    assert end.endswith(DONE)
    chunks = read(written + end.removesuffix(DONE))

    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta.content or "" for delta in deltas) == "Let me see."
    assert [delta.refusal for delta in deltas if delta.refusal] == ["No."]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.id, call.type) for call in calls] == [(0, "call_1", "function"), (0, None, None)]
    assert [call.function and (call.function.name, call.function.arguments) for call in calls] == [
        ("weather", None),
        (None, '{"city": "Rome"}'),
    ]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]
    totals = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]
    assert totals == ([7] if usage else [])
    assert {chunk.id for chunk in chunks} == {writer.id}


def test_a_refusal_is_in_the_whole_answer() -> None:
    writer = Writer("m")
    for item in (Aside("refusal", {"text": "I can"}), Aside("refusal", {"text": "not."}), Aside("finish", {"reason": "stop"})):
        writer.item(item)
    (choice,) = ChatCompletion.model_validate(completion(writer)).choices
    assert (choice.message.content, choice.message.refusal, choice.finish_reason) == (None, "I cannot.", "stop")


@pytest.mark.parametrize(
    ("reason", "becomes"),
    [
        ("end_turn", "stop"),
        (None, "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("function_call", "function_call"),
    ],
)
def test_why_it_ended_in_openais_words(reason: str | None, becomes: str) -> None:
    writer = Writer("m")
    writer.item("Yes.")
    writer.item(Aside("finish", {"reason": reason, "usage": None}))
    whole = ChatCompletion.model_validate(completion(writer))
    assert whole.choices[0].finish_reason == becomes
    assert whole.choices[0].message.content == "Yes."
    assert whole.usage is None


def test_an_unknown_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer("m")
    writer.item(Aside("finish", {"reason": "out of\nluck", "usage": None}))
    assert writer.reason == "stop"
    (record,) = caplog.records
    assert record.getMessage() == r"m: its answer ended for an unknown reason, 'out of\nluck': clients are told stop"
