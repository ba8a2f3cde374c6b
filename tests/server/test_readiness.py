"""Whether a conversation could be spoken now."""

from __future__ import annotations

import pytest

from llm2ws.testing import FaultySpeech
from tests.server.conftest import Start


async def test_not_ready_without_an_endpoint(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    speech = FaultySpeech()
    speech.refusals.extend([401] * 5)
    async with start(speech=speech) as daemon, daemon.http.get("/readyz") as answer:
        body = await answer.json()
        assert answer.status == 503
        assert body["reason"].startswith("faulty: the speech endpoint cannot be used")
        for _ in range(3):
            async with daemon.http.get("/readyz") as again:
                assert again.status == 503
    complaints = [record.message for record in caplog.records if record.name == "llm2ws.server.readiness"]
    assert len(complaints) == 1  # though it is asked again and again
    assert "DEEPGRAM_API_KEY" in complaints[0]
