"""Server-sent events to text and asides: what parsers of the APIs of OpenAI and Anthropic share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol

import msgspec

from ..errors import SourceError
from .aside import Aside
from .faults import broke_off, failed, no_answer, no_text
from .model import LlmEndpoint
from .reasons import is_failure
from .sse import MAX_EVENT_BYTES, EventDecoder, StreamEvent

__all__ = ["EventParser", "EventReader", "Paragraphs", "finish_of", "json_of", "json_or_text", "last_events", "usage_of"]


class EventParser(Protocol):
    """What reads the events of one answer in one API. Its methods raise SourceError if the server says that it failed."""

    complete: bool  # The event has come that ends the answer.

    def event(self, event: StreamEvent) -> list[str | Aside]:
        """Return the items in an event."""

    def whole(self, body: object) -> list[str | Aside]:
        """Return the items in an answer that is one JSON object, from a server that does not stream."""

    def end(self) -> Aside:
        """Return the Aside("finish") at the end of the stream. Raises SourceError if the answer is not complete."""


class EventReader:
    """A reader of server-sent events, or of one JSON object, whichever the body is. Its Content-Type is not asked."""

    def __init__(self, parser: EventParser, endpoint: LlmEndpoint) -> None:
        self.started = False
        self._parser = parser
        self._endpoint = endpoint
        self._decoder = EventDecoder(endpoint.who)
        self._sniffed = False
        self._whole: bytearray | None = None  # The body, if it is no stream.

    @property
    def complete(self) -> bool:
        """Whether the event has come that ends the answer."""
        return self._parser.complete

    def feed(self, data: bytes) -> Iterator[str | Aside]:
        if not self._sniffed and (start := data.lstrip()[:1]):
            self._sniffed = True
            if start in b"{[<":
                self._whole = bytearray()
        if self._whole is not None:
            self._whole += data
            if not data or len(self._whole) > MAX_EVENT_BYTES:
                yield from self._parser.whole(_whole_json(self._whole, self._endpoint))
            return
        for event in self._decoder.feed(data) if data else last_events(self._decoder):
            self.started = True
            yield from self._parser.event(event)
            if self._parser.complete:
                return

    def end(self) -> Aside:
        return self._parser.end()


def last_events(decoder: EventDecoder) -> list[StreamEvent]:
    """Return the events that the end of the stream completes. JSON that was cut off in the middle is none."""
    return [event for event in decoder.finish() if event.data[-1:] in (b"}", b"]")]


class Paragraphs:
    """Text that comes in blocks. A block is a paragraph, unless it continues a sentence: text with citations is many blocks."""

    def __init__(self) -> None:
        self._last = ""  # The last character so far.
        self._ended = False  # A block has ended after that character.

    def text(self, text: str) -> list[str | Aside]:
        """Return some text of a block, after a paragraph break if there is one before it."""
        if not text:
            return []
        goes_on = self._last.isspace() or text[0].isspace() or text[0] in ",.;:!?)]”’"
        between: list[str | Aside] = ["\n\n"] if self._ended and self._last and not goes_on else []
        self._last, self._ended = text[-1], False
        return [*between, text]

    def end(self) -> None:
        """Note that a block has ended."""
        self._ended = True


def finish_of(
    endpoint: LlmEndpoint,
    reason: str | None,
    usage: object,
    *,
    is_recognised: bool,
    hint: str = "check base_url, and whether kind is the API that it speaks",
) -> Aside:
    """Return the Aside("finish") of an answer that is complete.

    Raises SourceError for a `reason` that says that the server gave up, and unless `is_recognised`: data came, and none of
    it was part of an answer. `hint`: what to do then.
    """
    if reason is not None and is_failure(reason):
        raise broke_off(endpoint, reason)
    if not is_recognised:
        raise no_text(endpoint, hint)
    return Aside("finish", {"reason": reason, "usage": usage})


def usage_of(prompt: int, completion: int) -> dict[str, int]:
    """Return counts of tokens as Chat Completions names them."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _whole_json(body: bytearray, endpoint: LlmEndpoint) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        kind = "a web page" if body.lstrip().startswith(b"<") else "something"
    raise no_answer(endpoint, kind)


def json_of(data: bytes, endpoint: LlmEndpoint, name: str = "") -> object:
    """Return the JSON value of an event with that `name`, or of a line.

    It is made of plain objects: typed ones measured no faster, and one wrong field would fail all of it. Raises SourceError
    for what is no JSON, because text may be missing then, and for an event that says that the server failed.
    """
    if name == "error":
        raise failed(endpoint, json_or_text(data))
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # Control characters, NaN, bytes that are no UTF-8, half of a surrogate pair.
        text = json.dumps(json.loads(data.decode(errors="replace"), strict=False), ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        pass
    raise SourceError(f"{endpoint.who}: sent an event that is no JSON", hint="what came before it is spoken", retry=True)


def json_or_text(data: bytes) -> object:
    """Return the JSON value of some data, such as the body of an error; its text if it is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")
