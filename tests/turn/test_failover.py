"""When the first one fails, the next goes on: between speech endpoints in mid-turn, between LLMs before the first word."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count

import pytest
import uvloop
from aiohttp import web

from llm2ws.errors import ConfigError, SourceError, TurnLost
from llm2ws.links.breaker import REST_S
from llm2ws.links.pool import Endpoint, Pool
from llm2ws.service import Service
from llm2ws.settings.fields import Llm, Settings
from llm2ws.settings.llms import choose_llm, llm_client
from llm2ws.sources.aside import Aside
from llm2ws.sources.failover import one_answer
from llm2ws.sources.prompt import Prompt
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.speech.dialects.deepgram_v2 import DeepgramV2
from llm2ws.speech.utterance.pacing import Pace
from llm2ws.testing import Coding, Drop, FaultySpeech, How, decode, script, tokens
from llm2ws.turn import Conversation, Notice, NoticeKind, Outcome
from scripts.bench_seam import compare
from scripts.virtual_clock import run
from tests.sources.replay import Reply, replay, stream
from tests.vendors.deepgram_v2 import DeepgramV2Server
from tests.whole import FORMAT, audio_of, endpoint, heard, listen, sentences

ONE = Coding(char_samples=480, lead_in_s=0.1)  # 60 ms a character
OTHER = Coding(char_samples=600, word_pause_s=0.1, lead_in_s=0.0)  # another voice, a slower one
STORY = "The sky is blue, my friend. Light from the sun is scattered by air. Red goes on; blue does not. That is all."


@asynccontextmanager
async def two_endpoints(pace: float | None = 3.0) -> AsyncIterator[tuple[FaultySpeech, FaultySpeech, Conversation]]:
    async with (
        FaultySpeech(coding=ONE, pace=pace, max_frame_bytes=8_000) as one,
        FaultySpeech(coding=OTHER, pace=pace) as other,
    ):
        async with Pool() as pool:
            yield one, other, Conversation(pool, [endpoint(one, name="one"), endpoint(other, name="other")], pace=Pace.LISTENER)


async def killed_at(at_frame: int) -> bool:
    """One reply whose first endpoint dies before this frame of audio; False where it has no so many."""
    async with two_endpoints() as (one, other, conversation):
        one.drops.append(Drop(at_frame=at_frame))
        killer = asyncio.create_task(refuse_from_then_on(one))
        turn = conversation.turn(script(*tokens(STORY)))
        events = await listen(turn)
        if one.drops:
            killer.cancel()
            return False
        said = decode(audio_of(events))
        assert compare(said, STORY)[0] == 0, (at_frame, said)
        assert len(said.replace(" ", "")) - len(STORY.replace(" ", "")) <= turn.stats.repeated_chars
        # What is heard again is a fragment, from its start.
        assert turn.stats.repeated_chars <= max(map(len, other.texts()))
        told = [event.kind for event in events if isinstance(event, Notice)]
        assert NoticeKind.FAILED_OVER in told
        assert turn.outcome is Outcome.DONE
        assert turn.spoken.split(turn.stats.audio_s).heard == STORY
    return True


async def refuse_from_then_on(speech: FaultySpeech) -> None:
    await speech.until(lambda s: not s.drops)
    speech.refusals.extend([503] * 1_000)


def test_an_endpoint_that_dies_at_any_frame_is_replaced_and_every_word_is_heard() -> None:
    frames = next(at_frame for at_frame in count() if not run(killed_at(at_frame)))
    assert frames > 15


def test_the_first_endpoint_is_in_use_again_once_its_rest_is_over() -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, other, conversation):
            assert await heard(conversation.turn(script("One. "))) == "One."
            one.drops.append(Drop(at_frame=0))
            killer = asyncio.create_task(refuse_from_then_on(one))
            for n in range(4):
                assert await heard(conversation.turn(script(f"Turn {n}. "))) == f"Turn {n}."
            await killer
            tried = one.handshakes
            assert len(one.texts()) == 2  # the first turn, and the one in which it died
            assert len(other.texts()) == 4
            assert await heard(conversation.turn(script("While it rests. "))) == "While it rests."
            assert one.handshakes == tried  # after so many failures it is left alone
            one.refusals.clear()
            await asyncio.sleep(REST_S)
            assert await heard(conversation.turn(script("Back again. "))) == "Back again."
            assert one.texts()[-1] == "Back again. "

    run(speak())


def test_a_stand_in_that_needs_no_flush_speaks_a_long_text_whole() -> None:
    """Where the first cannot be had at all: groups are cut for the one that speaks."""

    async def speak() -> None:
        async with FaultySpeech() as down, DeepgramV2Server(coding=Coding(char_samples=480)) as up, Pool() as pool:
            down.refusals.extend([503] * 100)
            stand_in = Endpoint(DeepgramV2(Setup(up.url, "", FORMAT)), name="up")
            turn = Conversation(pool, [endpoint(down, name="down"), stand_in]).turn(script(*tokens(sentences(600))))
            await listen(turn)
            assert turn.outcome is Outcome.DONE
            assert "".join(up.texts()).rstrip() == sentences(600)

    run(speak())


def test_an_endpoint_that_takes_connections_and_stays_silent_is_replaced() -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, _, conversation):
            one.drops.extend([Drop(after_chars=1)] * 1_000)
            turn = conversation.turn(script(*tokens(STORY)))
            assert await heard(turn) == STORY
            assert turn.outcome is Outcome.DONE

    run(speak())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_endpoint_whose_proxy_closes_what_it_accepts_is_replaced(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def speak() -> None:
        async with FaultySpeech(coding=OTHER) as other:
            away = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
            async with away, Pool() as pool:
                url = f"ws://127.0.0.1:{away.sockets[0].getsockname()[1]}/v1/speak"
                first = Endpoint(Deepgram(Setup(url, "", FORMAT)), name="one")
                conversation = Conversation(pool, [first, endpoint(other, name="other")], pace=Pace.LISTENER)
                for _ in range(3):
                    turn = conversation.turn(script(*tokens(STORY)))
                    assert await heard(turn) == STORY
                    assert turn.outcome is Outcome.DONE

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(speak())


@pytest.mark.parametrize("at_frame", [None, 5])
def test_an_endpoint_that_refuses_a_text_for_good_is_replaced_in_this_turn(at_frame: int | None) -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, other, conversation):
            drop = Drop(How.CLOSE, code=1008, reason="DATA-0000", at_frame=at_frame, after_chars=None if at_frame else 1)
            one.drops.append(drop)
            turn = conversation.turn(script(*tokens(STORY)))
            events = await listen(turn)
            assert compare(decode(audio_of(events)), STORY)[0] == 0
            assert turn.outcome is Outcome.DONE
            assert NoticeKind.FAILED_OVER in [event.kind for event in events if isinstance(event, Notice)]
            assert (one.connections, other.connections) == (1, 1)  # what is refused for good is not tried there again
            # Another text may please it.
            assert await heard(conversation.turn(script("Next. "))) == "Next."
            assert one.texts()[-1] == "Next. "

    run(speak())


def test_when_all_endpoints_refuse_a_text_for_good_the_turn_is_lost_by_name() -> None:
    async def speak() -> None:
        async with two_endpoints() as (one, other, conversation):
            for speech in (one, other):
                speech.drops.append(Drop(How.CLOSE, code=1008, reason="DATA-0000", after_chars=1))
            turn = conversation.turn(script(*tokens(STORY)))
            with pytest.raises(TurnLost, match="DATA-0000"):
                await listen(turn)
            assert (one.connections, other.connections) == (1, 1)

    run(speak())


# --- LLMs


def completion(*words: str, then: str = "data: [DONE]\n\n") -> Callable[[web.Request], object]:
    """A server's answer: chat completions, as a stream."""

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
    """The answer of the LLM "one", through a Service."""
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
