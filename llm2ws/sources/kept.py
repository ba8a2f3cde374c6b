"""SDK clients that are kept between answers: one for each server and event loop.

Making and closing one costs 3 ms, and a new connection at each answer costs a TLS handshake.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from .aside import Aside
from .client import SdkClient
from .failover import SIGN_OF_LIFE_S
from .model import IDLE_S
from .prompt import Prompt

__all__ = ["kept_answer"]


@dataclass(eq=False, slots=True)
class _Kept:
    """A client that is open, or being opened."""

    life: AsyncGenerator[SdkClient[Any], None]
    opening: asyncio.Task[SdkClient[Any]]
    answers: int = 0  # those in progress
    timer: asyncio.TimerHandle | None = field(default=None)  # closes the client when it has been idle for IDLE_S


_CLIENTS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[object, _Kept]] = WeakKeyDictionary()
_CLOSING: set[asyncio.Task[None]] = set()  # The event loop itself keeps no strong reference to its tasks.


async def kept_answer(client: SdkClient[Any], prompt: Prompt) -> AsyncGenerator[str | Aside, None]:
    """Give one answer over the kept client for the same server, which is opened if there is none.

    While it is opened, which may take as long as importing an SDK, "" is given: a sign of life for whoever waits.
    """
    loop = asyncio.get_running_loop()
    clients = _CLIENTS.setdefault(loop, {})
    if (kept := clients.get(client.server)) is None:
        life = _life(client, clients)
        kept = clients[client.server] = _Kept(life, loop.create_task(_next(life)))
    kept.answers += 1
    if kept.timer is not None:
        kept.timer.cancel()
    try:
        while not (await asyncio.wait((kept.opening,), timeout=SIGN_OF_LIFE_S))[0]:
            yield ""
        async with aclosing(client.share(await kept.opening).answer(prompt)) as items:
            async for item in items:
                yield item
    finally:
        kept.answers -= 1
        if not kept.answers and not loop.is_closed():
            kept.timer = loop.call_later(IDLE_S, _close, kept, client.server, clients)


async def _life(client: SdkClient[Any], clients: dict[object, _Kept]) -> AsyncGenerator[SdkClient[Any], None]:
    """Open a client, give it, and close it.

    A generator, because an event loop closes those that it has begun when it shuts down, as `asyncio.run` makes it do.
    """
    try:
        async with client:
            yield client
    finally:
        clients.pop(client.server, None)


async def _next(life: AsyncGenerator[SdkClient[Any], None]) -> SdkClient[Any]:
    return await anext(life)


def _close(kept: _Kept, server: object, clients: dict[object, _Kept]) -> None:
    if clients.get(server) is kept:
        del clients[server]  # At once, so that nobody takes a client that is being closed.
        closing = asyncio.get_running_loop().create_task(_closed(kept))
        _CLOSING.add(closing)
        closing.add_done_callback(_CLOSING.discard)


async def _closed(kept: _Kept) -> None:
    kept.opening.cancel()
    await asyncio.wait((kept.opening,))
    await kept.life.aclose()
