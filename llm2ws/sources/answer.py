"""An answer as it comes: the bytes of a response to text and asides, within limits of time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from ..errors import SourceError
from .aside import Aside
from .faults import no_answer, silent, transport_errors
from .model import Endpoint, ModelSettings
from .sse import MAX_EVENT_BYTES, Decoder, Event

if TYPE_CHECKING:
    import httpx2

__all__ = ["Parser", "ask", "json_of", "model_names"]

DRAIN_S = 0.05  # how long the rest of a response may take after the answer is complete, so that its connection can be kept


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
    caught: tuple[type[Exception], ...] = (sdk_error, *transport_errors())
    try:
        async with AsyncExitStack() as stack:
            response = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(first_by):
                    response = await open_response(stack)
            if response is None:
                raise silent(endpoint, None)
            items = _read_answer(response, parser, endpoint, first_by=first_by, stall_s=settings.stall_s)
            async for item in await stack.enter_async_context(aclosing(items)):
                yield item
        return
    except caught as exc:
        error = source_error(exc, endpoint)
    raise error  # not from within `except`: the SDK's error, which would be its context, may hold the key or the prompt


async def model_names(
    request: Awaitable[httpx2.Response],
    endpoint: Endpoint,
    *,
    source_error: Callable[[Exception, Endpoint], SourceError],
    sdk_error: type[Exception],
) -> list[str]:
    """The names in a server's list of models: asking for it costs nothing. Raises SourceError when it does not give one."""
    caught: tuple[type[Exception], ...] = (sdk_error, *transport_errors())
    try:
        body = json.loads((await request).content)
        return [str(model["id"]) for model in body["data"]]
    except caught as exc:
        error = source_error(exc, endpoint)
    except (ValueError, KeyError, TypeError):
        error = no_answer(endpoint, "something")
    raise error  # not from within `except`, for the reason above


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
                    raise silent(endpoint, stall_s if started else None)
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
            with suppress(*transport_errors()):
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
        raise silent(endpoint, None)
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
