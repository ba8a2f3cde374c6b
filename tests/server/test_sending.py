"""Clients that stop taking what they asked for."""

from __future__ import annotations

import asyncio

import pytest

from llm2ws.errors import SlowConsumerError
from llm2ws.server import sending
from llm2ws.server.sending import send_in_time
from tests.support import MS


async def test_a_client_has_so_long_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SLOW_CLIENT_S", 20 * MS)
    room = asyncio.Event()

    async def send() -> None:
        await room.wait()

    with pytest.raises(SlowConsumerError, match="leave") as slow:
        await send_in_time(send())
    assert slow.value.waited_s == 20 * MS
    room.set()
    await send_in_time(send())


async def test_what_goes_wrong_is_not_taken_for_slowness() -> None:
    async def send() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await send_in_time(send())
