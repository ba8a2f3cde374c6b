"""How an answer is read: connections, limits of time, leaving early. Over real sockets and through the official SDKs."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import pytest

from llm2ws.errors import SourceError
from llm2ws.sources.answer import REASONING_S, ResponseStream, Watchdog, ask
from llm2ws.sources.events import EventReader
from llm2ws.sources.model import LlmEndpoint, ModelSettings
from llm2ws.sources.openai import VENDOR, ChatParser
from tests.sources.asking import chunk, outcome_of
from tests.sources.clock import run_jumping
from tests.sources.kinds import Kind, every_sdk
from tests.sources.replay import SSE, End, Reply, replay


@every_sdk
async def test_compressed_although_not_asked_for(kind: Kind) -> None:
    whole = gzip.compress(kind.whole())
    pieces = [whole[i : i + 20] for i in range(0, len(whole), 20)]
    async with replay(Reply(pieces, 200, {**SSE, "Content-Encoding": "gzip"})) as server:
        text, _, error = await outcome_of(kind.ask, server.url)

    assert error is None
    assert text.endswith("Done.")
    assert server.requests[0].headers["accept-encoding"] == "identity"


@every_sdk
async def test_a_line_of_a_megabyte(kind: Kind) -> None:
    long = "x" * 1_000_000
    async with replay(Reply([kind.whole(long)])) as server:
        text, _, error = await outcome_of(kind.ask, server.url)

    assert error is None
    assert text == long


@every_sdk
async def test_a_connection_that_stays_open_after_the_answer_holds_up_nothing(kind: Kind) -> None:
    whole = kind.whole()
    async with replay(Reply([whole], end=End.HOLD)) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)
        await server.left.wait()

    assert (text[-5:], len(asides), error) == ("Done.", 1, None)


@every_sdk
async def test_leaving_before_there_is_an_answer_closes_the_connection_and_the_server_sees_it(kind: Kind) -> None:
    async with replay(Reply(end=End.HOLD, raw=b"")) as server:
        taken = asyncio.create_task(outcome_of(kind.ask, server.url))
        await server.holding.wait()
        taken.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taken
        await server.left.wait()  # the test's own time limit is the assertion


async def gaps(*waits: float) -> AsyncGenerator[bytes, None]:
    for wait_s in waits:
        await asyncio.sleep(wait_s)
        yield b"x"


def watched(waits: Sequence[float], limits: Sequence[float], *, pause_s: float = 0.0) -> tuple[list[bytes | None], float]:
    """Return what reads with these limits give, `pause_s` apart, and when the last one was over."""

    async def read() -> list[bytes | None]:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        found = []
        with Watchdog(loop) as watchdog:
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
        with Watchdog(loop) as watchdog:
            async with aclosing(gaps(500)) as reads, asyncio.timeout(5):
                await watchdog.read(reads, loop.time() + 10)

    with pytest.raises(TimeoutError):
        run_jumping(read())


HERE = LlmEndpoint(VENDOR, "http://127.0.0.1", "127.0.0.1", "m", "", loopback=True)


async def reasoning(seconds: int, *then: bytes) -> AsyncGenerator[bytes, None]:
    for _ in range(seconds):
        await asyncio.sleep(1)
        yield chunk(reasoning="Hm.")
    for data in then:
        yield data


def reasoned(reads: AsyncGenerator[bytes, None]) -> tuple[str, float]:
    """Return the text of an answer, or its error, and how long it took."""

    async def opened(_stack: AsyncExitStack) -> ResponseStream:
        return ResponseStream(reads, EventReader(ChatParser(HERE), HERE))

    def unexpected(exc: Exception) -> SourceError:
        raise exc

    async def read() -> str:
        answer = ask(opened, HERE, ModelSettings(), caught=(OSError,), source_error=unexpected)
        try:
            return "".join([item async for item in answer if isinstance(item, str)])
        except SourceError as exc:
            return str(exc)

    return run_jumping(read())


def test_reasoning_without_end_ends_by_a_limit() -> None:
    text, took = reasoned(reasoning(10**6))

    assert text.startswith("m at 127.0.0.1: reasoned for 600 s and wrote no answer: set max_tokens")
    assert took == pytest.approx(REASONING_S, abs=2)


def test_an_answer_after_long_reasoning_is_whole_and_may_take_longer_than_the_limit() -> None:
    late = reasoning(int(REASONING_S) - 10, chunk("Yes."), chunk(reason="stop"), b"data: [DONE]\n\n")

    assert reasoned(late)[0] == "Yes."
