"""An answer as it comes: bytes of a response to text and asides, within limits of time, and every failure as one line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import msgspec

from ..errors import SourceError
from .aside import Aside
from .model import Endpoint, ModelSettings
from .sse import MAX_EVENT_BYTES, Decoder, Event

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "Parser",
    "ask",
    "broken",
    "ended_early",
    "failed",
    "json_of",
    "no_answer",
    "refused",
]

DRAIN_S = 0.05  # how long the rest of a response may take after the answer is complete, so that its connection can be kept

_log = logging.getLogger(__name__)


class Parser(Protocol):
    """One answer in one API's events. Its methods raise SourceError when the server says that it failed."""

    complete: bool  # the event came that says so

    def event(self, event: Event) -> list[str | Aside]: ...

    def whole(self, body: object) -> list[str | Aside]:
        """The same from JSON instead of a stream: the server cannot stream."""

    def end(self) -> Aside:
        """The stream has ended. Raises SourceError when the answer has not."""


async def ask(
    open_response: Callable[[AsyncExitStack], Awaitable[httpx2.Response]],
    parser: Parser,
    endpoint: Endpoint,
    settings: ModelSettings,
    *,
    source_error: Callable[[Exception, Endpoint], SourceError],
    sdk_error: type[Exception],
) -> AsyncGenerator[str | Aside, None]:
    """Sends a request and gives the items of its answer, as they come. Closing it closes the connection.

    `open_response` sends it and leaves the response on the stack; `source_error` says what `sdk_error`, the root of an SDK's
    exceptions, means.
    """
    first_by = asyncio.get_running_loop().time() + settings.first_token_s
    caught: tuple[type[Exception], ...] = (sdk_error, *_transport_errors())
    try:
        async with AsyncExitStack() as stack:
            response = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(first_by):
                    response = await open_response(stack)
            if response is None:
                raise _silent(endpoint, None)
            items = _read_answer(response, parser, endpoint, first_by=first_by, stall_s=settings.stall_s)
            async for item in await stack.enter_async_context(aclosing(items)):
                yield item
        return
    except caught as exc:
        error = source_error(exc, endpoint)
    raise error  # not from within `except`: the SDK's error, which would be its context, may hold the key or the prompt


async def _read_answer(
    response: httpx2.Response, parser: Parser, endpoint: Endpoint, *, first_by: float, stall_s: float
) -> AsyncGenerator[str | Aside, None]:
    """`first_by`: the loop's time by which the first event must be there.

    What a server sends only to keep the connection open does not make its first event later, but it ends no answer.
    """
    loop = asyncio.get_running_loop()
    decoder = Decoder(endpoint.who)
    started = sniffed = False
    with _Watchdog(loop) as watchdog:
        async with aclosing(response.aiter_bytes()) as reads:
            while not parser.complete:
                data = await watchdog.read(reads, loop.time() + stall_s if started else first_by)
                if data is None:
                    raise _silent(endpoint, stall_s if started else None)
                if not sniffed and (start := data.lstrip()[:1]):
                    sniffed = True
                    if start in b"{[<":
                        body = await _whole(partial(watchdog.read, reads, first_by), data, endpoint)
                        for item in parser.whole(body):
                            yield item
                        break
                # What the connection cut off in the middle is no event.
                events = decoder.feed(data) if data else [event for event in decoder.finish() if event.data[-1:] in b"}]"]
                for event in events:
                    started = True
                    for item in parser.event(event):
                        yield item
                if not data:
                    break
            yield parser.end()
            drain_by = loop.time() + DRAIN_S
            with suppress(*_transport_errors()):
                while await watchdog.read(reads, drain_by):
                    pass


class _Watchdog:
    """Ends a read that takes too long.

    Its one timer is set anew when it fires and not for each read, as asyncio.timeout does: with ten answers at once that
    cost 15 us a token, a quarter of all that reading it took.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._by = 0.0  # when the read under way is late
        self._reader: asyncio.Task[Any] | None = None  # who waits for it; None between reads
        self._late = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def read(self, reads: AsyncIterator[bytes], by: float) -> bytes | None:
        """The next bytes, b"" at the end, None when they have not come `by` that time of the loop. Then `reads` is over."""
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._reader, self._by = task, by
        if self._timer is None or by < self._timer.when():
            self._arm(by)
        try:
            return await anext(reads, b"")
        except BaseException as exc:
            # As asyncio.timeout has it: our own cancellation is taken back, somebody else's goes on.
            if self._late and task.uncancel() <= cancelling and isinstance(exc, asyncio.CancelledError):
                return None
            raise
        finally:
            self._reader = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._reader is None:
            return  # the next read sets it
        if self._by > self._loop.time():
            self._arm(self._by)
        else:
            self._late = True
            self._reader.cancel()


async def _whole(read: Callable[[], Awaitable[bytes | None]], start: bytes, endpoint: Endpoint) -> object:
    """A body that is JSON as a whole. Raises SourceError for any other."""
    body = bytearray(start)
    while data := await read():
        body += data
        if len(body) > MAX_EVENT_BYTES:
            break
    if data is None:
        raise _silent(endpoint, None)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = "a web page" if start.lstrip().startswith(b"<") else "something"
    raise no_answer(endpoint, kind)


def json_of(event: Event, endpoint: Endpoint) -> object:
    """What an event holds. Plain objects: decoding into typed ones measured no faster, and one wrong field would fail them.

    Raises SourceError when it is no JSON, because text may be missing then.
    """
    try:
        return msgspec.json.decode(event.data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:  # control characters, NaN, bytes that are no UTF-8, half of a surrogate pair
        text = json.dumps(json.loads(event.data.decode(errors="replace"), strict=False), ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except ValueError:
        pass
    raise SourceError(f"{endpoint.who}: sent an event that is no JSON", hint="what came before it is spoken", retry=True)


# Failures, as one line each. A server's own words are not repeated: they may hold the prompt, the answer or the key. They are
# logged at DEBUG, and what they are known to say is said here.


class _Status(NamedTuple):
    what: str
    hint: str
    retry: bool = False


_SETTINGS = "check the settings model, temperature, max_tokens, stop and extra"
_STATUS = {
    400: _Status("the request was refused", _SETTINGS),
    401: _Status("the key was refused", "set {key_variable} to a valid key"),
    402: _Status("the account has no credit left", "add credit, or choose another model"),
    403: _Status("the key may not use this model", "choose another model, or allow it for the key"),
    404: _Status("no such address or model", "check the settings base_url (usually like {url}) and model"),
    408: _Status("the server gave up waiting", "try again", retry=True),
    409: _Status("the server is busy with something that conflicts", "try again", retry=True),
    413: _Status("the conversation is longer than the server takes", "shorten it"),
    422: _Status("the request was refused", _SETTINGS),
    429: _Status("too many requests", "try again later, or raise the limit of the account", retry=True),
    503: _Status("the server is not ready", "try again later", retry=True),
    529: _Status("the server is overloaded", "try again later", retry=True),
}
_CLIENT_ERROR = _Status("the request was refused", _SETTINGS)
_SERVER_ERROR = _Status("an error of the server", "try again, or look into its log", retry=True)

# What servers say, in whatever words, under whatever status. The first that fits.
_CAUSES: list[tuple[re.Pattern[str], _Status]] = [
    (
        re.compile(r"insufficient_quota|exceeded your current quota|billing|credit balance", re.IGNORECASE),
        _Status("the account has no credit left", "add credit, or choose another model"),
    ),
    (
        re.compile(r"context.?(length|window|size)|maximum context|prompt is too long|too many (input )?tokens", re.IGNORECASE),
        _Status("the conversation is longer than the model takes", "shorten it, or choose another model"),
    ),
    (
        re.compile(r"model.{0,80}(not found|does not exist|not exist|unknown)|unknown model|model_not_found", re.IGNORECASE),
        _Status("it has no such model", "set model to the name of one that it has"),
    ),
    (
        re.compile(r"more system memory|out of memory|insufficient memory", re.IGNORECASE),
        _Status("the server has too little memory for the model", "choose a smaller model"),
    ),
    (re.compile(r"overloaded", re.IGNORECASE), _STATUS[529]),
    (re.compile(r"rate.?limit", re.IGNORECASE), _STATUS[429]),
]

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{2,60}")


def refused(endpoint: Endpoint, status: int, body: object, headers: Mapping[str, str]) -> SourceError:
    """The server answered with a status that is no success."""
    if 300 <= status < 400:
        location = headers.get("location", "").partition("?")[0]
        plain = re.fullmatch(r"https?://[\w.:/-]{1,200}", location) and not _holds_key(endpoint, location)
        shown = f" to {location}" if plain else ""
        what = f"{endpoint.who}: {status}, it redirects{shown}"
        return SourceError(what, hint="set base_url to where the server really is", status=status)
    known = _STATUS.get(status) or (_SERVER_ERROR if status >= 500 else _CLIENT_ERROR)
    if status == 401 and not endpoint.key:
        known = _Status("it asks for a key", "set api_key")
    elif status not in (401, 402, 403):
        known = _cause(body) or known
    wait = headers.get("retry-after", "")
    hint = f"try again in {wait} s" if known.retry and re.fullmatch(r"[0-9]{1,6}", wait) else known.hint
    return _error(endpoint, f"{status}, {known.what}", body, hint, status=status, retry=known.retry)


def failed(endpoint: Endpoint, body: object) -> SourceError:
    """The server said in the middle of a stream that it failed."""
    known = _cause(body) or _SERVER_ERROR
    return _error(
        endpoint, f"failed in the middle of the answer, {known.what}", body, known.hint, status=None, retry=known.retry
    )


def _silent(endpoint: Endpoint, stall_s: float | None) -> SourceError:
    """Nothing came for `stall_s` seconds within an answer; None: nothing came at all."""
    if stall_s is None:
        return SourceError(
            f"{endpoint.who}: no answer in time", hint="raise first_token_s if the model needs longer to load", retry=True
        )
    return SourceError(f"{endpoint.who}: nothing came for {stall_s:g} s", hint="try again, or raise stall_s", retry=True)


def no_answer(endpoint: Endpoint, kind: str) -> SourceError:
    """The server answered with `kind`, under a status of success."""
    hint = f"check base_url, which is usually like {endpoint.vendor.url}"
    return SourceError(f"{endpoint.who}: answered with {kind} that is no answer of a model", hint=hint)


def ended_early(endpoint: Endpoint) -> SourceError:
    """The stream ended, and the answer had not."""
    return SourceError(
        f"{endpoint.who}: the answer ended before it was complete", hint="look into the server's log", retry=True
    )


def broken(endpoint: Endpoint, exc: Exception) -> SourceError:
    """The connection could not be opened, or broke. Reads the reason from what caused `exc`."""
    import aiohttp

    chain = _chain(exc)
    _log.debug("%s: %s", endpoint.who, " from ".join(type(one).__name__ for one in chain))
    network = "check base_url, and the network"
    reasons: list[tuple[type[BaseException], _Status]] = [
        (aiohttp.ClientProxyConnectionError, _Status("the proxy cannot be reached", "check HTTPS_PROXY", retry=True)),
        (aiohttp.ClientHttpProxyError, _Status("the proxy refused", "check HTTPS_PROXY")),
        (socket.gaierror, _Status("there is no such address", network, retry=True)),
        (ssl.SSLCertVerificationError, _Status("its certificate is not trusted", "set ca_file to the authority's PEM file")),
        (ssl.SSLError, _Status("TLS failed", "check whether base_url is https:// or http://")),
        (ConnectionRefusedError, _Status("nothing listens there", "start the server, or check base_url", retry=True)),
        (TimeoutError, _Status("no connection in time", network, retry=True)),
        (aiohttp.ClientConnectorError, _Status("it cannot be reached", network, retry=True)),
        (Exception, _Status("the connection broke", "try again, or look into the server's log", retry=True)),
    ]
    reason = next(reason for kind, reason in reasons if any(isinstance(one, kind) for one in chain))
    return SourceError(f"{endpoint.who}: {reason.what}", hint=reason.hint, retry=reason.retry)


def _transport_errors() -> tuple[type[Exception], ...]:
    """What an SDK lets through from below itself. To be called when that is imported anyway."""
    import aiohttp
    import httpx2

    return (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)


def _chain(exc: BaseException) -> list[BaseException]:
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _cause(body: object) -> _Status | None:
    said = _said(body)
    return next((cause for pattern, cause in _CAUSES if pattern.search(said)), None)


def _said(body: object) -> str:
    """All that a server says of an error: for reading here, and never to be repeated in one of ours."""
    return body[:2000] if isinstance(body, str) else " | ".join(_strings(body, ("error", "code", "type", "message", "detail")))


def _strings(body: object, keys: tuple[str, ...]) -> list[str]:
    """What stands under these keys of an error, which servers wrap once, twice or not at all."""
    found: list[str] = []
    for _ in range(3):
        if not isinstance(body, Mapping):
            break
        found += [value[:2000] for key in keys if isinstance(value := body.get(key), str)]
        body = body.get("error")
    return found


def _error(endpoint: Endpoint, what: str, body: object, hint: str, *, status: int | None, retry: bool) -> SourceError:
    """With the identifiers that the server gave, such as a code: these a person can look up."""
    said = _said(body)
    _log.debug("%s: %s: %s", endpoint.who, what, said.replace(endpoint.key, "***") if endpoint.key else said)
    codes = dict.fromkeys(_strings(body, ("code", "type", "param")))
    shown = [code for code in codes if code != "error" and _IDENTIFIER.fullmatch(code) and not _holds_key(endpoint, code)]
    named = f" ({', '.join(shown[:3])})" if shown else ""
    hint = hint.format(key_variable=endpoint.vendor.key_variable, url=endpoint.vendor.url)
    return SourceError(f"{endpoint.who}: {what}{named}", hint=hint, status=status, retry=retry)


def _holds_key(endpoint: Endpoint, text: str) -> bool:
    return bool(endpoint.key) and endpoint.key in text
