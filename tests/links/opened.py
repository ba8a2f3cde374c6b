"""A connection that runs, and a listener that keeps its events."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llm2ws.audio import AudioFormat
from llm2ws.links.connection import Connection
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.messages import AudioChunk, Event
from llm2ws.testing import decode

FORMAT = AudioFormat(sample_rate_hz=8_000)


@asynccontextmanager
async def opened(
    url: str, key: str = "", *, tls: ssl.SSLContext | None = None, like: type[Deepgram] = Deepgram
) -> AsyncIterator[Connection]:
    connection = await Connection.open(like(Setup(url, "", FORMAT, key)), tls=tls, silence_s=5.0)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(connection.run())
        try:
            yield connection
        finally:
            await connection.aclose()


class Events:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        self._news.set()

    async def until(self, kind: type[Event]) -> Event:
        while not any(isinstance(event, kind) for event in self.all):
            self._news.clear()
            await self._news.wait()
        return next(event for event in self.all if isinstance(event, kind))

    @property
    def text(self) -> str:
        return decode(b"".join(event.data for event in self.all if isinstance(event, AudioChunk)))
