"""The embedded endpoint of one process: the engine and the server, on a free port of this machine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from .engine import Engine

__all__ = ["embedded_endpoint"]


@asynccontextmanager
async def embedded_endpoint(meanwhile: Callable[[], object]) -> AsyncIterator[tuple[str, str]]:
    """Start the endpoint for this process alone. Gives its URL and its key.

    `meanwhile` is called in a thread while the engine's process starts: there is time to load what a turn will need. Raises
    ConfigError when a part of the engine is not installed.
    """
    async with AsyncExitStack() as stack:
        loading = asyncio.create_task(asyncio.to_thread(meanwhile))
        try:
            engine = await stack.enter_async_context(Engine())
        finally:
            await loading
        from .server import SpeechServer

        key = secrets.token_urlsafe(24)
        server = await stack.enter_async_context(SpeechServer(engine, key=key))
        yield server.url, key
