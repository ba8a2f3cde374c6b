"""Clients on the official SDKs: connections that are kept, the environment, and what is imported when."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm2ws import openai_chat
from llm2ws.errors import ConfigError, LocalProtocolError
from llm2ws.sources.model import ModelSettings
from llm2ws.sources.openai import OpenAIChat
from tests.sources.asking import outcome_of
from tests.sources.replay import WHOLE, Reply, read, replay, stream
from tests.support import child_environment


async def test_a_client_keeps_its_connection_from_answer_to_answer() -> None:
    async with replay(Reply([stream("openai")])) as server:
        async with OpenAIChat(ModelSettings(model="m", base_url=server.url)) as chat:
            answers = [await read(chat.answer("Why?", extra={"temperature": n / 10})) for n in range(3)]

    assert [answer.text for answer in answers] == [WHOLE] * 3
    assert [request.body["temperature"] for request in server.requests] == [0.0, 0.1, 0.2]
    assert {request.connection for request in server.requests} == {1}


def test_wrong_options_are_told_before_anything_is_started() -> None:
    with pytest.raises(ConfigError, match="no key for OpenAI: set OPENAI_API_KEY"):
        openai_chat("Why?")
    with pytest.raises(LocalProtocolError, match="not entered"):
        OpenAIChat(ModelSettings(model="m", base_url="http://localhost")).answer("Why?")


async def test_no_proxy_for_this_machine_and_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-secret")
    async with replay(Reply([stream("ollama")])) as server:
        assert (await outcome_of(openai_chat, server.url)).text == WHOLE

    assert not any("secret" in value for value in server.requests[0].headers.values())


def test_no_sdk_is_imported_before_it_is_used() -> None:
    code = """if True:
        import sys
        from llm2ws import anthropic_messages, openai_chat
        openai_chat("Why?", model="m", base_url="http://localhost/v1")
        anthropic_messages("Why?", model="m", base_url="http://localhost/v1")
        print(*sorted({"openai", "anthropic", "httpx2", "aiohttp"} & set(sys.modules)))
    """
    command = [sys.executable, "-P", "-c", code]

    loaded = subprocess.run(command, env=child_environment(), check=True, capture_output=True, text=True).stdout

    assert loaded.split() == []
