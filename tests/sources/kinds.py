"""The kinds of LLM, a row each: how a server of that kind writes what an answer is made of. A new kind is a row here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Unpack

import anthropic
import grpc
import openai
import pytest

from llm2ws import Aside
from llm2ws.sources.anthropic import AnthropicMessages
from llm2ws.sources.client import ModelClient
from llm2ws.sources.failover import one_answer
from llm2ws.sources.model import ModelOptions, ModelSettings
from llm2ws.sources.openai import OpenAIChat
from llm2ws.sources.prompt import Prompt
from llm2ws.sources.responses import OpenAIResponses
from llm2ws.sources.stream import HttpStream, Shape
from llm2ws.sources.triton import TritonModel
from tests.sources.asking import chunk, event
from tests.sources.replay import SSE, WHOLE, End, Reply, json_reply, replay
from tests.sources.triton import HOLD, VLLM, Abort, Failure, Final, Triton, sdk_text, triton

__all__ = ["KINDS", "Kind", "Listening", "Script", "every_sdk"]


class Listening(Protocol):
    """A server: where it is, and what it notices."""

    url: str
    left: Any  # an event: a client left in the middle of an answer
    holding: Any  # an event: it says nothing more


class Script(NamedTuple):
    """One answer: what is written of it, and how it ends. `status` other than 200: it is refused instead."""

    pieces: Sequence[Any] = ()
    end: End = End.CHUNK
    status: int = 200


def over_http(scripts: Sequence[Script], headers: Mapping[str, str]) -> AbstractAsyncContextManager[Listening]:
    return replay(
        *(
            Reply(one.pieces, headers=headers, end=one.end)
            if one.status == 200
            else json_reply(one.status, {"error": {"message": "no: xyzzy"}}, retry_after_ms="1")
            for one in scripts
        )
    )


_AFTER: dict[End, list[str | Abort]] = {
    End.CHUNK: [],
    End.HOLD: [HOLD],
    End.RESET: [Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")],
}
_REFUSED = {401: grpc.StatusCode.UNAUTHENTICATED, 503: grpc.StatusCode.UNAVAILABLE}


def over_grpc(scripts: Sequence[Script], headers: Mapping[str, str]) -> AbstractAsyncContextManager[Listening]:
    """Serve the last script. Those before it are refusals, which the server gives first."""
    last = scripts[-1]
    refused = [Abort(_REFUSED[last.status], "no: xyzzy")] if last.status != 200 else []
    model = replace(VLLM, steps=[*refused, *last.pieces, *_AFTER[last.end]])
    return triton(Triton({"m": model}, unavailable=len(scripts) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of LLM. The model is called m."""

    name: str
    client: Callable[[ModelSettings], ModelClient[Any]]
    text: Callable[[str], Any]  # some of the answer
    end: Callable[[str], Any]  # the end of it, with the reason: "stop" or "length"
    error: Any = None
    call: Sequence[Any] = ()  # of get_weather with {"city": "Köln"}, in two pieces
    reasoning: Sequence[Any] = ()
    headers: Mapping[str, str] = field(default_factory=lambda: SSE)
    serve: Callable[[Sequence[Script], Mapping[str, str]], AbstractAsyncContextManager[Listening]] = over_http
    reference: Callable[[str], Awaitable[str]] | None = None  # the text that the vendor's own client gives
    without: Mapping[str, str] = field(default_factory=dict)  # cases that it cannot meet, and why

    def ask(self, prompt: Prompt, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]:
        return one_answer(self.client(ModelSettings(**options)), prompt)

    @property
    def half(self) -> bytes:
        """Of the body of a response."""
        return b"".join(map(self.text, ("Half an", " answer")))

    def whole(self, text: str = WHOLE) -> bytes:
        """All of it."""
        return b"".join((self.text(text), self.end("stop")))

    def server(self, *scripts: Script) -> AbstractAsyncContextManager[Listening]:
        return self.serve(scripts, self.headers)


async def openai_text(url: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        chunks = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Why?"}], stream=True)
        async with chunks:
            first = [choice for chunk in [chunk async for chunk in chunks] for choice in chunk.choices if choice.index == 0]
    return "".join(choice.delta.content or "" for choice in first)


async def anthropic_text(url: str) -> str:
    """Return the text by the SDK, which puts nothing between two blocks."""
    text = ""
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        question: Any = [{"role": "user", "content": "Why?"}]
        async with await client.messages.create(model="m", max_tokens=9, messages=question, stream=True) as events:
            async for one in events:
                if one.type == "content_block_delta" and one.delta.type == "text_delta":
                    text += one.delta.text
    return text


async def responses_text(url: str) -> str:
    """Return the text by the SDK, which puts nothing between two messages."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        async with await client.responses.create(model="m", input="Why?", stream=True) as events:
            return "".join([one.delta async for one in events if one.type == "response.output_text.delta"])


def line(**fields: Any) -> bytes:
    """As Ollama writes it."""
    return json.dumps({"model": "m", "done": False, **fields}, ensure_ascii=False).encode() + b"\n"


ARGUMENTS = ('{"city":', ' "Köln"}')
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS[0]}}
ITEM = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": ""}
STATUS = {
    "stop": {"status": "completed"},
    "length": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
}
ERROR = b'data: {"error": {"message": "no: xyzzy", "type": "server_error"}}\n\n'
PATHS_ARE_TO_TEXT = "a path leads to text, and to nothing else"
ONLY_TEXT = "it is text, and nothing else"
CHAT = Shape(text_path="choices.0.delta.content", end="choices.0.finish_reason")

KINDS = {
    kind.name: kind
    for kind in [
        Kind(
            name="openai",
            client=OpenAIChat,
            text=chunk,
            end=lambda reason: chunk(reason=reason) + b"data: [DONE]\n\n",
            error=ERROR,
            call=[chunk(tool_calls=[CALL]), chunk(tool_calls=[{"index": 0, "function": {"arguments": ARGUMENTS[1]}}])],
            reasoning=[chunk(reasoning_content="Hm."), chunk(reasoning="Hm.")],
            reference=openai_text,
        ),
        Kind(
            name="anthropic",
            client=AnthropicMessages,
            text=lambda text: event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
            end=lambda reason: (
                event("message_delta", delta={"stop_reason": {"stop": "end_turn", "length": "max_tokens"}[reason]})
                + event("message_stop")
            ),
            error=event("error", error={"type": "overloaded_error", "message": "no: xyzzy"}),
            call=[
                event(
                    "content_block_start", index=1, content_block={"type": "tool_use", "id": "call_1", "name": "get_weather"}
                ),
                *(
                    event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": part})
                    for part in ARGUMENTS
                ),
            ],
            reasoning=[event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm."})],
            reference=anthropic_text,
        ),
        Kind(
            name="responses",
            client=OpenAIResponses,
            text=lambda text: event("response.output_text.delta", output_index=0, delta=text),
            end=lambda reason: event(
                {"stop": "response.completed", "length": "response.incomplete"}[reason], response=STATUS[reason]
            ),
            error=event(
                "response.failed", response={"status": "failed", "error": {"code": "server_error", "message": "xyzzy"}}
            ),
            call=[
                event("response.output_item.added", output_index=0, item=ITEM),
                *(event("response.function_call_arguments.delta", output_index=0, delta=part) for part in ARGUMENTS),
            ],
            reasoning=[
                event("response.reasoning_text.delta", output_index=0, delta="Hm."),
                event("response.reasoning_summary_text.delta", output_index=0, delta="Hm."),
            ],
            reference=responses_text,
        ),
        Kind(
            name="sse",
            client=lambda settings: HttpStream(settings, CHAT),
            text=chunk,
            end=lambda reason: chunk(reason=reason),
            error=ERROR,
            reasoning=[chunk(reasoning_content="Hm."), chunk(reasoning="Hm.")],
            reference=openai_text,
            without={"tool call": PATHS_ARE_TO_TEXT},
        ),
        Kind(
            name="ndjson",
            client=lambda settings: HttpStream(
                settings, Shape(framing="ndjson", text_path="message.content", end="done_reason")
            ),
            text=lambda text: line(message={"role": "assistant", "content": text}),
            end=lambda reason: line(message={"role": "assistant", "content": ""}, done=True, done_reason=reason),
            error=line(error="an error was encountered while running the model: xyzzy"),
            reasoning=[line(message={"role": "assistant", "content": "", "thinking": "Hm."})],
            headers={"Content-Type": "application/x-ndjson"},
            without={"tool call": PATHS_ARE_TO_TEXT},
        ),
        Kind(
            name="text",
            client=lambda settings: HttpStream(settings, Shape(framing="text")),
            text=str.encode,
            end=lambda reason: b"",
            headers={"Content-Type": "text/plain; charset=utf-8"},
            without=dict.fromkeys(["tool call", "reasoning", "length", "error within", "bare end"], ONLY_TEXT),
        ),
        Kind(
            name="triton",
            client=lambda settings: TritonModel(settings, Shape()),
            text=lambda text: [text],
            end=lambda reason: [Final(reason)],
            error=[Failure("in ensemble, failed: xyzzy")],
            serve=over_grpc,
            reference=lambda url: sdk_text(url, "m"),
            without={
                **dict.fromkeys(["tool call", "reasoning"], "its tensors hold text"),
                "every cut": "gRPC hands over whole messages",
                "bare end": "a call has a status, which is its end",
            },
        ),
    ]
}

every_sdk = pytest.mark.parametrize(
    "kind", [KINDS[name] for name in ("openai", "anthropic", "responses")], ids=lambda kind: kind.name
)
