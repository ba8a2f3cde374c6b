"""How an answer is read: connections, limits of time, leaving early. Over real sockets and through the official SDKs."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from llm2ws import Aside, anthropic_messages, openai_chat
from llm2ws.sources.answer import _Watchdog
from tests.sources.asking import HALF, PROMPT, Ask, both, chunk, delta, event, outcome_of, refusal
from tests.sources.clock import run_jumping
from tests.sources.replay import SSE, End, Reply, replay, stream


@both
async def test_retries_before_the_first_token_are_the_sdks(ask: Ask) -> None:
    whole = stream("anthropic" if ask is anthropic_messages else "openai")
    busy = refusal(503, retry_after_ms="1")
    async with replay(busy, busy, Reply([whole])) as server:
        text, _, error = await outcome_of(ask, server.url, max_retries=2)

    assert error is None
    assert text.startswith("Why?")
    assert len(server.requests) == 3


@both
async def test_compressed_although_not_asked_for(ask: Ask) -> None:
    whole = gzip.compress(stream("anthropic" if ask is anthropic_messages else "openai"))
    pieces = [whole[i : i + 100] for i in range(0, len(whole), 100)]
    async with replay(Reply(pieces, 200, {**SSE, "Content-Encoding": "gzip"})) as server:
        text, _, error = await outcome_of(ask, server.url)

    assert error is None
    assert text.endswith("Done.")
    assert server.requests[0].headers["accept-encoding"] == "identity"


@both
async def test_a_line_of_a_megabyte(ask: Ask) -> None:
    long = "x" * 1_000_000
    pieces = [chunk(long), chunk(reason="stop")] if ask is openai_chat else [delta(long), event("message_stop")]
    async with replay(Reply(pieces)) as server:
        text, _, error = await outcome_of(ask, server.url)

    assert error is None
    assert text == long


@both
async def test_an_answer_without_text(ask: Ask) -> None:
    pieces = [chunk(reason="stop")] if ask is openai_chat else [event("message_stop")]
    async with replay(Reply(pieces)) as server:
        text, asides, error = await outcome_of(ask, server.url)

    assert (text, error) == ("", None)
    assert [aside.kind for aside in asides] == ["finish"]


@both
async def test_a_connection_that_stays_open_after_the_answer_holds_up_nothing(ask: Ask) -> None:
    whole = stream("anthropic" if ask is anthropic_messages else "openai")
    async with replay(Reply([whole], end=End.HOLD)) as server:
        text, asides, error = await outcome_of(ask, server.url)
        await server.left.wait()

    assert (text[-5:], len(asides), error) == ("Done.", 1, None)


@both
@pytest.mark.parametrize("by", ["aclose", "cancel", "cancel before headers"])
async def test_leaving_closes_the_connection_and_the_server_sees_it(ask: Ask, by: str) -> None:
    reply = Reply([HALF[ask]], end=End.HOLD, raw=b"" if by == "cancel before headers" else None)
    async with replay(reply) as server:
        items = ask(PROMPT, model="m", base_url=server.url)
        if by == "aclose":
            assert await anext(items) == "Half an"
            await items.aclose()
        else:
            taken = asyncio.create_task(_take_all(items))
            await server.holding.wait()
            taken.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taken
        await server.left.wait()  # the test's own time limit is the assertion


async def _take_all(items: AsyncIterator[str | Aside]) -> list[str | Aside]:
    return [item async for item in items]


async def gaps(*waits: float) -> AsyncGenerator[bytes, None]:
    for wait_s in waits:
        await asyncio.sleep(wait_s)
        yield b"x"


def watched(waits: Sequence[float], limits: Sequence[float], *, pause_s: float = 0.0) -> tuple[list[bytes | None], float]:
    """What reads with these limits give, `pause_s` apart, and when the last one was over."""

    async def read() -> list[bytes | None]:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        found = []
        with _Watchdog(loop) as watchdog:
            async with aclosing(gaps(*waits)) as reads:
                for limit_s in limits:
                    found.append(await watchdog.read(reads, loop.time() + limit_s))
                    assert task is not None
                    assert task.cancelling() == 0
                    await asyncio.sleep(pause_s)
        return found

    return run_jumping(read())


@pytest.mark.parametrize(
    ("waits", "limits", "found", "seconds"),
    [
        ([1, 2], [10, 10, 10], [b"x", b"x", b""], 3),
        ([1, 50], [10, 10], [b"x", None], 11),  # a limit is that of one read, and not of the time since the first
        ([9, 9, 9, 50], [10] * 4, [b"x"] * 3 + [None], 37),
        ([1, 500], [120, 30], [b"x", None], 31),  # a shorter one after a longer one
        ([29, 100], [30, 120], [b"x", b"x"], 129),  # and the other way round
    ],
)
def test_a_read_is_given_its_time(
    waits: Sequence[float], limits: Sequence[float], found: Sequence[bytes | None], seconds: float
) -> None:
    read, took = watched(waits, limits)

    assert read == found
    assert took == pytest.approx(seconds)


def test_the_time_that_the_listener_takes_is_not_the_servers() -> None:
    assert watched([1, 9, 50], [10] * 3, pause_s=100)[0] == [b"x", b"x", None]


def test_a_cancellation_from_outside_is_not_taken_for_silence() -> None:
    async def read() -> None:
        loop = asyncio.get_running_loop()
        with _Watchdog(loop) as watchdog:
            async with aclosing(gaps(500)) as reads, asyncio.timeout(5):
                await watchdog.read(reads, loop.time() + 10)

    with pytest.raises(TimeoutError):
        run_jumping(read())
