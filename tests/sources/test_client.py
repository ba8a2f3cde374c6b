from __future__ import annotations

import pytest

from llm2ws import openai_chat
from llm2ws.errors import ConfigError, LocalProtocolError
from llm2ws.sources.model import ModelSettings
from llm2ws.sources.openai import OpenAIChat
from tests.sources.replay import WHOLE, Reply, read, replay, stream


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
