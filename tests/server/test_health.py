"""Alive, ready, counted."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace

import pytest

from llm2ws.speech.dialects.deepgram import Deepgram
from tests.server.conftest import Start
from tests.server.test_chat import SPOKEN, TEXT, heard, sdk
from tests.support import MS, ROOT
from tests.watch.test_metrics import value

# Of one of our metrics: without what its kind adds.
NAME = re.compile(r"llm2ws_[a-z_]+?(?=_bucket|_count|_sum|\b)")


async def test_alive_and_ready(start: Start) -> None:
    async with start() as daemon:
        async with daemon.http.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with daemon.http.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ready": True, "reason": None})
        assert daemon.speech.connections == 1  # opened before the first client came


async def test_metrics_are_there_from_the_start(start: Start) -> None:
    async with start() as daemon, daemon.http.get("/metrics") as answer:
        text = await answer.text()
        assert answer.content_type == "text/plain"
        assert 'llm2ws_speech_ping_seconds{endpoint="faulty"} NaN' in text  # no ping has been answered yet
        assert "llm2ws_conversations 1.0" in text  # this one


async def test_a_ping_of_an_endpoint_is_measured(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deepgram, "traits", replace(Deepgram.traits, ping_s=20 * MS))
    async with start() as daemon:
        row = 'llm2ws_speech_ping_seconds{endpoint="faulty"}'
        async with asyncio.timeout(10):
            while math.isnan(value(daemon.daemon.metrics, row)):
                async with daemon.http.get("/healthz"):
                    pass
        assert 0 < value(daemon.daemon.metrics, row) < 10


async def test_after_one_turn_all_that_the_dashboard_and_the_alerts_ask_for_is_there(start: Start) -> None:
    async with start(TEXT) as daemon, sdk(daemon) as client:
        await heard(await client.chat.completions.create(**SPOKEN, stream=True))
        async with daemon.http.get("/metrics") as answer:
            text = await answer.text()
    there = {match[0] for line in text.splitlines() if "_created" not in line for match in [NAME.match(line)] if match}
    panels = json.loads((ROOT / "config" / "grafana.json").read_text())["panels"]
    asked = {panel["title"]: NAME.findall(target["expr"]) for panel in panels for target in panel["targets"]}
    asked["alerts"] = NAME.findall((ROOT / "config" / "alerts.yml").read_text())
    for where, names in asked.items():
        assert names, where
        assert set(names) <= there, where
    # And nothing is counted that nobody looks at.
    shown = {name for target in panels for one in target["targets"] for name in NAME.findall(one["expr"])}
    assert there <= shown


async def test_what_a_turn_cost_is_counted(start: Start) -> None:
    async with start(TEXT) as daemon, sdk(daemon) as client:
        await heard(await client.chat.completions.create(**SPOKEN, stream=True))
        metrics = daemon.daemon.metrics
        assert value(metrics, 'llm2ws_turns_total{face="chat",outcome="done"}') == 1
        assert value(metrics, "llm2ws_chars_received_total") == len(TEXT)
        assert value(metrics, "llm2ws_chars_wasted_total") == 0
        assert value(metrics, 'llm2ws_tokens_total{kind="completion"}') == 7
        assert value(metrics, 'llm2ws_requests_total{face="/v1/chat/completions",status="200"}') == 1
        assert value(metrics, "llm2ws_answers_running") == 0


async def test_readyz_says_no_while_it_drains(start: Start) -> None:
    async with start() as daemon:
        daemon.daemon.draining.set()
        async with daemon.http.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["reason"]) == (503, "draining")
        async with daemon.http.get("/v1/models") as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "draining")
        async with daemon.http.get("/healthz") as answer:
            assert answer.status == 200
