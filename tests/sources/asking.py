"""Asking an LLM through its source, and pieces of answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple, Protocol, Unpack

from llm2ws import Aside
from llm2ws.errors import SourceError
from llm2ws.sources.model import ModelOptions
from llm2ws.sources.prompt import Prompt
from tests.sources.replay import Reply, json_reply

__all__ = ["PROMPT", "Ask", "Outcome", "chunk", "delta", "event", "outcome_of", "refusal"]

PROMPT = "Why is the secret word xyzzy?"


class Ask(Protocol):
    def __call__(self, prompt: Prompt, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]: ...


class Outcome(NamedTuple):
    text: str
    asides: list[Aside]
    error: SourceError | None


async def outcome_of(ask: Ask, url: str, **options: Unpack[ModelOptions]) -> Outcome:
    text: list[str] = []
    asides: list[Aside] = []
    try:
        given: ModelOptions = {"model": "m", "base_url": url, "max_retries": 0, **options}
        async for item in ask(PROMPT, **given):
            if isinstance(item, str):
                text.append(item)
            else:
                asides.append(item)
    except SourceError as exc:
        return Outcome("".join(text), asides, exc)
    return Outcome("".join(text), asides, None)


def chunk(content: str | None = None, reason: str | None = None, **delta: Any) -> bytes:
    if content is not None:
        delta["content"] = content
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def refusal(status: int, message: str = "", code: str | None = None, **headers: str) -> Reply:
    error = {"message": message or f"no: {PROMPT}", "type": "invalid_request_error", "param": None, "code": code}
    return json_reply(status, {"error": error}, **headers)
