from __future__ import annotations

import pytest

from llm2ws.errors import ConfigError
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from tests.links.leasing import FORMAT, ignore


async def test_a_request_that_cannot_be_made_is_not_tried() -> None:
    async with Pool() as pool:
        where = Endpoint(Deepgram(Setup("ws://192.0.2.1", "", FORMAT, "key")))
        with pytest.raises(ConfigError, match="clear text"):
            await pool.lease([where], ignore)
