"""The inlet: what is pushed in comes out in order, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from llm2ws.errors import ConfigError, LocalProtocolError, SourceError
from llm2ws.sources.aside import Aside
from llm2ws.sources.inlet import Inlet


async def test_what_is_pushed_comes_out_in_order() -> None:
    inlet = Inlet()
    items: list[str | Aside] = ["One ", Aside("tool_call"), "two."]
    for item in items:
        await inlet.put(item)
    inlet.end()
    inlet.end()

    assert [item async for item in inlet] == items
    assert [item async for item in inlet] == []  # asked again, it has still ended


async def test_a_full_inlet_holds_back_whoever_pushes() -> None:
    inlet = Inlet(max_items=2)
    pushed: list[int] = []

    async def push() -> None:
        for n in range(5):
            await inlet.put(str(n))
            pushed.append(n)
        inlet.end()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(push())
        taken = []
        async for item in inlet:
            taken.append(item)
            assert len(pushed) <= len(taken) + 2

    assert taken == ["0", "1", "2", "3", "4"]


async def test_the_end_fits_into_a_full_inlet() -> None:
    inlet = Inlet(max_items=1)
    await inlet.put("One")
    inlet.end()

    assert [item async for item in inlet] == ["One"]


async def test_what_is_no_text_is_refused_and_is_not_the_end() -> None:
    inlet = Inlet()
    for item in (None, b"One", 1):
        with pytest.raises(LocalProtocolError, match=f"put of a {type(item).__name__}: an inlet takes str or Aside"):
            await inlet.put(item)  # type: ignore[arg-type]
    await inlet.put("One")
    inlet.end()
    assert [item async for item in inlet] == ["One"]


@pytest.mark.parametrize("max_items", [0, -1])
def test_an_inlet_without_room_is_refused(max_items: int) -> None:
    with pytest.raises(ConfigError, match=f"max_items {max_items}: nothing could be put: give 1 or more"):
        Inlet(max_items)


async def test_a_failure_comes_after_what_was_pushed_before_it() -> None:
    inlet = Inlet()
    await inlet.put("Half")
    inlet.fail(SourceError("the model left"))
    inlet.fail(SourceError("too late"))

    assert await anext(inlet) == "Half"
    for _ in range(2):
        with pytest.raises(SourceError, match="the model left"):
            await anext(inlet)


async def test_a_push_after_the_end_is_a_mistake() -> None:
    inlet = Inlet(max_items=1)
    await inlet.put("One")
    waiting = asyncio.create_task(inlet.put("Two"))
    inlet.end()
    taken = [item async for item in inlet]

    with pytest.raises(LocalProtocolError, match="has ended"):
        await waiting
    for _ in range(3):  # and does not use up the room
        with pytest.raises(LocalProtocolError, match="has ended"):
            await inlet.put("Three")
    assert taken == ["One"]


async def test_when_the_reader_is_gone_nobody_waits() -> None:
    inlet = Inlet(max_items=2)
    async with asyncio.TaskGroup() as tasks:
        for n in range(10):
            tasks.create_task(inlet.put(str(n)))
        assert await anext(inlet) is not None
        await inlet.aclose()
        await inlet.aclose()
    for n in range(10):
        await inlet.put(str(n))  # dropped
    inlet.end()

    assert [item async for item in inlet] == []


async def test_a_push_that_is_cancelled_takes_no_room() -> None:
    inlet = Inlet(max_items=1)
    await inlet.put("One")
    waiting = asyncio.create_task(inlet.put("Two"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert await anext(inlet) == "One"
    await inlet.put("Three")
    assert await anext(inlet) == "Three"
