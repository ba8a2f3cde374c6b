"""What is sent to clients, and clients that stop reading it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

import msgspec
from aiohttp import web

from ..errors import SlowConsumerError

__all__ = ["event_stream", "json_message", "send_in_time", "sse_event", "write"]

SLOW_CLIENT_S = 60.0  # For one message; a player that reads audio at its own speed is far from it.

# What is sent without waiting: half of what the event loop lets pile up before it makes writers wait.
ROOM_BYTES = 32 * 1024


def sse_event(data: object, name: str = "") -> bytes:
    """Return a server-sent event with `data` as JSON."""
    head = f"event: {name}\n".encode() if name else b""
    return b"".join((head, b"data: ", msgspec.json.encode(data), b"\n\n"))


def json_message(data: object) -> str:
    """Return the text of a WebSocket message with `data` as JSON."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def event_stream() -> web.StreamResponse:
    """Return a response of server-sent events that no proxy holds back."""
    return web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"})


async def write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send a part of the body, and the headers before the first one: what fails earlier is an error by its status.

    Raises SlowConsumerError as `send_in_time` does.
    """
    if not response.prepared:
        await response.prepare(request)
    if not data:
        return
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size() + len(data) < ROOM_BYTES:
        await response.write(data)  # At a token's pace a timer for each would cost more than the writing.
    else:
        await send_in_time(response.write(data))


async def send_in_time(sending: Awaitable[None]) -> None:
    """Wait until the client has room for what is sent. Raises SlowConsumerError when it has none for `SLOW_CLIENT_S`."""
    try:
        async with asyncio.timeout(SLOW_CLIENT_S):
            await sending
    except TimeoutError:
        what = f"the client took nothing for {SLOW_CLIENT_S:g} s"
        raise SlowConsumerError(what, hint="take it faster, or leave", waited_s=SLOW_CLIENT_S) from None
