"""Alive, ready, counted."""

from __future__ import annotations

from llm2ws.testing import FaultySpeech
from tests.server.conftest import Start


async def test_alive_and_ready(start: Start) -> None:
    async with start() as daemon:
        async with daemon.http.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with daemon.http.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True, "reason": None})
        assert daemon.speech.connections == 1  # opened before the first client came


async def test_not_ready_without_an_endpoint(start: Start) -> None:
    speech = FaultySpeech()
    speech.refusals.extend([401] * 5)
    async with start(speech=speech) as daemon, daemon.http.get("/readyz") as answer:
        body = await answer.json()
        assert answer.status == 503
        assert "401" in body["reason"] or "key" in body["reason"]


async def test_metrics_are_there_from_the_start(start: Start) -> None:
    async with start() as daemon, daemon.http.get("/metrics") as answer:
        text = await answer.text()
        assert answer.content_type == "text/plain"
        assert "llm2ws_speech_ping_seconds_count" in text
        assert "llm2ws_conversations 1.0" in text  # this one
