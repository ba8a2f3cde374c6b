"""Requests of Chat Completions, as far as the daemon reads them, and chunks for LLMs that speak another protocol."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..service import Service
from ..sources.aside import Aside
from ..sources.reasons import REASONS, reason_of
from .body import decode_json
from .problems import Problem
from .sending import sse_event

__all__ = ["DONE", "ChatAudio", "ChatRequest", "Writer", "ask", "completion"]

_log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


class ChatAudio(msgspec.Struct, frozen=True):
    voice: str = ""
    format: str = "pcm16"


class ChatRequest(msgspec.Struct, frozen=True):
    """What the daemon reads of a request. The other fields are passed on to the LLM."""

    model: str
    messages: Annotated[list[dict[str, msgspec.Raw]], Meta(min_length=1)]
    stream: bool | None = None
    modalities: list[str] | None = None
    audio: ChatAudio | None = None
    stream_options: dict[str, msgspec.Raw] | None = None

    @property
    def spoken(self) -> bool:
        return "audio" in (self.modalities or ())


# The parameters that LLMs of other protocols have too, by their names in Chat Completions.
_PARAMETERS = {
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
}
_WITHOUT_EFFECT = {"model", "messages", "stream", "stream_options", "modalities", "audio", "user", "store", "metadata", "n"}


class Writer:
    """Writes the items of a source as chunks of Chat Completions."""

    def __init__(self, model: str) -> None:
        self.id, self.created = f"chatcmpl-{time.time_ns():x}", int(time.time())
        self.head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._begun = False
        self.message: dict[str, Any] = {"role": "assistant", "content": ""}
        self.reason = "stop"
        self.usage: object = None

    def _chunk(self, delta: Mapping[str, object], reason: str | None = None) -> bytes:
        return sse_event({**self.head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    def item(self, item: str | Aside) -> bytes:
        """Return the chunk for an item; b"" where its content belongs to the end."""
        if item == "":  # It shows only that the LLM is at work.
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
                self._ended(str(item.data.get("reason") or "stop"))
                self.usage = _usage(item.data.get("usage"))
        return b""

    def _ended(self, word: str) -> None:
        """Take why the answer ended. Clients know only the reasons of the protocol: for them, an unknown one is stop."""
        self.reason = reason_of(word)
        if self.reason not in REASONS:
            self.reason = "stop"
            _log.warning("%s: its answer ended for an unknown reason, %.80r: clients are told stop", self.head["model"], word)

    def end(self, asked: ChatRequest) -> bytes:
        """Return the chunks that end the answer."""
        parts = [self._chunk({}, self.reason)]
        wanted = bytes((asked.stream_options or {}).get("include_usage", b"")) == b"true"
        if self.usage and wanted:
            parts.append(sse_event({**self.head, "choices": [], "usage": self.usage}))
        return b"".join((*parts, DONE))


def _usage(usage: object) -> dict[str, int] | None:
    if not isinstance(usage, dict):
        return None
    prompt = int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0)
    written = int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def ask(service: Service, asked: ChatRequest, fields: Mapping[str, msgspec.Raw]) -> AsyncGenerator[str | Aside, None]:
    """Return the answer of an LLM that speaks another protocol. Raises Problem for a parameter that protocol does not have."""
    fields = {name: value for name, value in fields.items() if bytes(value) != b"null"}  # An absent field.
    for name in fields:
        if name not in _PARAMETERS and name not in _WITHOUT_EFFECT:
            raise Problem(400, f"{name}: the model {asked.model} is not asked with it here: leave it out", param=name)
    extra = {_PARAMETERS[name]: msgspec.json.decode(value) for name, value in fields.items() if name in _PARAMETERS}
    return service.answer(asked.model, decode_json(fields["messages"], list[dict[str, Any]]), extra=extra)


def completion(writer: Writer) -> dict[str, Any]:
    """Return the whole answer as one object."""
    message = (
        {**writer.message, "content": writer.message["content"] or None} if "refusal" in writer.message else writer.message
    )
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": writer.reason}
    return {**writer.head, "object": "chat.completion", "choices": [choice], "usage": writer.usage}
