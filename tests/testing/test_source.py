from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.testing import script, tokens


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text


async def test_a_script_gives_fails_and_tells_that_it_is_over() -> None:
    over: list[int] = []
    source = script("a", 0, 0.001, "b", OSError("gone"), on_close=lambda: over.append(1))
    assert [await anext(source), await anext(source)] == ["a", "b"]
    assert over == []
    with pytest.raises(OSError, match="gone"):
        await anext(source)
    assert over == [1]


async def test_a_stalled_script_can_be_cancelled() -> None:
    over = asyncio.Event()
    stalled: AsyncGenerator[str, None] = script(math.inf, on_close=over.set)
    task = asyncio.ensure_future(anext(stalled))
    await asyncio.sleep(0)
    task.cancel()
    await over.wait()
    assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError
