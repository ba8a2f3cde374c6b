"""Sources that do not end as they should when their turn does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from llm2ws.turn import Outcome, Turn
from tests.speech.test_slot import MemoryPool, conversation
from tests.support import MS


async def raises() -> AsyncIterator[str]:
    """A source whose cleanup fails."""
    try:
        yield "One sentence is here. "
        yield "Another is coming and "
        await asyncio.Event().wait()
    finally:
        raise RuntimeError("the connection could not be closed")


async def goes_on() -> AsyncIterator[str]:
    """A source that gives text although it is cancelled."""
    yield "One sentence is here. "
    yield "Another is coming and "
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        yield "goodbye to all of you. And more. "


async def fails() -> AsyncIterator[str]:
    """A source that makes an error of its own of the cancellation, as HTTP clients do."""
    yield "One sentence is here. "
    yield "Another is coming and "
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ConnectionError("closed") from None


async def listen(turn: Turn, *, interrupt: bool | None) -> None:
    """Take the first audio, then interrupt, leave (False) or listen on (None)."""
    async with turn:
        async for _ in turn.audio():
            if interrupt is not None:
                if interrupt:
                    await turn.interrupt()
                return


@pytest.mark.parametrize("source", [raises, goes_on, fails])
@pytest.mark.parametrize("interrupt", [True, False])
async def test_a_source_that_fails_while_it_is_closed_does_not_disturb_the_end(
    interrupt: bool, source: Callable[[], AsyncIterator[str]]
) -> None:
    turn = conversation(MemoryPool()).turn(source())
    await listen(turn, interrupt=interrupt)
    assert turn.outcome is Outcome.INTERRUPTED


@pytest.mark.parametrize("source", [raises, goes_on, fails])
async def test_a_source_that_fails_while_it_is_closed_does_not_replace_a_cancellation(
    source: Callable[[], AsyncIterator[str]],
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50 * MS):
            await listen(conversation(MemoryPool()).turn(source()), interrupt=None)
    task = asyncio.create_task(listen(conversation(MemoryPool()).turn(source()), interrupt=None))
    await asyncio.wait({task}, timeout=50 * MS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_interruption_does_not_wait_for_a_slow_cleanup_and_leaving_does() -> None:
    closed = asyncio.Event()
    closing = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        try:
            yield "One sentence is here. Another is coming and "
            await asyncio.Event().wait()
        finally:
            await closing.wait()
            closed.set()

    async with conversation(MemoryPool()).turn(slow()) as turn:
        async for _ in turn.audio():
            await turn.interrupt()
            break
        assert not closed.is_set()
        closing.set()
    assert closed.is_set()
