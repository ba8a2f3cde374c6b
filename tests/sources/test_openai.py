"""Chat Completions as servers really speak it, beside the official SDK's own iterator on the same bytes."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import aclosing
from typing import Any

import openai
import pytest

from llm2ws import Aside, openai_chat
from llm2ws.errors import SourceError
from llm2ws.sources.model import ModelSettings
from llm2ws.sources.openai import OpenAIChat
from tests.sources.asking import outcome_of
from tests.sources.replay import WHOLE, Answer, End, Reply, json_reply, read, replay, stream


async def ask(url: str, prompt: Any = "Why?", **options: Any) -> Answer:
    return await read(openai_chat(prompt, **{"model": "m", "base_url": f"{url}/v1", "max_retries": 0, **options}))


async def sdk_text(url: str) -> str:
    """Return the text by the SDK's iterator, with the care that it leaves to its user."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        chunks = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Why?"}], stream=True)
        async with chunks:
            first = [choice for chunk in [chunk async for chunk in chunks] for choice in chunk.choices if choice.index == 0]
    return "".join(choice.delta.content or "" for choice in first)


SERVERS = {
    "openai": (WHOLE, "stop", 32),
    "ollama": (WHOLE, "stop", 51),
    "vllm_old": (WHOLE, "stop", None),
    "vllm_new": (WHOLE, "stop", 40),
    "llamacpp_old": (WHOLE, "stop", 43),
    "llamacpp_new": (WHOLE, "stop", 43),
    "openrouter": (WHOLE, "stop", 39),
    "openai_tool_call": ("One moment.", "tool_calls", 32),
    "openai_refusal": ("", "stop", 32),
    "openai_two_choices": ("First one.", "stop", None),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_recorded_streams_give_the_sdks_text(name: str) -> None:
    text, reason, tokens = SERVERS[name]
    whole = stream(name)
    cut = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    async with replay(Reply([whole]), Reply([whole]), Reply(cut), Reply(cut, end=End.EOF)) as server:
        assert await sdk_text(server.url) == text
        for _ in range(3):
            answer = await ask(server.url)

            assert (answer.text, answer.reason) == (text, reason)
            assert (answer.usage and answer.usage["total_tokens"]) == tokens


@pytest.mark.parametrize("at", range(0, 640, 40))
async def test_a_stream_cut_at_many_places_over_a_socket(at: int) -> None:
    whole = stream("vllm_new")
    head, tail = whole[: 1024 + at], whole[1024 + at :]
    async with replay(Reply([head, tail])) as server:
        assert (await ask(server.url)).text == WHOLE


async def test_streams_that_break_the_sdk() -> None:
    async with replay(Reply([stream("odd_frames")])) as server:
        with pytest.raises(json.JSONDecodeError):  # at an empty `data:`
            await sdk_text(server.url)
        assert (await ask(server.url)).text == WHOLE
    async with replay(Reply([stream("llamacpp_old_error")])) as server:
        assert await sdk_text(server.url) == "Half an answer"  # and no word of the error
        with pytest.raises(SourceError, match="failed while answering"):
            await ask(server.url)
    async with replay(Reply([stream("mistral")])) as server:
        with pytest.raises(TypeError):  # content is a list of parts, which is not in the SDK's types
            await sdk_text(server.url)
        assert (await ask(server.url)).text == "Parts and strings."


def data(*chunks: object, done: bool = True) -> list[bytes]:
    frames = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks]
    return [*frames, b"data: [DONE]\n\n"] if done else frames


def choice(reason: str | None = None, **delta: object) -> dict[str, object]:
    return {"choices": [{"delta": delta, "finish_reason": reason}]}


ODD = {
    "only [DONE]": (data(choice(content="A")), "A", None),
    "only finish_reason": (data(choice(content="A"), choice("stop"), done=False), "A", "stop"),
    "cut by the limit": (data(choice(content="A"), choice("length")), "A", "length"),
    "filtered": (data(choice(content="A"), choice("content_filter")), "A", "content_filter"),
    "only reasoning": (data(choice(reasoning_content="A"), choice(reasoning="B"), choice("stop")), "", "stop"),
    "message for delta": (data({"choices": [{"message": {"content": "A"}, "finish_reason": "stop"}]}), "A", "stop"),
    "message after deltas": (
        data(choice(content="A"), {"choices": [{"message": {"content": "A"}}]}, choice("stop")),
        "A",
        "stop",
    ),
    "a message with more than the deltas": (
        data(choice(content="A"), {"choices": [{"delta": {}, "message": {"content": "A B"}, "finish_reason": "stop"}]}),
        "A B",
        "stop",
    ),
    "a message beside an empty delta": (
        data({"choices": [{"delta": {"content": ""}, "message": {"content": "A"}, "finish_reason": "stop"}]}),
        "A",
        "stop",
    ),
    "a message that grows": (
        data(*({"choices": [{"message": {"content": text}}]} for text in ("A", "A B", "A B")), choice("stop")),
        "A B",
        "stop",
    ),
    **{
        f"messages that are {what}": (
            data(*({"choices": [{"message": {"content": text}}]} for text in texts), choice("stop")),
            text,
            "stop",
        )
        for what, texts, text in [
            ("parts", ["The sky", " is", " the", " limit. The", " sky", "."], "The sky is the limit. The sky."),
            ("parts that may be cumulative", ["1", "10", "0 m"], "1100 m"),
            ("parts and then all", ["The sky", " is", " blue.", "The sky is blue."], "The sky is blue."),
            ("cumulative", ["1", "10", "10 m"], "10 m"),
            ("cumulative and end early", ["1", "10"], "10"),
            ("the same", ["The sky.", "The sky."], "The sky."),
        ]
    },
    "wrong types": (
        data(
            7,
            None,
            [],
            {"choices": 3},
            {"choices": [5, {"delta": 4}]},
            {"usage": 1},
            choice(content=8, tool_calls=[1]),
            done=False,
        )
        + data(choice(content=["x", {"type": "text", "text": 3}], tool_calls=9, refusal=[]), choice("stop", content="A")),
        "A",
        "stop",
    ),
    "bytes that are no UTF-8": (
        [b'data: {"choices":[{"delta":{"content":"A\xff"}}]}\n\n', *data(choice("stop"))],
        "A\ufffd",
        "stop",
    ),
    "half a surrogate pair": (data(choice("stop", content="A\ud83d")), "A\ufffd", "stop"),
    "control characters": ([b'data: {"choices":[{"delta":{"content":"A\tB"}}]}\n\n', *data(choice("stop"))], "A\tB", "stop"),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_streams(name: str) -> None:
    pieces, text, reason = ODD[name]
    async with replay(Reply(pieces)) as server:
        answer = await ask(server.url)

    assert (answer.text, answer.reason, answer.asides) == (text, reason, [])


BROKEN_OFF = {
    "error": data(choice(content="A"), choice("error")),
    "error with text": data(choice("error", content="A")),
    "DeepSeek's servers are full": data(choice(content="A"), choice("insufficient_system_resource")),
    "vLLM gave up": data(choice(content="A"), choice("abort"), {"choices": [], "usage": {"total_tokens": 3}}),
}


@pytest.mark.parametrize("name", BROKEN_OFF)
async def test_an_answer_that_broke_off_by_its_reason_is_given_and_told(name: str) -> None:
    async with replay(Reply(BROKEN_OFF[name])) as server:
        text, asides, error = await outcome_of(openai_chat, server.url)

    assert (text, asides) == ("A", [])
    assert "gave up while answering (" in str(error)
    assert error is not None
    assert error.retry


@pytest.mark.parametrize(
    ("said", "reason"),
    [("eos", "stop"), ("MAX_TOKENS", "length"), ("sensitive", "content_filter"), ("moonrise", "moonrise"), ("null", None)],
)
async def test_reasons_in_the_words_of_other_servers(said: str, reason: str | None) -> None:
    async with replay(Reply(data(choice(said, content="A")))) as server:
        assert (await ask(server.url)).reason == reason


STRANGE = {
    "another API": data({"response": "A"}),
    "strings": data("A", "B"),
    "completions": data({"choices": [{"text": "A", "finish_reason": "stop"}]}),
    "another name in the delta": data(choice(role="assistant", content=""), choice(text="A"), choice("stop")),
    "another content": data(choice(content={"text": "A"}), choice("stop")),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_data_without_text_is_an_error(name: str) -> None:
    async with replay(Reply(STRANGE[name])) as server:
        text, _, error = await outcome_of(openai_chat, server.url)

    assert text == ""
    assert "sent data in which there is no text that is known here" in str(error)


EMPTY = {
    "an empty text": data(choice(role="assistant", content=""), choice("stop")),
    "no delta": data(choice("stop")),
    "null": data(choice(role="assistant", content=None), choice("length")),
    "filter results": data({"choices": [], "prompt_filter_results": [{"a": "b"}]}, choice("content_filter")),
    "only [DONE]": data(),
    "only audio": data(choice(audio={"transcript": "A"}), choice("stop")),
}


@pytest.mark.parametrize("name", EMPTY)
async def test_an_empty_answer_is_no_error(name: str) -> None:
    async with replay(Reply(EMPTY[name])) as server:
        text, asides, error = await outcome_of(openai_chat, server.url)

    assert (text, len(asides), error) == ("", 1, None)


@pytest.mark.parametrize(
    ("first", "line"),
    [
        (b'data: {"error": {"message": "no: xyzzy", "code": 429}}\n\n', "too many requests"),
        (b'data: {"error": {"message": "no: xyzzy", "status": 401}}\n\n', "it asks for a key"),
        (b"event: error\ndata: model m not found\n\n", "it has no such model"),
        (b'event: error\ndata: {"message": "no: xyzzy"}\n\n', "an error of the server"),
    ],
)
async def test_an_error_as_the_first_event(first: bytes, line: str) -> None:
    async with replay(Reply([first, *data(choice("stop", content="A"))])) as server:
        text, asides, error = await outcome_of(openai_chat, server.url)

    assert (text, asides) == ("", [])
    assert line in str(error)


async def test_what_is_not_spoken_is_a_sign_of_life() -> None:
    thought = data(choice(reasoning="Hm."), done=False)
    async with replay(Reply(thought, end=End.HOLD)) as server:
        async with OpenAIChat(ModelSettings(model="m", base_url=server.url)) as chat:
            async with aclosing(chat.answer("Why?")) as items:
                assert await anext(items) == ""


async def test_a_server_that_does_not_stream() -> None:
    body: dict[str, Any] = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "All of it."}, "finish_reason": "stop"}]
    }
    async with replay(json_reply(200, {**body, "usage": {"total_tokens": 3}})) as server:
        assert await ask(server.url) == ("All of it.", "stop", {"total_tokens": 3}, [])
    body["choices"] = [{"message": {"content": "All of it."}}]
    async with replay(json_reply(200, body)) as server:
        assert await ask(server.url) == ("All of it.", None, None, [])


async def test_tool_calls_and_refusals_are_passed_on_and_not_said() -> None:
    async with replay(Reply([stream("openai_tool_call")]), Reply([stream("openai_refusal")])) as server:
        called, refused = await ask(server.url), await ask(server.url)

    assert {aside.kind for aside in called.asides} == {"tool_call"}
    assert called.asides[0].data == {"index": 0, "id": "call_8dKq2", "name": "get_weather", "arguments": ""}
    assert "".join(str(aside.data["arguments"]) for aside in called.asides) == '{"city":"Köln"}'
    assert refused.asides == [Aside("refusal", {"text": "I'm sorry"}), Aside("refusal", {"text": ", no."})]


async def test_calls_and_refusals_of_a_message_are_given_once() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    message = {"choices": [{"message": {"tool_calls": [call], "refusal": "No."}, "finish_reason": "tool_calls"}]}
    async with replay(Reply(data(message)), Reply(data(choice(tool_calls=[call], refusal="No."), message))) as server:
        answers = [await ask(server.url) for _ in range(2)]

    expected = {"refusal": 1, "tool_call": 1}
    assert [Counter(aside.kind for aside in answer.asides) for answer in answers] == [expected, expected]


async def test_a_call_in_the_words_of_2023() -> None:
    pieces = data(choice(function_call={"name": "f", "arguments": "{}"}), choice("function_call"))
    async with replay(Reply(pieces)) as server:
        assert (await ask(server.url)).asides == [Aside("tool_call", {"index": 0, "name": "f", "arguments": "{}"})]


async def test_what_is_asked() -> None:
    async with replay(Reply([stream("ollama")])) as server:
        await ask(
            server.url,
            [{"role": "user", "content": "One"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "Two"}],
            system="Count.",
            template="Q: {prompt}",
            temperature=0.0,
            max_tokens=50,
            stop=["\n"],
            extra={"seed": 7, "model": "other"},
        )
        await ask(server.url)

    first, second = (request.body for request in server.requests)
    assert first == {
        "model": "other",
        "messages": [
            {"role": "system", "content": "Count."},
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": "Q: Two"},
        ],
        "temperature": 0.0,
        "max_tokens": 50,
        "stop": ["\n"],
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert set(second) == {"model", "messages", "stream", "stream_options"}
    assert server.requests[0].path == "/v1/chat/completions"


async def test_openai_itself_is_asked_in_its_newest_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy of the environment, which is honoured for a vendor: nothing is sent to OpenAI."""
    async with replay(Reply([stream("openai")])) as server:
        monkeypatch.setenv("http_proxy", server.url)
        options: Any = {"base_url": "http://eu.api.openai.com/v1", "model": "m", "max_tokens": 9}
        assert (await read(openai_chat("Why?", **options))).text == WHOLE

    body = server.requests[0].body
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_longest_answer_is_said_once_and_in_the_servers_words(name: str) -> None:
    async with replay(Reply([stream("openai")])) as server:
        async with OpenAIChat(ModelSettings(model="m", base_url=server.url, max_tokens=50)) as chat:
            await read(chat.answer("Why?", extra={name: 9}))

    body = server.requests[0].body
    assert body["max_tokens"] == 9
    assert "max_completion_tokens" not in body


async def test_a_server_that_knows_no_stream_options_is_asked_without_them() -> None:
    refusal = json_reply(400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}})
    async with replay(refusal, Reply([stream("llamacpp_old")])) as server:
        async with OpenAIChat(ModelSettings(model="m", base_url=server.url)) as chat:
            assert (await read(chat.answer("Why?"))).text == WHOLE
            await read(chat.answer("Why?"))

    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]
