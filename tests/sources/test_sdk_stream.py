"""Streams that the caller has opened with the official SDKs, over real sockets."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from llm2ws import Aside, from_sdk_stream
from llm2ws.errors import SourceError
from tests.sources.asking import event
from tests.sources.kinds import KINDS, Kind, every_sdk
from tests.sources.replay import End, Reply, Server, replay

QUESTION: Any = [{"role": "user", "content": "Why?"}]


def clients(server: Server) -> tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]:
    return (
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0),
        anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0),
    )


async def read(kind: Kind, server: Server) -> list[str | Aside]:
    first, second = clients(server)
    async with first, second:
        stream: Any
        match kind.name:
            case "openai":
                stream = await first.chat.completions.create(model="m", messages=QUESTION, stream=True)
            case "responses":
                stream = await first.responses.create(model="m", input="Why?", stream=True)
            case _:
                stream = await second.messages.create(model="m", max_tokens=9, messages=QUESTION, stream=True)
        return [item async for item in from_sdk_stream(stream) if item]


@every_sdk
async def test_an_answer_is_whole_and_ends_with_its_reason(kind: Kind) -> None:
    body = b"".join([*map(kind.text, ("Half an", " answer.")), kind.end("length")])
    async with replay(Reply([body])) as server:
        *texts, finish = await read(kind, server)

    assert texts == ["Half an", " answer."]
    assert isinstance(finish, Aside)
    assert (finish.kind, finish.data["reason"]) == ("finish", "length")


@every_sdk
async def test_calls_are_passed_on(kind: Kind) -> None:
    async with replay(Reply([*kind.call, kind.end("stop")])) as server:
        items = await read(kind, server)

    calls = [item for item in items if isinstance(item, Aside) and item.kind == "tool_call"]
    assert "".join(str(call.data.get("arguments", "")) for call in calls) == '{"city": "Köln"}'


@every_sdk
@pytest.mark.parametrize("end", [End.CHUNK, End.CUT])
async def test_an_answer_that_is_cut_is_no_whole_one(kind: Kind, end: End) -> None:
    async with replay(Reply([kind.half], end=end)) as server:
        with pytest.raises(SourceError, match=r"127\.0\.0\.1: (the answer ended before|the connection broke)"):
            await read(kind, server)


@every_sdk
async def test_an_error_within_the_stream_is_told(kind: Kind) -> None:
    async with replay(Reply([kind.half, kind.error])) as server:
        with pytest.raises(SourceError, match=r"127\.0\.0\.1: failed while answering"):
            await read(kind, server)


async def test_streams_of_the_sdks_helpers() -> None:
    chat, messages = KINDS["openai"], KINDS["anthropic"]
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    start = event("message_start", message=message)
    block = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    # The SDK's helper cannot do without counts.
    counted = messages.whole("Yes.").replace(b'"delta": {"stop', b'"usage": {"output_tokens": 1}, "delta": {"stop')
    # The helper passes over chunks that do not say that they are.
    whole = chat.whole("Yes.").replace(b'"choices"', b'"id": "1", "object": "chat.completion.chunk", "choices"')
    async with replay(Reply([whole]), Reply([start, block, counted])) as server:
        first, second = clients(server)
        async with first, second:
            chunks = from_sdk_stream(first.chat.completions.stream(model="m", messages=QUESTION))
            assert [item async for item in chunks if isinstance(item, str) and item] == ["Yes."]
            events = from_sdk_stream(second.messages.stream(model="m", max_tokens=9, messages=QUESTION))
            assert [item async for item in events if isinstance(item, str) and item] == ["Yes."]
