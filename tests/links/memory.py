"""A link in memory, to a speech endpoint of `llm2ws.testing` that is reached without a socket."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Iterable
from types import SimpleNamespace as Namespace
from typing import Any

from llm2ws.links.link import LinkClosed


class MemoryLink:
    """One end of the wire: a `Link` for llm2ws; the other end is what the endpoint takes for its socket."""

    latency_s = math.nan

    def __init__(self, target: str, peer: MemoryLink | None = None) -> None:
        self.peer: MemoryLink = peer or MemoryLink(target, self)
        self.id, self.request = uuid.uuid4(), Namespace(path=target)
        acts = {"abort": lambda _: self.abort(), "close": lambda _: self.abort(), "write": lambda _, data: None}
        self.transport = type("Transport", (asyncio.WriteTransport,), acts)()
        self._came: asyncio.Queue[str | bytes | None] = asyncio.Queue()  # None: nothing more comes
        self._closed: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()

    @property
    def writable(self) -> bool:
        return not self._closed.done()

    def send_now(self, messages: Iterable[str | bytes]) -> None:
        for message in messages:
            self.peer._came.put_nowait(message)

    async def send(self, message: str | bytes) -> None:
        self.send_now([message])

    async def recv(self) -> str | bytes:
        if (message := await self._came.get()) is None:
            raise LinkClosed(*self._closed.result())
        return message

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while (message := await self._came.get()) is not None:
            yield message

    async def ping(self) -> None: ...

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    async def close(self, *how: int | str) -> None:
        self.abort(*how)

    def abort(self, *how: int | str) -> None:
        for end in (self, self.peer):
            if not end._closed.done():
                end._closed.set_result(how)
                end._came.put_nowait(None)
