"""The vendor's own client finds the local server to behave as the vendor's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cartesia import AsyncCartesia
from websockets.exceptions import InvalidStatus

from llm2ws.testing import Coding, decode
from scripts.virtual_clock import run
from tests.vendors.cartesia import CartesiaServer

FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
CODING = Coding(char_samples=240)
KEY = "a-key-that-the-client-may-log"


@asynccontextmanager
async def connected(server: CartesiaServer, key: str) -> AsyncIterator[Any]:
    async with server:
        client = AsyncCartesia(api_key=key, websocket_base_url=f"ws://127.0.0.1:{server.port}")
        try:
            async with client.tts.websocket_connect(websocket_connection_options={"compression": None}) as connection:
                yield connection
        finally:
            await client.close()


def context(connection: Any, **options: Any) -> Any:
    voice = {"mode": "id", "id": "v"}
    return connection.context(model_id="sonic-3.5", voice=voice, output_format=FORMAT, add_timestamps=True, **options)


async def answers(context: Any) -> tuple[str, list[str], list[Any]]:
    """What is heard, the words that were timed, and all that came."""
    events = [event async for event in context.receive()]
    audio = b"".join(event.audio for event in events if event.type == "chunk" and event.audio)
    words = [word for event in events if event.type == "timestamps" for word in event.word_timestamps.words]
    return decode(audio), words, events


def test_a_turn_in_parts() -> None:
    async def speak() -> None:
        async with connected(CartesiaServer(coding=CODING, key=KEY, max_frame_bytes=2_000), KEY) as connection:
            ctx = context(connection, max_buffer_delay_ms=0)
            for text in ("Hello, ", "Sonic! ", "I am streaming."):
                await ctx.push(text)
            await ctx.no_more_inputs()
            said, words, events = await answers(ctx)
            assert said == "Hello, Sonic! I am streaming."
            assert words == said.split()
            assert [event.flush_id for event in events if event.type == "flush_done"] == [1, 2, 3]
            starts = [at for event in events if event.type == "timestamps" for at in event.word_timestamps.start]
            assert starts == sorted(starts)
            assert events[-1].type == "done"

    run(speak())


def test_text_waits_for_more_unless_it_is_told_not_to() -> None:
    async def speak() -> None:
        server = CartesiaServer(coding=CODING)
        async with connected(server, KEY) as connection:
            ctx = context(connection)  # the usual 3 s
            await ctx.push("Hel")
            await ctx.push("lo.")
            await ctx.push("", flush=True)
            await ctx.push(" You.")
            await ctx.no_more_inputs()
            said, _, events = await answers(ctx)
            assert said == "Hello. You."
            assert [event.flush_id for event in events if event.type == "flush_done"] == [1, 2]

    run(speak())


def test_contexts_beside_one_another_and_one_too_many() -> None:
    async def speak() -> None:
        async with connected(CartesiaServer(coding=CODING, concurrency=2), KEY) as connection:
            contexts = [context(connection) for _ in range(3)]
            for n, ctx in enumerate(contexts):
                await ctx.push(f"This is {n}.")
            refused = [event async for event in contexts[2].receive()]
            assert [(event.type, event.status_code, event.error_code) for event in refused] == [
                ("error", 429, "concurrency_limited")
            ]
            for n, ctx in enumerate(contexts[:2]):
                await ctx.no_more_inputs()
                assert (await answers(ctx))[0] == f"This is {n}."

    run(speak())


def test_what_is_cancelled_or_over_takes_no_more_text() -> None:
    async def speak() -> None:
        server = CartesiaServer(coding=CODING, pace=1.0)
        async with connected(server, KEY) as connection:
            first = context(connection, context_id="a", max_buffer_delay_ms=0)
            await first.push("One two three four five six.")
            await first.cancel()
            await server.until(lambda s: s.active == 0 and s.contexts == 1)
            second = context(connection, context_id="b", max_buffer_delay_ms=0)
            await second.push("One.")
            await server.pause(3.0)  # it lapses
            await second.push("Two.")
            events = [event async for event in second.receive()]
            assert (events[-1].type, events[-1].title) == ("error", "Context has closed")

    run(speak())


def test_a_wrong_key_is_refused() -> None:
    async def speak() -> None:
        with pytest.raises(InvalidStatus) as caught:
            async with connected(CartesiaServer(key=f"{KEY}2"), KEY):
                pass
        assert caught.value.response.status_code == 401

    run(speak())
