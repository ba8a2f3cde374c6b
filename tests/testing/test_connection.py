from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from llm2ws.testing import Drop, How, decode
from scripts.virtual_clock import run
from tests.testing.parrot import dial, parrot


async def test_it_says_what_it_is_given_in_order_and_tells_when_each_character_begins() -> None:
    async with parrot(max_frame_bytes=100) as server, dial(server) as ws:
        audio, ends = b"", list[tuple[str, str]]()
        for text in ("ab ", "c"):
            await ws.send(text)
        while len(ends) < 2:
            message = await ws.recv()
            if isinstance(message, bytes):
                audio += message
            else:
                ends.append((message, decode(audio[: len(audio) // 2 * 2])))
        assert ends == [("end", "ab"), ("end", "ab c")]
        await ws.send("chars")
        assert str(await ws.recv()).splitlines() == ["a 0.000", "b 0.010", "  0.020", "c 0.030"]
        assert server.texts() == ["ab ", "c"]


async def test_what_is_stopped_is_not_said() -> None:
    async with parrot(pace=0.001) as server, dial(server) as ws:
        await ws.send("x" * 1_000)
        assert isinstance(await ws.recv(), bytes)
        await ws.send("stop")
        assert await ws.recv() == "stopped"
        server.pace = None
        await ws.send("y")
        assert decode(await until(ws, "end")) == "y"


async def until(ws: ClientConnection, last: str) -> bytes:
    """The audio up to a message."""
    audio = b""
    while (message := await ws.recv()) != last:
        audio += message if isinstance(message, bytes) else b""
    return audio


@pytest.mark.parametrize("how", list(How))
@pytest.mark.parametrize("at_message", [0, 1, 2])
async def test_a_connection_is_dropped_before_the_message_that_was_named(how: How, at_message: int) -> None:
    async with parrot() as server, dial(server) as ws:
        server.drops.append(Drop(how, at_message=at_message))
        heard = 0
        with contextlib.suppress(ConnectionClosed):
            await ws.send("a")
            await ws.send("b")
            while True:
                await ws.recv()
                heard += 1
        assert heard == at_message
        assert not server.drops
        assert ws.close_code == (1011 if how is How.CLOSE else 1006)


@pytest.mark.parametrize(("pings_count", "ping_s", "alive"), [(False, 10.0, False), (True, 10.0, True), (True, None, False)])
def test_an_idle_client_is_sent_away(pings_count: bool, ping_s: float | None, alive: bool) -> None:
    async def wait() -> None:
        async with parrot() as server:
            server.idle_s, server.pings_count = 60.0, pings_count
            async with dial(server, ping_interval=ping_s) as ws:
                await asyncio.sleep(50.0)
                await ws.send("a")
                await asyncio.sleep(59.0)
                assert server.open == 1
                await asyncio.sleep(60.0)
                assert (server.open == 1) is alive

    run(wait())


def test_an_old_connection_is_ended() -> None:
    async def wait() -> None:
        async with parrot() as server:
            server.max_age_s = 100.0
            async with dial(server) as ws:
                await ws.wait_closed()
                assert asyncio.get_running_loop().time() == pytest.approx(100.0, abs=1.0)
                assert [how.code for how in server.closed_with] == [1000]

    run(wait())


def test_a_voice_that_waits_for_ever_ends_with_the_server() -> None:
    async def wait() -> None:
        async with parrot(pace=1e-9) as server, dial(server) as ws:
            await ws.send("a word and another")
            await server.until(lambda s: s.frames > 0)
            assert math.isfinite(asyncio.get_running_loop().time())

    run(wait())
