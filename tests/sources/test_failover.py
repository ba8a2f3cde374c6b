"""When an LLM fails before its first word, the next one is asked."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from llm2ws.errors import ConfigError, SourceError
from llm2ws.links.pool import Pool
from llm2ws.service import Service
from llm2ws.settings.fields import Llm, Settings
from llm2ws.settings.llms import choose_llm, llm_client
from llm2ws.sources.aside import Aside
from llm2ws.sources.failover import one_answer
from llm2ws.sources.prompt import Prompt
from llm2ws.testing import FaultySpeech
from llm2ws.turn import Conversation, Outcome
from scripts.virtual_clock import run
from tests.sources.replay import Reply, replay, stream
from tests.whole import endpoint


def completion(*words: str, then: str = "data: [DONE]\n\n") -> Callable[[web.Request], object]:
    """Answer with a stream of chat completions."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in words:
            await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % word.encode())
        if then:
            await response.write(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n' + then.encode())
        return response

    return answer


def refusal(status: int) -> Callable[[web.Request], object]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=status)

    return answer


@asynccontextmanager
async def llm_server(answer: Callable[[web.Request], object]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)  # type: ignore[arg-type]
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1"
    finally:
        await runner.cleanup()


def asked(url: str, **options: object) -> Llm:
    return Llm(kind="openai", base_url=url, model="m", max_retries=0, **options)  # type: ignore[arg-type]


async def answered(settings: Settings) -> str:
    """Return the answer of the LLM "one", through a Service."""
    async with Service(settings, speech=["local"]) as service:
        items = [item async for item in service.answer("one", "Why?")]
    return "".join(item for item in items if isinstance(item, str))


@pytest.mark.parametrize(
    "failure", [refusal(503), refusal(429), refusal(500), completion(then="")], ids=["503", "429", "500", "empty"]
)
async def test_an_llm_that_cannot_begin_is_replaced(
    failure: Callable[[web.Request], object], caplog: pytest.LogCaptureFixture
) -> None:
    async with llm_server(failure) as bad, llm_server(completion("Because ", "it is.")) as good:
        settings = Settings(llm={"one": asked(bad, failover=("two",)), "two": asked(good)})
        assert await answered(settings) == "Because it is."
    assert [record.levelno for record in caplog.records if "the next LLM is asked" in record.message] == [logging.WARNING]


async def test_an_llm_that_cannot_be_reached_is_replaced_and_echo_needs_no_server() -> None:
    settings = Settings(llm={"one": asked("http://127.0.0.1:9/v1", failover=("echo",)), "echo": Llm(tokens_per_s=0)})
    assert await answered(settings) == "Why?"


async def test_after_the_first_word_nothing_is_asked_again() -> None:
    async with llm_server(completion("Because", then="")) as bad, llm_server(completion("Another answer.")) as good:
        settings = Settings(llm={"one": asked(bad, failover=("two",)), "two": asked(good)})
        words = list[str]()
        async with Service(settings, speech=["local"]) as service:
            with pytest.raises(SourceError):
                async for item in service.answer("one", "Why?"):
                    words.append(str(item))
        assert "".join(words) == "Because"


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_mistake_in_the_request_is_not_hidden_by_another_answer(status: int) -> None:
    async with llm_server(refusal(status)) as bad, llm_server(completion("Because.")) as good:
        settings = Settings(llm={"one": asked(bad, failover=("two",)), "two": asked(good)})
        with pytest.raises((SourceError, ConfigError)):
            await answered(settings)


async def test_a_stand_in_is_asked_for_the_same_in_its_own_words() -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    extra = {"max_tokens": 9, "temperature": 0.5, "tools": [{"type": "function", "function": function}]}
    async with llm_server(refusal(503)) as bad, replay(Reply([stream("anthropic")])) as good:
        stand_in = Llm(kind="anthropic", base_url=good.url, model="m")
        settings = Settings(llm={"one": asked(bad, failover=("two",)), "two": stand_in})
        async with Service(settings, speech=["local"]) as service:
            assert [item async for item in service.answer("one", "Why?", extra=extra)]
    body = good.requests[0].body
    assert (body["max_tokens"], body["temperature"]) == (9, 0.5)
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]


async def test_when_none_can_answer_the_last_reason_is_told() -> None:
    async with llm_server(refusal(503)) as bad, llm_server(refusal(429)) as worse:
        settings = Settings(llm={"one": asked(bad, failover=("two",)), "two": asked(worse)})
        with pytest.raises(SourceError, match="429"):
            await answered(settings)


def test_a_stand_in_that_is_not_known_is_an_error_at_once() -> None:
    settings = Settings(llm={"one": asked("http://127.0.0.1:9/v1", failover=("nobody",))})
    with pytest.raises(ConfigError, match="nobody"):
        llm_client(settings, choose_llm(settings, "one")[1])


async def test_leaving_early_closes_the_answer_that_was_begun() -> None:
    gone = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"index":0,"delta":{"content":"Well. "}}]}\n\n')
        try:
            await asyncio.sleep(math.inf)
        finally:
            gone.set()
        return response

    async with llm_server(refusal(503)) as bad, llm_server(endless) as good, FaultySpeech() as speech:
        settings = Settings(llm={"one": asked(bad, failover=("two",)), "two": asked(good)})
        async with Service(settings, speech=["local"]) as service, Pool() as pool:
            conversation = Conversation(pool, [endpoint(speech)])
            async with conversation.turn(service.answer("one", "Why?")) as turn:
                await anext(aiter(turn.audio()))
            assert turn.outcome is Outcome.INTERRUPTED
            await gone.wait()


class SlowToOpen:
    """A client that never finishes to be opened."""

    who = "m"

    def __init__(self) -> None:
        self.cancelled = False

    async def __aenter__(self) -> None:
        try:
            await asyncio.sleep(math.inf)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("it was never opened")

    async def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        assert not self.cancelled
        yield "it was never opened"

    async def models(self) -> None:
        return None


def test_a_client_that_is_being_opened_gives_signs_of_life_and_may_be_left() -> None:
    async def leave() -> None:
        client = SlowToOpen()
        items = one_answer(client, "Why?")
        assert [await anext(items) for _ in range(3)] == ["", "", ""]
        await items.aclose()
        assert client.cancelled

    run(leave())
