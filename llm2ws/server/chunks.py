"""What Chat Completions are made of: the request as far as it is read here, and chunks for LLMs that speak another protocol."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..service import Service
from ..sources.aside import Aside
from .daemon import Problem, decoded, event

__all__ = ["DONE", "ChatAudio", "ChatRequest", "Writer", "ask", "completion"]

DONE = b"data: [DONE]\n\n"


class ChatAudio(msgspec.Struct, frozen=True):
    voice: str = ""
    format: str = "pcm16"


class ChatRequest(msgspec.Struct, frozen=True):
    """What the daemon reads of a request. All else is the LLM's business."""

    model: str
    messages: Annotated[list[dict[str, msgspec.Raw]], Meta(min_length=1)]
    stream: bool | None = None
    modalities: list[str] | None = None
    audio: ChatAudio | None = None
    stream_options: dict[str, msgspec.Raw] | None = None

    @property
    def spoken(self) -> bool:
        return "audio" in (self.modalities or ())


# What is passed on to them, in Chat Completions' words and theirs. Other fields have no counterpart that is known to be right.
_PARAMETERS = {
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
}
_WITHOUT_EFFECT = {"model", "messages", "stream", "stream_options", "modalities", "audio", "user", "store", "metadata", "n"}


class Writer:
    """Makes Chat Completions' chunks of what a source gives."""

    def __init__(self, model: str) -> None:
        self.id, self.created = f"chatcmpl-{time.time_ns():x}", int(time.time())
        self.head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._begun = False
        self.message: dict[str, Any] = {"role": "assistant", "content": ""}
        self.reason = "stop"
        self.usage: object = None

    def _chunk(self, delta: Mapping[str, object], reason: str | None = None) -> bytes:
        return event({**self.head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    def item(self, item: str | Aside) -> bytes:
        """The chunk for it, b"" where it is for the end."""
        if item == "":  # a sign of life
            return b""
        role = {} if self._begun else {"role": "assistant"}
        self._begun = True
        if isinstance(item, str):
            self.message["content"] += item
            return self._chunk({**role, "content": item})
        match item.kind:
            case "tool_call":
                function = {key: item.data[key] for key in ("name", "arguments") if key in item.data}
                call = {"index": item.data.get("index", 0), "function": function}
                if "id" in item.data:
                    call |= {"id": item.data["id"], "type": "function"}
                return self._chunk({**role, "tool_calls": [call]})
            case "refusal":
                self.message["refusal"] = self.message.get("refusal", "") + str(item.data.get("text"))
                return self._chunk({**role, "refusal": item.data.get("text")})
            case "finish":
                self.reason = _REASONS.get(str(item.data.get("reason")), "stop")
                self.usage = _usage(item.data.get("usage"))
        return b""

    def end(self, asked: ChatRequest) -> bytes:
        """What ends the answer."""
        parts = [self._chunk({}, self.reason)]
        wanted = bytes((asked.stream_options or {}).get("include_usage", b"")) == b"true"
        if self.usage and wanted:
            parts.append(event({**self.head, "choices": [], "usage": self.usage}))
        return b"".join((*parts, DONE))


_REASONS = {"length": "length", "max_tokens": "length", "tool_use": "tool_calls", "tool_calls": "tool_calls"}
_REASONS |= {"content_filter": "content_filter", "refusal": "content_filter"}


def _usage(usage: object) -> dict[str, int] | None:
    if not isinstance(usage, dict):
        return None
    prompt = int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0)
    written = int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def ask(service: Service, asked: ChatRequest, fields: Mapping[str, msgspec.Raw]) -> AsyncGenerator[str | Aside, None]:
    """The answer of an LLM that speaks another protocol. Raises Problem for what cannot be said in it."""
    fields = {name: value for name, value in fields.items() if bytes(value) != b"null"}  # which is as good as absent
    for name in fields:
        if name not in _PARAMETERS and name not in _WITHOUT_EFFECT:
            raise Problem(400, f"{name}: the model {asked.model} is not asked with it here: leave it out", param=name)
    extra = {_PARAMETERS[name]: msgspec.json.decode(value) for name, value in fields.items() if name in _PARAMETERS}
    return service.answer(asked.model, decoded(fields["messages"], list[dict[str, Any]]), extra=extra)


def completion(writer: Writer) -> dict[str, Any]:
    """All that was written, as one object."""
    message = (
        {**writer.message, "content": writer.message["content"] or None} if "refusal" in writer.message else writer.message
    )
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": writer.reason}
    return {**writer.head, "object": "chat.completion", "choices": [choice], "usage": writer.usage}
