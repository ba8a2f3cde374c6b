"""Responses: the newer API of OpenAI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Unpack

from ..errors import ConfigError, SourceError
from .aside import Aside
from .deltas import Finals
from .events import Paragraphs, finish_of, json_of, usage_of
from .failover import one_answer
from .faults import ended_early, failed, no_answer
from .kept import kept_answer
from .model import LlmEndpoint, ModelOptions, ModelSettings, settings_from
from .openai import OpenAIClient, is_openai
from .prompt import Message, Prompt, conversation, without_system
from .reasons import is_failure, reason_of
from .sse import StreamEvent

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIResponses", "openai_responses"]

# Names of fields in Chat Completions, which the daemon's clients use, and in this API.
_NAMES = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}

# How the names of events without text begin. Events of other names may hold text.
_WITHOUT_TEXT = (
    *("response.code_interpreter_call", "response.content_part", "response.created", "response.custom_tool_call"),
    *("response.file_search_call", "response.function_call_arguments", "response.image_generation_call"),
    *("response.in_progress", "response.mcp_", "response.output_item", "response.output_text.annotation"),
    *("response.output_text.done", "response.queued", "response.refusal", "response.web_search_call"),
)


def openai_responses(
    prompt: Prompt, *, client: openai.AsyncOpenAI | None = None, **options: Unpack[ModelOptions]
) -> AsyncGenerator[str | Aside, None]:
    """Return a source: a model's answer to `prompt`, a question or a conversation. For options see `ModelSettings`.

    It gives text as it comes, with a paragraph break between two messages, then Aside("finish") with `reason` and `usage` as
    Chat Completions name them; an Aside("tool_call") or Aside("refusal") for each piece of one. Reasoning is dropped. The API
    has no `stop`. Raises ConfigError at once for options that cannot be right, SourceError while it is read.

    `client`: an SDK's client of your own, which stays open; None: one is made of the options, and kept for further answers.
    """
    asked = OpenAIResponses(settings_from("openai_responses", options), client)
    return kept_answer(asked, prompt) if client is None else one_answer(asked, prompt)


class OpenAIResponses(OpenAIClient):
    """A client of the Responses API."""

    def __init__(self, settings: ModelSettings, sdk: openai.AsyncOpenAI | None = None) -> None:
        super().__init__(settings, sdk)
        if settings.stop_words:
            raise ConfigError("stop: OpenAI's Responses know no stop words", hint="leave stop out, or use the kind openai")

    def _create(self, sdk: openai.AsyncOpenAI) -> Callable[..., AbstractAsyncContextManager[Any]]:
        return sdk.responses.with_streaming_response.create

    def _parser(self) -> ResponsesParser:
        return ResponsesParser(self._endpoint)

    def _body(self, prompt: Prompt, extra: Mapping[str, object]) -> dict[str, Any]:
        settings = self._settings
        system, messages = without_system(conversation(prompt, system=settings.system, template=settings.template))
        own = {
            "instructions": system or None,
            "temperature": settings.temperature,
            "max_output_tokens": settings.max_tokens,
            # The padding against guessing by length is for the open network; only OpenAI knows the field.
            "stream_options": {"include_obfuscation": False} if is_openai(self._endpoint) else None,
        }
        return {
            "model": self._endpoint.model,
            "input": list(_input(messages)),
            "store": False,  # As with Chat Completions, the conversation is sent each time.
            **{name: value for name, value in own.items() if value is not None},
            **_translated({**settings.extra, **extra}),
            "stream": True,
        }


def _input(messages: Sequence[Message]) -> Iterator[Mapping[str, object]]:
    """Return a conversation as input items. Tool calls and their results are items of their own here."""
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if isinstance(content, list):
            content = [_part(part, role) for part in content]
        match message:
            case {"role": "tool", "tool_call_id": call_id}:
                yield {"type": "function_call_output", "call_id": call_id, "output": content}
            case {"role": str()}:
                if content:
                    yield {"role": role, "content": content}
                calls = message.get("tool_calls")
                for call in calls if isinstance(calls, list) else ():
                    match call:
                        case {"id": call_id, "function": {"name": name, "arguments": arguments}}:
                            yield {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
            case _:
                yield message  # It is an item of this API already.


def _part(part: object, role: object) -> object:
    """Return a part of a content with the name of its kind here, which depends on the role."""
    match part:
        case {"type": "text", **rest}:
            return {**rest, "type": "output_text" if role == "assistant" else "input_text"}
        case {"type": "image_url", "image_url": {"url": url}}:
            return {"type": "input_image", "image_url": url}
        case _:
            return part


def _translated(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request with their names here. A function is not within an object of its own here."""
    given = {_NAMES.get(name, name): value for name, value in fields.items()}
    if isinstance(tools := given.get("tools"), list):
        given["tools"] = [_flat(tool) for tool in tools]
    if "tool_choice" in given:
        given["tool_choice"] = _flat(given["tool_choice"])
    return given


def _flat(tool: object) -> object:
    match tool:
        case {"type": "function", "function": {**function}}:
            return {"type": "function", **function}
        case _:
            return tool


class ResponsesParser:
    """A parser of the events of one answer: https://platform.openai.com/docs/api-reference/responses-streaming.

    Text is in `response.output_text.delta`. It comes again in the events that end a text, a part, an item and the response.
    Short answers, and servers that imitate the API, have it only there: text that no delta has given is taken from those.
    Other events, such as those of reasoning, are passed over. Without `response.completed` or `response.incomplete` the answer
    is not complete.
    """

    def __init__(self, endpoint: LlmEndpoint) -> None:
        self.complete = False
        self._endpoint = endpoint
        self._paragraphs = Paragraphs()
        self._texts = Finals()
        self._refusals = Finals()
        self._calls: dict[str, int] = {}  # The index of each call, by its id.
        self._arguments: set[int] = set()  # Indices of the calls whose arguments have come, or begun to.
        self._is_recognised: bool | None = None  # Some data was part of an answer; False: there was only other data.
        self._error: SourceError | None = None  # The failure of the server, raised at the end, after the text it gave.
        self._reason = "stop"
        self._usage: dict[str, int] | None = None

    def event(self, event: StreamEvent) -> list[str | Aside]:
        body: Any = json_of(event.data, self._endpoint, event.name)
        items = self._items(body)
        if items:
            self._is_recognised = True
        elif not self._is_recognised and not self.complete:
            kind = str(body.get("type")) if isinstance(body, dict) else ""
            if not kind.startswith(_WITHOUT_TEXT):
                self._is_recognised = kind.startswith("response.reasoning")
        return items

    def _items(self, body: Any) -> list[str | Aside]:
        match body:
            case {"type": "response.output_text.delta", "delta": str(text)}:  # Nearly all events.
                self._texts.delta(text, _place(body))
                return self._paragraphs.text(text)
            case {"type": "response.output_item.added", "output_index": int(index), "item": {"type": "function_call"} as item}:
                return self._call(index, item)
            case {"type": "response.function_call_arguments.delta", "output_index": int(index), "delta": str(part)} if part:
                self._arguments.add(index)
                return [Aside("tool_call", {"index": index, "arguments": part})]
            case {"type": "response.refusal.delta", "delta": str(text)} if text:
                self._refusals.delta(text, _place(body))
                return [Aside("refusal", {"text": text})]
            case {"type": str(level)}:
                return self._whole_object(level, body)
            case {"error": {} | str()}:
                raise failed(self._endpoint, body)
        return []

    def _whole_object(self, level: str, body: Mapping[Any, Any]) -> list[str | Aside]:
        """Return what is new in an event with a whole object."""
        match body:
            case {"type": "response.output_text.done", "text": str()}:
                return self._part(level, _place(body), {**body, "type": "output_text"})
            case {"type": "response.refusal.done", "refusal": str()}:
                return self._part(level, _place(body), {**body, "type": "refusal"})
            case {"type": "response.content_part.done", "part": part}:
                return self._part(level, _place(body), part)
            case {"type": "response.function_call_arguments.done", "output_index": int(index), "arguments": str(arguments)}:
                return self._rest_of_call(index, arguments)
            case {"type": "response.output_item.done", "item": item}:
                return self._item(level, _place(body)[0], item)
            case {"type": "response.completed" | "response.incomplete" | "response.failed", "response": {**response}}:
                return self._finish(level, response)
            case {"type": "error"} | {"error": {} | str()}:
                raise failed(self._endpoint, body)
        return []

    def whole(self, body: object) -> list[str | Aside]:
        match body:
            case {"status": "in_progress" | "queued"}:
                raise ended_early(self._endpoint)
            case {"error": {} | str()}:
                raise failed(self._endpoint, body)
            case {"output": [*output], **response}:
                return self._finish("response", {**response, "output": output})
        raise no_answer(self._endpoint, "something")

    def end(self) -> Aside:
        if not self.complete:
            raise ended_early(self._endpoint)
        if self._error is not None:
            raise self._error
        return finish_of(self._endpoint, self._reason, self._usage, is_recognised=self._is_recognised is not False)

    def _item(self, level: str, index: int, item: Any) -> list[str | Aside]:
        """Return what is new in a whole item."""
        items: list[str | Aside] = []
        match item:
            case {"type": "message", "content": [*parts]}:
                for number, part in enumerate(parts):
                    items += self._part(level, (index, number), part)
                self._paragraphs.end()
            case {"type": "function_call"}:
                items = self._call(index, item)
        return items

    def _part(self, level: str, place: tuple[int, int], part: object) -> list[str | Aside]:
        """Return what is new in a whole part of a message."""
        match part:
            case {"type": "output_text" | "text", "text": str(text)}:
                return self._paragraphs.text(self._texts.rest(text, place, level))
            case {"type": "refusal", "refusal": str(text)} if rest := self._refusals.rest(text, place, level):
                return [Aside("refusal", {"text": rest})]
        return []

    def _call(self, index: int, item: Mapping[Any, Any]) -> list[str | Aside]:
        """Return what is new in a call that begins, or in a whole call."""
        call_id, arguments = str(item.get("call_id", "")), item.get("arguments")
        if call_id in self._calls:
            return self._rest_of_call(self._calls[call_id], arguments)
        self._calls[call_id] = index
        if arguments:
            self._arguments.add(index)
        call = {"index": index, "id": call_id, "name": item.get("name"), "arguments": arguments}
        return [Aside("tool_call", {key: value for key, value in call.items() if value not in (None, "")})]

    def _rest_of_call(self, index: int, arguments: object) -> list[str | Aside]:
        if not arguments or index in self._arguments:
            return []
        self._arguments.add(index)
        return [Aside("tool_call", {"index": index, "arguments": arguments})]

    def _finish(self, level: str, response: Mapping[Any, Any]) -> list[str | Aside]:
        """Return what is new in the items of a response that has ended."""
        self.complete = True
        output = response.get("output")
        listed = enumerate(output if isinstance(output, list) else ())
        items = [new for index, item in listed for new in self._item(level, index, item)]
        match response:
            case {"status": str(status)} if is_failure(status):
                self._error = failed(self._endpoint, response)
            case {"status": "incomplete", "incomplete_details": {"reason": str(reason)}}:
                self._reason = reason_of(reason)
            case {"status": "incomplete"}:
                self._reason = "length"
            case _ if self._calls:
                self._reason = "tool_calls"
        match response.get("usage"):
            case {"input_tokens": int(prompt), "output_tokens": int(answer)}:
                self._usage = usage_of(prompt, answer)
        return items


def _place(body: Mapping[Any, Any]) -> tuple[int, int]:
    """Return the part of the answer that an event is about: the index of its item, and of the part within."""
    item, part = body.get("output_index"), body.get("content_index")
    return item if isinstance(item, int) else 0, part if isinstance(part, int) else 0
