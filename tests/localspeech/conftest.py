from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from llm2ws.localspeech.engine import Engine


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def loop() -> None:
    """Make the module's event loop before its first test, whichever that is: its sockets are none that a test leaves behind."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    """One for all tests of a module that do not break it; they run in the module's event loop."""
    async with Engine() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def fragile() -> AsyncIterator[Engine]:
    """One for a test that breaks it."""
    async with Engine() as started:
        yield started
