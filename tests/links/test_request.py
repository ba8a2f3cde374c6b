from __future__ import annotations

import pytest

from llm2ws.errors import ConnectFailed, LocalProtocolError
from llm2ws.links.pool import Pool
from llm2ws.testing import FaultySpeech
from tests.links.leasing import CODING, endpoint, ignore, speak


async def test_a_pool_that_is_not_open_says_so() -> None:
    async with FaultySpeech(coding=CODING) as speech:
        pool = Pool()
        with pytest.raises(LocalProtocolError, match="not open"):
            await pool.lease([endpoint(speech)], ignore)
        async with pool:
            await speak(pool, endpoint(speech))
        with pytest.raises(LocalProtocolError, match="not open"):
            await pool.lease([endpoint(speech)], ignore)


async def test_waiting_has_an_end() -> None:
    async with FaultySpeech(coding=CODING) as speech, Pool(wait_s=0.02) as pool:
        where = endpoint(speech, connections=1)
        slot, _ = await pool.lease([where], ignore)
        with pytest.raises(ConnectFailed, match=r"all connections to test are in use \(1\)") as caught:
            await pool.lease([where], ignore)
        assert caught.value.status == 429
        slot.end()
