"""Messages as Anthropic speaks it, beside the official SDK's own iterator on the same bytes."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from llm2ws import Aside, anthropic_messages
from llm2ws.errors import ConfigError, LocalProtocolError
from llm2ws.sources.anthropic import AnthropicMessages
from llm2ws.sources.model import ModelSettings
from tests.sources.asking import delta, event, outcome_of
from tests.sources.replay import WHOLE, Answer, End, Reply, json_reply, read, replay, stream

USAGE = {"prompt_tokens": 15, "completion_tokens": 42, "total_tokens": 57}


async def ask(url: str, prompt: Any = "Why?", **options: Any) -> Answer:
    return await read(anthropic_messages(prompt, **{"model": "m", "base_url": url, "max_retries": 0, **options}))


async def sdk_text(url: str) -> str:
    """Return the text by the SDK's iterator, which puts nothing between two blocks."""
    text = ""
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        question: Any = [{"role": "user", "content": "Why?"}]
        events = await client.messages.create(model="m", max_tokens=9, messages=question, stream=True)
        async with events:
            async for event in events:
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    text += event.delta.text
    return text


STREAMS = {
    "anthropic": (WHOLE, "stop"),
    "anthropic_tool_use": ("I will look.\n\nAnd ask.", "tool_calls"),
    "anthropic_citations": ("The sky is blue, they say.\n\nNext", "length"),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_recorded_streams_give_the_sdks_text(name: str) -> None:
    text, reason = STREAMS[name]
    whole = stream(name)
    cut = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    async with replay(Reply([whole]), Reply([whole]), Reply(cut), Reply(cut, end=End.EOF)) as server:
        assert await sdk_text(server.url) == (text if text == WHOLE else text.replace("\n\n", ""))
        for _ in range(3):
            answer = await ask(server.url)

            assert (answer.text, answer.reason, answer.usage) == (text, reason, USAGE)


async def test_tool_calls_are_passed_on_and_the_servers_own_are_not() -> None:
    async with replay(Reply([stream("anthropic_tool_use")])) as server:
        calls = (await ask(server.url)).asides

    assert {aside.kind for aside in calls} == {"tool_call"}
    assert calls[0].data == {"index": 3, "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "get_weather"}
    assert "".join(str(aside.data.get("arguments", "")) for aside in calls) == '{"city": "Köln"}'


async def test_a_server_that_does_not_stream() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "One."},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        {"type": "text", "text": "Two."},
    ]
    body = {"content": content, "stop_reason": "tool_use", "usage": {"input_tokens": 1, "output_tokens": 2}}
    async with replay(json_reply(200, body)) as server:
        answer = await ask(server.url)

    assert answer.text == "One.\n\nTwo."
    assert answer.reason == "tool_calls"
    assert answer.asides == [Aside("tool_call", {"index": 2, "id": "t", "name": "f", "arguments": '{"a": 1}'})]


async def test_events_of_kinds_to_come_are_passed_over() -> None:
    strange = [
        b'event: new\ndata: {"type": "new"}\n\n',
        b"data: 7\n\n",
        b'data: {"type": "content_block_start", "content_block": {"type": "hologram"}}\n\n',
        b'data: {"type": "content_block_delta", "delta": {"type": "scent_delta", "text": "no"}}\n\n',
        b'data: {"type": "content_block_delta", "delta": 3}\n\n',
        b'data: {"type": "message_delta", "delta": {"stop_reason": "moonrise"}, "usage": {"output_tokens": "x"}}\n\n',
    ]
    async with replay(Reply([*strange, stream("anthropic").replace(b"end_turn", b"new_reason")])) as server:
        answer = await ask(server.url)

    assert (answer.text, answer.reason) == (WHOLE, "new_reason")


TEXT_BLOCK = {"type": "text", "text": "One."}
TOOL_BLOCK = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
TOOL_BEGINS = event("content_block_start", index=1, content_block={**TOOL_BLOCK, "input": {}})
STOP = event("message_stop")
FINAL_OBJECTS = {
    "a block": ([event("content_block_stop", index=0, content_block=TEXT_BLOCK), STOP], "One.", 0),
    "the message": ([event("message_stop", message={"content": [TEXT_BLOCK]})], "One.", 0),
    "the first event": ([event("message_start", message={"content": [TEXT_BLOCK]}), STOP], "One.", 0),
    "the rest of a block": ([delta("On"), event("content_block_stop", index=0, content_block=TEXT_BLOCK), STOP], "One.", 0),
    "all of them": (
        [
            event("content_block_start", index=0, content_block={"type": "text", "text": "On"}),
            delta("e."),
            event("content_block_stop", index=0, content_block=TEXT_BLOCK),
            event("message_stop", message={"content": [TEXT_BLOCK, TEXT_BLOCK]}),
        ],
        "One.\n\nOne.",
        0,
    ),
    "a call": ([event("content_block_stop", index=1, content_block=TOOL_BLOCK), STOP], "", 1),
    "a call, begun": (
        [
            TOOL_BEGINS,
            event("content_block_stop", index=1, content_block=TOOL_BLOCK),
            event("message_stop", message={"content": [TOOL_BLOCK]}),
        ],
        "",
        2,
    ),
    "a call, twice": (
        [
            TOOL_BEGINS,
            event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"a": 1}'}),
            event("content_block_stop", index=1, content_block=TOOL_BLOCK),
            STOP,
        ],
        "",
        2,
    ),
}


@pytest.mark.parametrize("name", FINAL_OBJECTS)
async def test_what_comes_in_final_objects_is_given_once(name: str) -> None:
    pieces, text, asides = FINAL_OBJECTS[name]
    async with replay(Reply(pieces)) as server:
        answer = await ask(server.url)

    assert (answer.text, len(answer.asides)) == (text, asides)
    assert "".join(str(aside.data.get("arguments", "")) for aside in answer.asides) == ('{"a": 1}' if asides else "")


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        ([delta("One."), event("message_delta", delta={"stop_reason": "error"}), STOP], "gave up while answering"),
        ([event("completion", completion="One."), STOP], "there is no text that is known here"),
        ([event("content_block_delta", index=0, delta={"type": "text", "text": "One."}), STOP], "there is no text"),
        ([b"event: error\ndata: Overloaded\n\n", STOP], "the server is overloaded"),
    ],
)
async def test_an_answer_that_is_none(pieces: list[bytes], line: str) -> None:
    async with replay(Reply(pieces)) as server:
        _, asides, error = await outcome_of(anthropic_messages, server.url)

    assert asides == []
    assert line in str(error)


async def test_an_empty_answer_and_one_of_thoughts_are_no_errors() -> None:
    ping = event("ping")
    begin = event("message_start", message={"content": []})
    thought = event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm."})
    async with replay(Reply([begin, ping, STOP]), Reply([begin, thought, event("new"), STOP])) as server:
        for _ in range(2):
            text, asides, error = await outcome_of(anthropic_messages, server.url)
            assert (text, len(asides), error) == ("", 1, None)


async def test_what_is_asked() -> None:
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One"}]
    async with replay(Reply([stream("anthropic")])) as server:
        await ask(f"{server.url}/v1/", history, system="Count.", temperature=0.5, max_tokens=50, stop="END", extra={"top_k": 3})
        await ask(server.url)

    first, second = server.requests
    assert first.path == second.path == "/v1/messages"
    assert first.body == {
        "model": "m",
        "system": "Count.\n\nBe brief.",
        "messages": [{"role": "user", "content": "One"}],
        "temperature": 0.5,
        "max_tokens": 50,
        "stop_sequences": ["END"],
        "top_k": 3,
        "stream": True,
    }
    assert set(second.body) == {"model", "messages", "max_tokens", "stream"}


TOOL = {"type": "function", "function": {"name": "f", "description": "It does.", "parameters": {"type": "object"}}}
NATIVE = {"name": "f", "description": "It does.", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("choice", "here"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"tool_choice": {"type": "tool", "name": "f"}}, {"type": "tool", "name": "f"}),
    ],
)
async def test_what_is_asked_in_the_words_of_chat_completions(choice: dict[str, Any], here: dict[str, Any]) -> None:
    bare = {"type": "function", "function": {"name": "g"}}
    extra = {"tools": [TOOL, NATIVE, bare], "max_completion_tokens": 9, "stop": "END", **choice}
    async with replay(Reply([stream("anthropic")])) as server:
        await ask(server.url, extra=extra)

    body = server.requests[0].body
    assert body["tools"] == [NATIVE, NATIVE, {"name": "g", "input_schema": {"type": "object", "properties": {}}}]
    assert body["tool_choice"] == here
    assert (body["max_tokens"], body["stop_sequences"]) == (9, ["END"])
    assert not {"parallel_tool_calls", "max_completion_tokens", "stop"} & set(body)


async def test_function_calls_of_before() -> None:
    def call(n: int, arguments: str) -> dict[str, Any]:
        return {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": arguments}}

    said: list[dict[str, Any]] = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": [call(0, '{"at": "here"}'), call(1, "")]},
        {"role": "tool", "tool_call_id": "c0", "content": "no"},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": None, "tool_calls": [call(2, "[1]")]},
        {"role": "tool", "tool_call_id": "c2", "content": "yes"},
    ]
    async with replay(Reply([stream("anthropic")])) as server:
        await ask(server.url, said)

    def use(n: int, **given: str) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"c{n}", "name": "f", "input": given}

    def result(n: int, text: str) -> dict[str, Any]:
        return {"type": "tool_result", "tool_use_id": f"c{n}", "content": text}

    assert server.requests[0].body["messages"] == [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, use(0, at="here"), use(1)]},
        {"role": "user", "content": [result(0, "no"), result(1, "")]},
        {"role": "user", "content": "Well?"},
        {"role": "assistant", "content": [use(2)]},
        {"role": "user", "content": [result(2, "yes")]},
    ]


async def test_a_client_keeps_its_connection_from_answer_to_answer() -> None:
    async with replay(Reply([stream("anthropic")])) as server:
        async with AnthropicMessages(ModelSettings(model="m", base_url=server.url)) as messages:
            answers = [await read(messages.answer("Why?", extra={"temperature": n / 10})) for n in range(3)]

    assert [answer.text for answer in answers] == [WHOLE] * 3
    assert {request.connection for request in server.requests} == {1}


def test_wrong_options_are_told_before_anything_is_started() -> None:
    with pytest.raises(ConfigError, match="no key for Anthropic: set ANTHROPIC_API_KEY"):
        anthropic_messages("Why?")
    with pytest.raises(LocalProtocolError, match="not entered"):
        AnthropicMessages(ModelSettings(model="m", base_url="http://localhost")).answer("Why?")
