"""Clients that stop taking what they asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web

from ..errors import SlowConsumerError

__all__ = ["taken", "write"]

SLOW_CLIENT_S = 60.0  # for one message; a player that takes audio at its own speed is far from it
ROOM_BYTES = (
    32 * 1024
)  # so much is taken without waiting: half of what the event loop lets pile up before it makes writers wait


async def write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send it to the client of `request`. Raises like `taken`."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() + len(data) < ROOM_BYTES:
        await response.write(data)  # at a token's pace a timer for each would cost more than the writing
    else:
        await taken(response.write(data))


async def taken(sending: Awaitable[None]) -> None:
    """Wait until the client has room for what is sent. Raises SlowConsumerError when it has none for `SLOW_CLIENT_S`."""
    try:
        async with asyncio.timeout(SLOW_CLIENT_S):
            await sending
    except TimeoutError:
        what = f"the client took nothing for {SLOW_CLIENT_S:g} s"
        raise SlowConsumerError(what, hint="take it faster, or leave", waited_s=SLOW_CLIENT_S) from None
