"""Messages: the API of Anthropic."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Unpack

from .aside import Aside
from .client import SdkClient
from .deltas import Finals
from .events import Paragraphs, finish_of, json_of, usage_of
from .failover import one_answer
from .faults import ended_early, failed, no_answer
from .kept import kept_answer
from .model import LlmEndpoint, ModelOptions, ModelSettings, Vendor, settings_from
from .prompt import Message, Prompt, conversation, without_system
from .reasons import reason_of
from .sse import StreamEvent

if TYPE_CHECKING:
    import anthropic

__all__ = ["AnthropicMessages", "anthropic_messages"]

VENDOR = Vendor("Anthropic", "https://api.anthropic.com", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "claude-haiku-4-5")
MAX_TOKENS = 4096  # The API requires a limit. This one is some twenty minutes of speech.

# Names of fields in Chat Completions, which the daemon's clients use, and in this API.
_NAMES = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences"}
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}

# Events and deltas of the API. Those of other names may hold text.
_KNOWN = frozenset(
    (
        *("content_block_start", "content_block_stop", "message_delta", "message_start", "message_stop"),
        *("citations_delta", "input_json_delta", "signature_delta", "text_delta", "thinking_delta"),
    )
)


def anthropic_messages(
    prompt: Prompt, *, client: anthropic.AsyncAnthropic | None = None, **options: Unpack[ModelOptions]
) -> AsyncGenerator[str | Aside, None]:
    """Return a source: a model's answer to `prompt`, a question or a conversation. For options see `ModelSettings`.

    It gives text as it comes, with a paragraph break between two blocks, then Aside("finish") with `reason` and `usage` as
    Chat Completions name them; an Aside("tool_call") for each piece of a tool call. Thinking is dropped. Raises ConfigError
    at once for options that cannot be right, SourceError while it is read.

    `client`: an SDK's client of your own, which stays open; None: one is made of the options, and kept for further answers.
    """
    asked = AnthropicMessages(settings_from("anthropic_messages", options), client)
    return kept_answer(asked, prompt) if client is None else one_answer(asked, prompt)


class AnthropicMessages(SdkClient["anthropic.AsyncAnthropic"]):
    """A client of the Messages API."""

    _required = ("model", "messages", "max_tokens")

    def __init__(self, settings: ModelSettings, sdk: anthropic.AsyncAnthropic | None = None) -> None:
        super().__init__(settings, VENDOR, sdk)

    def _make(self) -> tuple[anthropic.AsyncAnthropic, type[Exception]]:
        import anthropic

        if self._given is not None:
            return self._given, anthropic.AnthropicError
        base_url = self._endpoint.url.removesuffix("/v1")  # The SDK adds it.
        sdk = anthropic.AsyncAnthropic(base_url=base_url, **self._options(anthropic.DefaultAioHttpClient))
        return sdk, anthropic.AnthropicError

    def _create(self, sdk: anthropic.AsyncAnthropic) -> Callable[..., AbstractAsyncContextManager[Any]]:
        return sdk.messages.with_streaming_response.create

    def _parser(self) -> MessagesParser:
        return MessagesParser(self._endpoint)

    def _body(self, prompt: Prompt, extra: Mapping[str, object]) -> dict[str, Any]:
        settings = self._settings
        system, messages = without_system(conversation(prompt, system=settings.system, template=settings.template))
        own = {
            "system": system or None,
            "temperature": settings.temperature,
            "stop_sequences": settings.stop_words or None,
        }
        return {
            "model": self._endpoint.model,
            "messages": list(_messages(messages)),
            "max_tokens": settings.max_tokens or MAX_TOKENS,
            **{name: value for name, value in own.items() if value is not None},
            **_translated({**settings.extra, **extra}),
            "stream": True,
        }


def _messages(messages: Sequence[Message]) -> Iterator[Message]:
    """Return a conversation in the form of this API: tool calls are part of the assistant's messages, results of the user's."""
    results: list[object] = []
    for message in messages:
        match message:
            case {"role": "tool", "tool_call_id": call_id}:
                results.append({"type": "tool_result", "tool_use_id": call_id, "content": message.get("content") or ""})
                continue
            case {"role": "assistant", "tool_calls": [*calls]}:
                text = message.get("content")
                parts = [{"type": "text", "text": text}] if text and isinstance(text, str) else _list(text)
                message = {"role": "assistant", "content": [*parts, *map(_tool_use, calls)]}
        if results:
            yield {"role": "user", "content": results}
            results = []
        yield message
    if results:
        yield {"role": "user", "content": results}


def _tool_use(call: object) -> object:
    match call:
        case {"id": call_id, "function": {"name": name, **function}}:
            try:
                given = json.loads(str(function.get("arguments")))
            except ValueError:  # A model wrote them.
                given = {}
            return {"type": "tool_use", "id": call_id, "name": name, "input": _dict(given)}
        case _:
            return call


def _translated(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request in the words of this API. Fields that are in its words already stay."""
    given = {_NAMES.get(name, name): value for name, value in fields.items()}
    if isinstance(stop := given.get("stop_sequences"), str):
        given["stop_sequences"] = [stop]
    if isinstance(tools := given.get("tools"), list):
        given["tools"] = [_tool(tool) for tool in tools]
    match given.get("tool_choice"):
        case str(how):
            given["tool_choice"] = {"type": _CHOICES.get(how, how)}
        case {"type": "function", "function": {"name": name}}:
            given["tool_choice"] = {"type": "tool", "name": name}
    choice = _dict(given.get("tool_choice")) or {"type": "auto"}
    if given.pop("parallel_tool_calls", None) is False and choice["type"] != "none":
        given["tool_choice"] = {**choice, "disable_parallel_tool_use": True}
    return given


def _tool(tool: object) -> object:
    match tool:
        case {"type": "function", "function": {"name": name, **function}}:
            described = {"description": function["description"]} if function.get("description") else {}
            # The API requires a schema, even for a function without arguments.
            schema = function.get("parameters") or {"type": "object", "properties": {}}
            return {"name": name, **described, "input_schema": schema}
        case _:
            return tool


class MessagesParser:
    """A parser of the events of one answer.

    Text is in the `text_delta`s of `content_block_delta`; thinking, signatures and citations are in others. A block may begin
    with text. Servers that pass on the SDK's own events, or imitate them, have whole blocks in `content_block_stop` and whole
    messages in `message_start` and `message_stop`: text that no delta has given is taken from those. Unknown events and
    deltas are passed over, as the API demands. Without `message_stop` the answer is not complete.
    https://docs.anthropic.com/en/api/messages-streaming
    """

    def __init__(self, endpoint: LlmEndpoint) -> None:
        self.complete = False
        self._endpoint = endpoint
        self._paragraphs = Paragraphs()
        self._texts = Finals()
        self._tool = -1  # Index of the block with a call for the client; the server makes calls of its own.
        self._calls: dict[str, bool] = {}  # By id of a call for the client: whether its arguments have come, or begun to.
        self._is_recognised: bool | None = None  # Some data was part of an answer; False: there was only other data.
        self._reason: str | None = None
        self._usage: dict[str, int] = {}

    def event(self, event: StreamEvent) -> list[str | Aside]:
        body = json_of(event.data, self._endpoint, event.name)
        if not isinstance(body, dict):
            self._is_recognised = self._is_recognised or False
            return []
        if body.get("error"):
            raise failed(self._endpoint, body)
        items = self._items(body)
        if items:
            self._is_recognised = True
        elif not self._is_recognised:
            kind = _dict(body.get("delta")).get("type") if body.get("type") == "content_block_delta" else body.get("type")
            if kind == "thinking_delta" or kind not in _KNOWN:
                self._is_recognised = kind == "thinking_delta"
        return items

    def _items(self, body: dict[str, Any]) -> list[str | Aside]:
        match body.get("type"):
            case "content_block_delta":
                return self._delta(body)
            case "content_block_start":
                return self._block("", _index(body), body.get("content_block"))
            case "content_block_stop":
                items = self._block("content_block_stop", _index(body), body.get("content_block"))
                self._paragraphs.end()
                return items
            case "message_start":
                return self._message("message_start", _dict(body.get("message")))
            case "message_delta":
                self._count(body.get("usage"))
                self._stopped(_dict(body.get("delta")).get("stop_reason"))
            case "message_stop":
                self.complete = True
                return self._message("message_stop", _dict(body.get("message")))
        return []

    def whole(self, body: object) -> list[str | Aside]:
        if isinstance(body, dict) and body.get("error"):
            raise failed(self._endpoint, body)
        if not isinstance(body, dict) or not isinstance(body.get("content"), list):
            raise no_answer(self._endpoint, "something")
        self.complete = True
        return self._message("message", body)

    def end(self) -> Aside:
        if not self.complete:
            raise ended_early(self._endpoint)
        usage = dict(self._usage)
        prompt = sum(usage.get(name, 0) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"))
        counts = usage_of(prompt, usage.get("output_tokens", 0)) if usage else None
        return finish_of(self._endpoint, self._reason, counts, is_recognised=self._is_recognised is not False)

    def _message(self, level: str, message: dict[str, Any]) -> list[str | Aside]:
        """Return what is new in a whole message."""
        self._count(message.get("usage"))
        self._stopped(message.get("stop_reason"))
        items: list[str | Aside] = []
        for index, block in enumerate(_list(message.get("content"))):
            items += self._block(level, index, block)
            self._paragraphs.end()
        return items

    def _block(self, level: str, index: int, block: object) -> list[str | Aside]:
        """Return what is new in a block that begins (`level` ""), or in a whole block."""
        match block:
            case {"type": "text", "text": str(text)}:
                if level:
                    return self._paragraphs.text(self._texts.rest(text, index, level))
                self._texts.delta(text, index)
                return self._paragraphs.text(text)
            case {"type": "tool_use", "id": str(call_id), "name": name, **rest}:
                given = (
                    {"arguments": json.dumps(rest["input"])} if rest.get("input") else {}
                )  # In a stream, deltas with it follow.
                if call_id not in self._calls:
                    self._tool = index
                    self._calls[call_id] = bool(given)
                    return [Aside("tool_call", {"index": index, "id": call_id, "name": name, **given})]
                if given and not self._calls[call_id]:
                    self._calls[call_id] = True
                    return [Aside("tool_call", {"index": index, **given})]
        return []

    def _delta(self, body: dict[str, Any]) -> list[str | Aside]:
        match body.get("delta"):
            case {"type": "text_delta", "text": str(text)}:
                self._texts.delta(text, _index(body))
                return self._paragraphs.text(text)
            case {"type": "input_json_delta", "partial_json": str(part)} if part and _index(body) == self._tool:
                self._calls[next(reversed(self._calls))] = True
                return [Aside("tool_call", {"index": self._tool, "arguments": part})]
        return []

    def _stopped(self, reason: object) -> None:
        if isinstance(reason, str):
            self._reason = reason_of(reason)

    def _count(self, usage: object) -> None:
        """Take the counts of an event. They are cumulative: the last one of each name holds."""
        self._usage.update({name: count for name, count in _dict(usage).items() if isinstance(count, int)})


def _index(body: Mapping[str, object]) -> int:
    index = body.get("index")
    return index if isinstance(index, int) else 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
