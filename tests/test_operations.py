"""docs/operations.md names every metric and every setting of the daemon, and none that there is not."""

from __future__ import annotations

import re

import aiohttp

from llm2ws.server.run import running
from llm2ws.settings.fields import ClientLimits, Server, Settings
from llm2ws.settings.sample import sample
from llm2ws.settings.schema import describe
from tests.support import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()


async def test_every_metric_is_on_the_page_with_what_to_do() -> None:
    async with running(Settings(server=Server(listen="127.0.0.1:0"))) as daemon, aiohttp.ClientSession(daemon.url) as http:
        async with http.get("/metrics") as answer:
            there = set(re.findall(r"^# HELP (llm2ws_\w+?)(?:_total|_created)? ", await answer.text(), re.MULTILINE))
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `llm2ws_")]

    assert {name for row in rows for name in re.findall(r"`(llm2ws_\w+)`", row[0])} == there
    assert all(len(row) == 3 and len(row[2]) > 10 for row in rows)


def test_every_setting_of_the_daemon_is_on_the_page() -> None:
    table = PAGE.partition("These are the daemon's own")[2].partition("\n## ")[0]
    named = {
        name for line in table.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert named == {*Server.__struct_fields__, *ClientLimits.__struct_fields__} - {"limits"}


def test_settings_that_it_names_are_settings() -> None:
    """With those of sections that are not the daemon's."""
    text = sample()
    for table, key in re.findall(r"`(server|text)\.(\w+)`", PAGE):
        assert describe((table, key)), f"{table}.{key}"
    for key in ("connections", "turns", "limits", "spill", "ahead_s", "failover", "first_token_s", "api_key_file"):
        assert f"`{key}`" in PAGE
        assert re.search(rf"^# (?:{key} =|\[\w+\.\w+\.{key}\])", text, re.MULTILINE), key


def test_files_that_are_named_are_there() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / name).exists(), name
    for name in re.findall(r"`((?:config|scripts)/[\w.-]+|docker-compose\.yml)", PAGE):
        assert (ROOT / name).exists(), name


def test_alerts_that_are_named_are_there() -> None:
    rules = (ROOT / "config" / "alerts.yml").read_text()
    for name in re.findall(r"`(Llm2ws\w+)`", PAGE):
        assert f"alert: {name}\n" in rules
