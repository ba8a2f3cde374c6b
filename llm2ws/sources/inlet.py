"""A source that text is pushed into, for callbacks and for protocols that bring text in messages."""

from __future__ import annotations

import asyncio
from typing import Self

from ..errors import ConfigError, LocalProtocolError
from .aside import Aside

__all__ = ["Inlet"]


class Inlet:
    """A source for a turn that is fed with `put`, then `end` or `fail`.

    At most `max_items` wait to be read; `put` waits while there are as many.
    """

    def __init__(self, max_items: int = 64) -> None:
        """Make an inlet. Raises ConfigError for a `max_items` under 1."""
        if max_items < 1:
            raise ConfigError(f"max_items {max_items}: nothing could be put", hint="give 1 or more")
        self._items: asyncio.Queue[str | Aside | None] = asyncio.Queue(max_items + 1)
        self._room = asyncio.Semaphore(max_items)
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False

    async def put(self, item: str | Aside) -> None:
        """Push some text, or an Aside. It is dropped if the turn is over.

        Raises LocalProtocolError after `end` or `fail`, and for any other type, such as the None of an API's first chunk.
        """
        if not isinstance(item, str | Aside):
            raise LocalProtocolError(f"put of a {type(item).__name__}", hint="an inlet takes str or Aside")
        await self._room.acquire()
        if self._ended or self._closed:
            self._room.release()
        if self._ended:
            raise LocalProtocolError("put on an inlet that has ended")
        if not self._closed:
            self._items.put_nowait(item)

    def end(self) -> None:
        """Say that there is no more text. Calling it again has no effect."""
        if not self._ended:
            self._ended = True
            self._items.put_nowait(None)

    def fail(self, exc: Exception) -> None:
        """Say that the source has failed: text pushed before is spoken, then the turn raises `exc` as SourceError."""
        if not self._ended:
            self._error = exc
            self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | Aside:
        item = await self._items.get()
        if item is None:
            self._items.put_nowait(None)  # For the next call.
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        self._room.release()
        return item

    async def aclose(self) -> None:
        """Say that nobody reads any more: `put` no longer waits."""
        self._closed = True
        for _ in range(self._items.qsize()):
            if self._items.get_nowait() is not None:
                self._room.release()
        self._items.put_nowait(None)
