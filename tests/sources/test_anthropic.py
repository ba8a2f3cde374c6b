"""Messages as Anthropic speaks it, beside the official SDK's own iterator on the same bytes."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from llm2ws import Aside, anthropic_messages
from llm2ws.errors import ConfigError, LocalProtocolError
from llm2ws.sources.anthropic import AnthropicMessages
from llm2ws.sources.model import ModelSettings
from tests.sources.replay import WHOLE, Answer, End, Reply, json_reply, read, replay, stream

USAGE = {"prompt_tokens": 15, "completion_tokens": 42, "total_tokens": 57}


async def ask(url: str, prompt: Any = "Why?", **options: Any) -> Answer:
    return await read(anthropic_messages(prompt, **{"model": "m", "base_url": url, "max_retries": 0, **options}))


async def sdk_text(url: str) -> str:
    """What the official SDK's iterator makes of it; it puts nothing between two blocks."""
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
