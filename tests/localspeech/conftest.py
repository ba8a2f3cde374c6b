from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from llm2ws.localspeech.engine import Engine


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine() as started:
        yield started
