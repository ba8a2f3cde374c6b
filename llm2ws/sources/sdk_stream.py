"""An answer in a stream that the caller has opened with OpenAI's or Anthropic's SDK."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from .answer import ResponseStream, ask
from .anthropic import VENDOR as ANTHROPIC
from .anthropic import MessagesParser
from .aside import Aside
from .client import bytes_of
from .events import EventParser, EventReader
from .faults import of_sdk, transport_errors
from .model import LlmEndpoint, ModelSettings
from .openai import VENDOR as OPENAI
from .openai import ChatParser
from .responses import ResponsesParser

__all__ = ["from_sdk_stream"]


async def from_sdk_stream(stream: Any) -> AsyncGenerator[str | Aside, None]:
    """Give the answer in a stream of OpenAI's or Anthropic's SDK: what `create(stream=True)` or `stream()` returns.

    That is text as it comes, then Aside("finish") as `openai_chat` gives it. The stream is closed with the generator. Raises
    SourceError if the answer is not complete.
    """
    name = type(stream).__module__.partition(".")[0]
    host = getattr(getattr(getattr(stream, "response", None), "url", None), "host", None) or "the LLM"
    endpoint = LlmEndpoint(ANTHROPIC if name == "anthropic" else OPENAI, "", host, "", "", loopback=False)
    sdks = [sdk for sdk in map(sys.modules.get, ("openai", "anthropic")) if sdk is not None]
    items = ask(
        partial(_opened, stream, endpoint),
        endpoint,
        ModelSettings(),
        caught=(*(sdk.APIError for sdk in sdks), *transport_errors()),
        source_error=lambda exc: of_sdk(exc, endpoint),
    )
    async for item in items:
        yield item


async def _opened(stream: Any, endpoint: LlmEndpoint, stack: AsyncExitStack) -> ResponseStream:
    events = aiter(await stack.enter_async_context(stream))
    first = await anext(events, None)
    parser = _parser_of(first, endpoint)
    return ResponseStream(bytes_of(events, first), EventReader(parser, endpoint))


def _parser_of(event: Any, endpoint: LlmEndpoint) -> EventParser:
    """Return a parser for the API that the first event of an answer is from."""
    kind = str(getattr(event, "type", ""))
    if hasattr(event, "choices") or kind in ("", "chunk"):
        return ChatParser(endpoint)
    return ResponsesParser(endpoint) if kind.startswith("response.") else MessagesParser(endpoint)
