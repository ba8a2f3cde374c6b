"""A scripted LLM: an async generator that yields, waits and fails as its steps say."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

__all__ = ["script", "tokens"]

_Item = TypeVar("_Item")


def tokens(text: str) -> list[str]:
    """Return a text in pieces of the size of a model's tokens, which may end within words and carry the space before them."""
    return re.findall(r"\s*\S{1,4}|\s+", text)


async def script(
    *steps: _Item | float | BaseException, on_close: Callable[[], object] | None = None
) -> AsyncGenerator[_Item, None]:
    """Yield, wait or fail, step by step.

    A number is a pause in seconds (`math.inf`: for ever), an exception is raised, everything else is yielded as it is.
    `on_close` is called when the generator ends, for whatever reason.
    """
    try:
        for step in steps:
            match step:
                case int() | float():
                    await _pause(step)
                case BaseException():
                    raise step
                case _:
                    yield step
    finally:
        if on_close is not None:
            on_close()


async def _pause(seconds: float) -> None:
    if seconds == math.inf:
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(seconds)
