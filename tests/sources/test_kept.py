"""SDK clients that are kept from answer to answer, over real sockets, with everything unclosed reported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from typing import Unpack

import anthropic
import openai
import pytest

from llm2ws import Aside, anthropic_messages, openai_chat, openai_responses
from llm2ws.errors import ConfigError, SourceError
from llm2ws.sources import kept
from llm2ws.sources.model import ModelOptions
from tests.sources.asking import Ask, outcome_of, refusal
from tests.sources.kinds import KINDS, Kind, every_sdk
from tests.sources.replay import SSE, End, Reply, replay
from tests.support import MS, child_environment

SOURCES: dict[str, Ask] = {"openai": openai_chat, "anthropic": anthropic_messages, "responses": openai_responses}


def ask(kind: Kind, url: str, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]:
    given: ModelOptions = {"model": "m", "base_url": url, **options}
    return SOURCES[kind.name]("Why?", **given)


async def text_of(items: AsyncGenerator[str | Aside, None]) -> str:
    return "".join([item async for item in items if isinstance(item, str)])


def whole(kind: Kind) -> Reply:
    return Reply([kind.whole("Yes.")], headers=SSE)


@every_sdk
async def test_answers_after_each_other_share_a_connection_whatever_is_asked(kind: Kind) -> None:
    async with replay(whole(kind)) as server:
        answers = [await text_of(ask(kind, server.url, max_tokens=n)) for n in range(7, 10)]

    assert answers == ["Yes."] * 3
    assert {request.connection for request in server.requests} == {1}
    limits = [value for request in server.requests for name, value in request.body.items() if "max_" in name]
    assert limits == [7, 8, 9]


@every_sdk
async def test_answers_at_the_same_time_share_a_client(kind: Kind) -> None:
    async with replay(whole(kind)) as server:
        answers = await asyncio.gather(*(text_of(ask(kind, server.url)) for _ in range(9)))
        assert len(kept._CLIENTS[asyncio.get_running_loop()]) == 1

    assert answers == ["Yes."] * 9


@every_sdk
async def test_an_answer_that_is_left_ends_no_other(kind: Kind) -> None:
    async with replay(Reply([kind.text("Yes.")], end=End.HOLD), whole(kind)) as server:
        left = ask(kind, server.url)
        while await anext(left) == "":
            pass
        assert await text_of(ask(kind, server.url)) == "Yes."
        await left.aclose()
        await server.left.wait()
        assert await text_of(ask(kind, server.url)) == "Yes."


@every_sdk
async def test_an_idle_client_is_closed_and_the_next_answer_has_a_new_one(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "IDLE_S", 5 * MS)
    async with replay(whole(kind)) as server:
        assert await text_of(ask(kind, server.url)) == "Yes."
        while kept._CLIENTS[asyncio.get_running_loop()] or kept._CLOSING:  # noqa: ASYNC110 - closing sets no event
            await asyncio.sleep(MS)
        assert await text_of(ask(kind, server.url)) == "Yes."

    assert [request.connection for request in server.requests] == [1, 2]


async def test_another_key_has_another_client() -> None:
    kind = KINDS["openai"]
    async with replay(whole(kind)) as server:
        for key in ("one", "other"):
            assert await text_of(ask(kind, server.url, api_key=key)) == "Yes."

    assert [request.headers["authorization"] for request in server.requests] == ["Bearer one", "Bearer other"]


async def test_a_server_that_fails_is_asked_again_with_the_next_answer() -> None:
    async with replay(refusal(401), whole(KINDS["openai"])) as server:
        assert (await outcome_of(openai_chat, server.url)).error is not None
        assert (await outcome_of(openai_chat, server.url)).text == "Yes."


LOOPS = """if True:
    import asyncio, gc, sys
    from llm2ws import SourceError, anthropic_messages, openai_chat, openai_responses
    ASK = {"anthropic": anthropic_messages, "openai": openai_chat, "responses": openai_responses}[sys.argv[1]]
    async def main():
        for n in range(2):
            answer = ASK("Why?", model="m", base_url=sys.argv[2])
            print("".join([item async for item in answer if isinstance(item, str)]))
        left = ASK("Why?", model="m", base_url=sys.argv[2])
        await anext(left)
    asyncio.run(main())
    asyncio.run(main())
    gc.collect()
"""


@every_sdk
async def test_a_client_is_closed_with_its_loop_and_nothing_is_left(kind: Kind) -> None:
    """Check each of two event loops in one process, which ends with an answer that is read no further."""
    async with replay(whole(kind)) as server:
        command = [sys.executable, "-P", "-X", "dev", "-W", "error::ResourceWarning", "-c", LOOPS, kind.name, server.url]
        done = await asyncio.to_thread(subprocess.run, command, env=child_environment(), capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "Yes.\n" * 4, "")


# --- clients of the caller's own


async def test_a_client_of_ones_own_is_used_and_stays_open() -> None:
    async with replay(whole(KINDS["openai"]), whole(KINDS["openai"]), whole(KINDS["responses"])) as server:
        headers = {"X-Of-My-Own": "1"}
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k", default_headers=headers) as client:
            assert await text_of(openai_chat("Why?", model="m", client=client)) == "Yes."
            assert await text_of(openai_chat("Why?", model="m", client=client)) == "Yes."
            assert await text_of(openai_responses("Why?", model="m", client=client)) == "Yes."
            assert not client.is_closed()

    assert {(request.connection, request.headers["x-of-my-own"]) for request in server.requests} == {(1, "1")}


async def test_azures_client_asks_at_its_own_address() -> None:
    async with replay(whole(KINDS["openai"])) as server:
        azure = openai.AsyncAzureOpenAI(azure_endpoint=server.url, api_key="k", api_version="2024-10-21")
        async with azure:
            assert await text_of(openai_chat("Why?", model="mine", client=azure)) == "Yes."

    (request,) = server.requests
    assert request.path == "/openai/deployments/mine/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == "k"


async def test_anthropics_client_of_ones_own_and_vertexs() -> None:
    async with replay(whole(KINDS["anthropic"])) as server:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k") as client:
            assert await text_of(anthropic_messages("Why?", model="m", client=client)) == "Yes."
        vertex = anthropic.AsyncAnthropicVertex(base_url=server.url, region="r", project_id="p", access_token="t")
        async with vertex:
            assert await text_of(anthropic_messages("Why?", model="m", client=vertex)) == "Yes."  # type: ignore[arg-type]

    assert server.requests[1].path == "/projects/p/locations/r/publishers/anthropic/models/m:streamRawPredict"


async def test_what_belongs_to_the_client_is_given_there() -> None:
    async with openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="k", max_retries=0) as client:
        with pytest.raises(ConfigError, match="api_key is given beside client: set api_key in the client"):
            openai_chat("Why?", model="m", api_key="k", client=client)
        with pytest.raises(ConfigError, match=r"no model is set for 127\.0\.0\.1"):
            openai_chat("Why?", client=client)
        with pytest.raises(SourceError, match=r"m at 127\.0\.0\.1:9: nothing listens there"):
            await text_of(openai_chat("Why?", model="m", client=client))
