from __future__ import annotations

import pytest

from llm2ws.links import connection as module
from llm2ws.speech.dialect import Traits
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.messages import Failed
from llm2ws.testing import FaultyNetwork, FaultySpeech
from tests.links.opened import Events, opened


async def test_a_peer_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.05)

    class Impatient(Deepgram):
        traits = Traits(ping_s=0.03)

    async with FaultySpeech() as speech, FaultyNetwork(speech.port) as network:
        async with opened(f"ws://127.0.0.1:{network.port}", like=Impatient) as connection:
            events = Events()
            connection.lease(events)
            network.swallow()
            failed = await events.until(Failed)
            assert isinstance(failed, Failed)
            assert "pings" in failed.what
