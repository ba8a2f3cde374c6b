"""An answer as it comes: what is read off a connection to text and asides, within limits of time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, suppress
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from ..errors import SourceError
from .aside import Aside
from .faults import silent
from .model import LlmEndpoint, ModelSettings

__all__ = ["DRAIN_S", "AnswerReader", "ResponseStream", "Watchdog", "ask"]

DRAIN_S = 0.05  # how long the rest of a response may take after the answer is complete, so that its connection can be kept


class AnswerReader(Protocol):
    """Reads one answer. Its methods raise SourceError when the server says that it failed."""

    @property
    def started(self) -> bool:
        """Something of the answer has come. What is sent only to keep a connection open is not."""

    @property
    def complete(self) -> bool:
        """All of the answer has come, whatever else does."""

    def feed(self, data: bytes, /) -> Iterable[str | Aside]:
        """What one read holds; b"" is the end of the response."""

    def end(self) -> Aside:
        """The Aside("finish"). Raises SourceError when the answer is not complete."""


class ResponseStream(NamedTuple):
    """A response: its reads, or whole messages where its protocol has them, and what understands them."""

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
    """Sends a request and gives the items of its answer, as they come. Closing it closes the connection.

    For what holds no item, such as reasoning, it gives "": a sign of life for whoever waits.

    `open_response` sends it and leaves the response on the stack. Of the exceptions that are `caught` on the way,
    `source_error` says what they mean.
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
            while not reader.complete:
                # What is sent only to keep the connection open does not make the start later, but it ends no answer.
                data = await watchdog.read(reads, loop.time() + settings.stall_s if reader.started else first_by)
                if data is None:
                    raise silent(endpoint, settings.stall_s if reader.started else None)
                is_empty = True
                for item in reader.feed(data):
                    is_empty = False
                    yield item
                if is_empty:
                    yield ""
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
    raise error  # not from within `except`: the SDK's error, which would be its context, may hold the key or the prompt


class Watchdog:
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
