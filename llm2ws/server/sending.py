"""Clients that stop taking what they asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ..errors import SlowConsumerError

__all__ = ["taken"]

SLOW_CLIENT_S = 60.0  # for one message; a player that takes audio at its own speed is far from it


async def taken(sending: Awaitable[None]) -> None:
    """Wait until the client has room for what is sent. Raises SlowConsumerError when it has none for `SLOW_CLIENT_S`."""
    try:
        async with asyncio.timeout(SLOW_CLIENT_S):
            await sending
    except TimeoutError:
        what = f"the client took nothing for {SLOW_CLIENT_S:g} s"
        raise SlowConsumerError(what, hint="take it faster, or leave", waited_s=SLOW_CLIENT_S) from None
