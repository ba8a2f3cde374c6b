"""Reading an answer as it comes: bytes of a connection become text and asides, within limits of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from ..errors import SourceError
from .aside import Aside
from .faults import no_end, silent
from .model import LlmEndpoint, ModelSettings

__all__ = ["DRAIN_S", "REASONING_S", "AnswerReader", "ResponseStream", "Watchdog", "ask"]

# How long the rest of a response may take after the answer is complete. Only a response read to its end keeps its connection.
DRAIN_S = 0.05

REASONING_S = 600.0  # How long an answer may hold no text: a model can reason without end, which no stall ends.


class AnswerReader(Protocol):
    """What reads one answer. Its methods raise SourceError if the server says that it failed."""

    @property
    def started(self) -> bool:
        """Whether some of the answer has come. What only keeps a connection open does not count."""

    @property
    def complete(self) -> bool:
        """Whether all of the answer has come, even if more data follows."""

    def feed(self, data: bytes, /) -> Iterable[str | Aside]:
        """Return the items in the bytes of one read; b"" is the end of the response."""

    def end(self) -> Aside:
        """Return the Aside("finish"). Raises SourceError if the answer is not complete."""


class ResponseStream(NamedTuple):
    """A response: its bytes as they come, or its whole messages if the protocol has them, and what reads them."""

    reads: AsyncGenerator[bytes, None]
    reader: AnswerReader


async def ask(
    open_response: Callable[[AsyncExitStack], Awaitable[ResponseStream]],
    endpoint: LlmEndpoint,
    settings: ModelSettings,
    *,
    caught: tuple[type[Exception], ...],
    source_error: Callable[[Exception], SourceError],
) -> AsyncGenerator[str | Aside, None]:
    """Send a request and give the items of the answer as they come. Closing the generator closes the connection.

    Data without an item, such as reasoning, gives "": a sign of life for whoever waits.

    `open_response` sends the request and leaves the response on the stack. Exceptions of the kinds `caught` become what
    `source_error` returns for them.
    """
    loop = asyncio.get_running_loop()
    first_by = loop.time() + settings.first_token_s
    try:
        async with AsyncExitStack() as stack:
            opened = None
            with suppress(TimeoutError):
                async with asyncio.timeout_at(first_by):
                    opened = await open_response(stack)
            if opened is None:
                raise silent(endpoint, None)
            reads, reader = opened
            await stack.enter_async_context(aclosing(reads))
            watchdog = stack.enter_context(Watchdog(loop))
            begun = False  # Text, a tool call or a refusal has come.
            while not reader.complete:
                # Data that only keeps the connection open does not extend the time for the first token.
                data = await watchdog.read(reads, loop.time() + settings.stall_s if reader.started else first_by)
                if data is None:
                    raise silent(endpoint, settings.stall_s if reader.started else None)
                is_empty = True
                for item in reader.feed(data):
                    is_empty, begun = False, True
                    yield item
                if is_empty:
                    yield ""
                    if not begun and loop.time() > first_by - settings.first_token_s + REASONING_S:
                        raise no_end(endpoint, REASONING_S)
                if not data:
                    break
            yield reader.end()
            drain_by = loop.time() + DRAIN_S
            with suppress(*caught):
                while await watchdog.read(reads, drain_by):
                    pass
        return
    except caught as exc:
        error = source_error(exc)
    raise error  # Not from within `except`: the SDK's error, which would be its context, may hold the key or the prompt.


class Watchdog:
    """A limit of time for each read of a stream.

    Its one timer is set again when it fires, and not for each read as asyncio.timeout does: with ten answers at once, that
    cost 15 us per token, a quarter of the time that reading took.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._by = 0.0  # The time of the loop at which the current read is late.
        self._reader: asyncio.Task[Any] | None = None  # The task that waits for the current read; None between reads.
        self._late = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def read(self, reads: AsyncIterator[bytes], by: float) -> bytes | None:
        """Return the next bytes, b"" at the end. None: they did not come `by` that time of the loop, and `reads` is over."""
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        self._reader, self._by = task, by
        if self._timer is None or by < self._timer.when():
            self._arm(by)
        try:
            return await anext(reads, b"")
        except BaseException as exc:
            # As in asyncio.timeout: a cancellation by this watchdog is taken back, any other goes on.
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
            return  # The next read sets it.
        if self._by > self._loop.time():
            self._arm(self._by)
        else:
            self._late = True
            self._reader.cancel()
