"""Which LLMs can be asked, with the official SDK."""

from __future__ import annotations

import openai
import pytest

from tests.server.conftest import Start
from tests.server.test_chat import sdk


async def test_the_models_that_can_be_asked(start: Start) -> None:
    async with start() as daemon, sdk(daemon) as client:
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve("scripted")).id == "scripted"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
