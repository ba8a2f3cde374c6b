"""A source that is pushed into: for callbacks, and for faces whose text comes in messages."""

from __future__ import annotations

import asyncio
from typing import Self

from ..errors import ConfigError, LocalProtocolError
from .aside import Aside

__all__ = ["Inlet"]


class Inlet:
    """Push input for a turn: `put` text, then `end` or `fail`. Itself the source that the turn reads.

    At most `max_items` wait to be read; `put` waits while they do, so whoever pushes is held back.
    """

    def __init__(self, max_items: int = 64) -> None:
        """Raises ConfigError for no room at all."""
        if max_items < 1:
            raise ConfigError(f"max_items {max_items}: nothing could be put", hint="give 1 or more")
        self._items: asyncio.Queue[str | Aside | None] = asyncio.Queue(max_items + 1)
        self._room = asyncio.Semaphore(max_items)
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False

    async def put(self, item: str | Aside) -> None:
        """Push some text. After the turn is over it is dropped.

        Raises LocalProtocolError after `end` or `fail`, and for what is no text, such as the None of an API's first chunk.
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
        """There is no more text. May be called again; nothing happens."""
        if not self._ended:
            self._ended = True
            self._items.put_nowait(None)

    def fail(self, exc: Exception) -> None:
        """The source has failed: what was pushed before is spoken, then the turn raises `exc` (as SourceError)."""
        if not self._ended:
            self._error = exc
            self.end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | Aside:
        item = await self._items.get()
        if item is None:
            self._items.put_nowait(None)  # for whoever asks again
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        self._room.release()
        return item

    async def aclose(self) -> None:
        """The reader is gone: `put` no longer waits."""
        self._closed = True
        for _ in range(self._items.qsize()):
            if self._items.get_nowait() is not None:
                self._room.release()
        self._items.put_nowait(None)
