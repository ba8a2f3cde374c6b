"""Servers of no known API that answer a POST with a stream: server-sent events, lines of JSON, or the text itself."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigError, SourceError
from .answer import ResponseStream
from .aside import Aside
from .client import ModelClient
from .deltas import Deltas
from .events import finish_of, json_of, json_or_text
from .faults import broken, ended_early, failed, no_answer, refused
from .model import LlmEndpoint, ModelSettings, Vendor, http_session, resolve
from .prompt import Prompt, RequestTemplate, conversation
from .reasons import NO_REASONS, reason_of
from .sse import EventDecoder, LineDecoder, StreamEvent

if TYPE_CHECKING:
    import aiohttp

__all__ = ["FRAMINGS", "HttpStream", "Shape", "splitter_of"]

VENDOR = Vendor("the server", "http://127.0.0.1:8000/chat", "", "api_key", "", service=False)
# A request that most servers accept.
REQUEST = json.dumps(
    {name: f"{{{name}}}" for name in ("model", "messages", "temperature", "top_p", "max_tokens", "stop")} | {"stream": True}
)
# Paths to a reason. At other ends there may be anything, such as the whole text.
_REASON_PATH = re.compile(r"reason|stop_type", re.IGNORECASE)
# Names of events without text, if the settings do not name those with text.
_WITHOUT_TEXT = frozenset(("close", "done", "end", "metadata", "run_id", "start"))
_WHOLE_ENDS = (b"", b"}", b"]")  # The end of data that is empty, an object or a list.
MAX_REFUSAL_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The form of requests and answers of a server of no known API.

    Paths are keys with full stops between them, a number for an element of a list: "choices.0.delta.content".
    """

    framing: str = "sse"  # one of FRAMINGS
    request: str = ""  # JSON for `RequestTemplate`; "": one that most servers accept
    text_path: str = ""  # where the text is in an event or line; "": the event or line is the text
    text_events: Sequence[str] = ()  # names of events with text, "message" for none; (): all but those in `_WITHOUT_TEXT`
    end: str = ""  # an event's name, its whole data, or a path to what only the end has; "": the end of the response
    error_path: str = "error"  # path to the error of a server that failed
    cumulative: bool | None = None  # each text repeats those before it; None: found out for Triton, False for others
    headers: Sequence[tuple[str, str]] = ()
    key_header: str = "Authorization"  # in Authorization it is "Bearer KEY", in others the key alone

    def headers_with(self, key: str) -> dict[str, str]:
        """Return all headers. `key`: "" for none."""
        value = f"Bearer {key}" if self.key_header.lower() == "authorization" else key
        return dict(self.headers) | ({self.key_header: value} if key else {})


class HttpStream(ModelClient["aiohttp.ClientSession"]):
    """A client of a server that answers a POST with a stream."""

    def __init__(self, settings: ModelSettings, shape: Shape) -> None:
        if not settings.base_url:
            raise ConfigError("no address is set", hint=f"set base_url, such as {VENDOR.url}")
        super().__init__(settings, resolve(settings, VENDOR))
        if shape.framing == "ndjson" and not shape.text_path:
            raise ConfigError("text_path is not set", hint="say where the text is in a line, such as message.content")
        self._shape = shape
        self._request = RequestTemplate(shape.request or REQUEST, settings.given)

    def _load(self) -> tuple[Callable[[], aiohttp.ClientSession], tuple[type[Exception], ...]]:
        import aiohttp

        headers = self._shape.headers_with(self._endpoint.key)
        return partial(http_session, self._endpoint, headers), (aiohttp.ClientError, OSError)

    def _source_error(self, exc: Exception) -> SourceError:
        return broken(self._endpoint, exc)

    async def _ask(self, prompt: Prompt, extra: Mapping[str, object], stack: AsyncExitStack) -> ResponseStream:
        settings, shape = self._settings, self._shape
        messages = conversation(prompt, system=settings.system, template=settings.template)
        body = self._request.filled(messages, {"model": self._endpoint.model or None, **settings.given, **extra})
        response = await self._retry(partial(self._sent, "POST", json.dumps(body).encode()))
        stack.callback(response.close)  # And not `release`: the server has to see that nobody reads on.
        if response.content_type == "text/html":
            raise no_answer(self._endpoint, "a web page")
        splitter = splitter_of(shape, self._endpoint.who)
        # Events and JSON are UTF-8 by their standards, whatever the header says.
        encoding = _encoding(response.charset if shape.framing == "text" else None)
        return ResponseStream(_reads(response), ShapeReader(splitter, shape, self._endpoint, encoding))

    async def _models(self) -> list[str] | None:
        """Return None, as there is no list. Raises SourceError if the server cannot be reached or refuses the key."""
        (await self._sent("OPTIONS", b"", also=(400, 405, 422, 501))).close()
        return None

    async def _sent(self, method: str, body: bytes, *, also: Collection[int] = ()) -> aiohttp.ClientResponse:
        """Return a response of success, or with a status in `also`. Raises SourceError for others."""
        response = await self._connection.request(method, self._endpoint.url, data=body, allow_redirects=False)
        if response.status < 300 or response.status in also:
            return response
        refusal = await response.content.read(MAX_REFUSAL_BYTES)
        response.close()
        raise refused(self._endpoint, response.status, json_or_text(refusal), response.headers)


def _encoding(charset: str | None) -> str:
    """Return Python's name of a charset, that of UTF-8 if it is no encoding of text."""
    try:
        name = codecs.lookup(charset or "utf-8").name
        " ".encode(name)  # Codecs such as base64 are none of text.
        codecs.getincrementaldecoder(name)("replace").decode(b"?")
    except (LookupError, ValueError):
        name = "utf-8"
    return "utf-8-sig" if name == "utf-8" else name


async def _reads(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    while data := await response.content.readany():
        yield data


class _Splitter(Protocol):
    """What tells the pieces of a body apart, such as an EventDecoder."""

    def feed(self, data: bytes) -> list[StreamEvent]: ...

    def finish(self) -> list[StreamEvent]: ...


class _Text:
    """The body is the text: each read is a piece of it."""

    def feed(self, data: bytes) -> list[StreamEvent]:
        return [StreamEvent("", data)]

    def finish(self) -> list[StreamEvent]:
        return []


# How the pieces of a body are told apart.
FRAMINGS = ("sse", "ndjson", "text")


def splitter_of(shape: Shape, who: str) -> _Splitter:
    """Return what tells the pieces of a body apart. `who`: for messages."""
    match shape.framing:
        case "ndjson":
            return LineDecoder(who)
        case "text":
            return _Text()
        case _ if shape.text_path:
            return EventDecoder(who, names=True)
        case _:
            return EventDecoder(who, data="outputs" if shape.cumulative else "text", names=True)


class ShapeReader:
    """A reader of one answer in the form that the settings describe."""

    def __init__(self, splitter: _Splitter, shape: Shape, endpoint: LlmEndpoint, encoding: str = "utf-8-sig") -> None:
        self.started = False
        self.complete = False
        self._splitter = splitter
        self._shape = shape
        self._endpoint = endpoint
        self._deltas = Deltas(endpoint.who, cumulative=bool(shape.cumulative))
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._reason = "stop"
        self._has_text = False  # A text has come, which may be empty.
        self._is_strange = False  # Data has come in which no text was found.
        self._was_cut = False  # The connection ended within an event.

    def feed(self, data: bytes) -> Iterator[str | Aside]:
        for event in self._splitter.feed(data) if data else self._rest():
            self.started = True
            if self._is_end(event):
                self.complete = True
            elif text := self._text(event):
                yield text
            if self.complete:
                return

    def end(self) -> Aside:
        if not self.started:
            raise no_answer(self._endpoint, "something")
        if self._was_cut or (self._shape.end and not self.complete):
            raise ended_early(self._endpoint)
        is_recognised = self._has_text or not self._is_strange
        hint = "check the settings text_path and text_events"
        return finish_of(self._endpoint, self._reason, None, is_recognised=is_recognised, hint=hint)

    def _rest(self) -> list[StreamEvent]:
        """Return the events left at the end. JSON that was cut off in the middle is left out, and noted."""
        events = self._splitter.finish()
        if self._shape.text_path and events and not self._is_end(events[-1]) and events[-1].data[-1:] not in _WHOLE_ENDS:
            self._was_cut = True
            events.pop()
        return events

    def _is_end(self, event: StreamEvent) -> bool:
        end, data = self._shape.end, event.data.strip()
        return data == b"[DONE]" or (bool(end) and (event.name == end or data == end.encode()))

    def _text(self, event: StreamEvent) -> str:
        """Return the new text in an event. Raises SourceError for one that says that the server failed."""
        shape = self._shape
        if event.name == "error":
            raise failed(self._endpoint, json_or_text(event.data))
        may_hold = self._may_hold_text(event)
        if not shape.text_path:
            return self._text_itself(event) if may_hold else ""
        if not event.data or not (may_hold or event.data.startswith(b"{")):
            return ""
        body = json_of(event.data, self._endpoint)
        if at(body, shape.error_path):
            raise failed(self._endpoint, body)
        if shape.end and (ended := at(body, shape.end)) and str(ended).lower() not in NO_REASONS:
            self.complete = True
            if _REASON_PATH.search(shape.end) and isinstance(ended, str):
                self._reason = reason_of(ended)
        text = at(body, shape.text_path) if may_hold else None
        if not isinstance(text, str):
            self._is_strange = self._is_strange or not self.complete
            return ""
        self._has_text = True
        return self._deltas.feed(text)

    def _may_hold_text(self, event: StreamEvent) -> bool:
        names = self._shape.text_events
        if names:
            may_hold = (event.name or "message") in names
        else:
            may_hold = bool(self._shape.text_path) or event.name not in _WITHOUT_TEXT
        self._is_strange = self._is_strange or not may_hold
        return may_hold

    def _text_itself(self, event: StreamEvent) -> str:
        """Return the new text in data that is the text. It may be a JSON string. A JSON object is an error, or no text."""
        data = event.data.strip()
        if self._shape.framing == "sse" and data[:1] + data[-1:] in (b'""', b"{}"):
            body = json_or_text(data)
            if isinstance(body, dict) and at(body, self._shape.error_path):
                raise failed(self._endpoint, body)
            if isinstance(body, dict) and body:
                self._is_strange = True
                return ""
            if isinstance(body, str) and body != data.decode(errors="replace"):
                self._has_text = True
                return self._deltas.feed(body)
        self._has_text = True
        try:
            return self._deltas.feed(self._decoder.decode(event.data))
        except UnicodeError:  # The encoding needs a byte order mark, and there is none.
            what = f"{self._endpoint.who}: sent text that is not in the charset of its Content-Type"
            raise SourceError(what, hint="look at what serves it") from None


def at(value: object, path: str) -> object:
    """Return the value at a path, None if there is none."""
    for part in path.split("."):
        match value:
            case dict():
                value = value.get(part)
            case list() if part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            case _:
                return None
    return value
