"""OpenAI's Responses, beside the official SDK's own iterator on the same bytes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from llm2ws import Aside
from llm2ws.errors import ConfigError, LocalProtocolError
from llm2ws.sources.events import EventReader
from llm2ws.sources.model import LlmEndpoint, ModelSettings
from llm2ws.sources.openai import VENDOR
from llm2ws.sources.responses import OpenAIResponses, ResponsesParser, openai_responses
from tests.sources.asking import event, outcome_of
from tests.sources.kinds import responses_text
from tests.sources.replay import WHOLE, Answer, End, Reply, json_reply, read, replay, stream

HERE = LlmEndpoint(VENDOR, "http://127.0.0.1", "127.0.0.1", "m", "", loopback=True)
USAGE = {"prompt_tokens": 11, "completion_tokens": 32, "total_tokens": 43}


async def ask(url: str, prompt: Any = "Why?", **options: Any) -> Answer:
    return await read(openai_responses(prompt, **{"model": "m", "base_url": f"{url}/v1", "max_retries": 0, **options}))


STREAMS = {
    "responses": (WHOLE, "stop"),
    "responses_incomplete": ("First.\n\nSecond, and", "length"),
    "responses_refusal": ("", "stop"),
    "responses_tool_call": ("One moment.", "tool_calls"),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_recorded_streams_give_the_sdks_text(name: str) -> None:
    text, reason = STREAMS[name]
    whole = stream(name)
    cut = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    async with replay(Reply([whole]), Reply([whole]), Reply(cut, end=End.EOF)) as server:
        assert await responses_text(server.url) == (text if text == WHOLE else text.replace("\n\n", ""))
        for _ in range(2):
            answer = await ask(server.url)

            assert (answer.text, answer.reason, answer.usage) == (text, reason, USAGE)


@pytest.mark.parametrize("name", STREAMS)
def test_recorded_streams_cut_at_every_byte(name: str) -> None:
    whole, fresh = stream(name), EventReader(ResponsesParser(HERE), HERE)

    for cut in range(len(whole)):
        reader = deepcopy(fresh)
        items = [item for data in (whole[:cut], whole[cut:], b"") for item in reader.feed(data)]
        assert "".join(item for item in items if isinstance(item, str)) == STREAMS[name][0], cut
        assert reader.end().data["reason"] == STREAMS[name][1]


async def test_tool_calls_are_passed_on() -> None:
    async with replay(Reply([stream("responses_tool_call")])) as server:
        calls = (await ask(server.url)).asides

    assert {aside.kind for aside in calls} == {"tool_call"}
    assert calls[0].data == {"index": 1, "id": "call_unLAR8MvFNptuiZK6K6HCy5k", "name": "get_weather"}
    assert "".join(str(aside.data.get("arguments", "")) for aside in calls) == '{"city":"Köln"}'


async def test_a_refusal_is_not_spoken() -> None:
    async with replay(Reply([stream("responses_refusal")])) as server:
        asides = (await ask(server.url)).asides

    assert asides == [Aside("refusal", {"text": "I'm sorry"}), Aside("refusal", {"text": ", no."})]


async def test_a_server_that_does_not_stream() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "content": [{"type": "output_text", "text": "One."}, {"type": "refusal", "refusal": "No."}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "message", "content": [{"type": "output_text", "text": "Two."}]},
    ]
    async with replay(json_reply(200, {"status": "completed", "error": None, "output": output})) as server:
        answer = await ask(server.url)

    assert (answer.text, answer.reason, answer.usage) == ("One.\n\nTwo.", "tool_calls", None)
    assert answer.asides == [
        Aside("refusal", {"text": "No."}),
        Aside("tool_call", {"index": 2, "id": "c", "name": "f", "arguments": "{}"}),
    ]


async def test_events_of_kinds_to_come_are_passed_over() -> None:
    strange = [
        event("response.hologram.delta", delta="no"),
        event("response.output_text.delta", delta=7),
        event("response.output_text.delta"),
        event("response.output_item.added", output_index=0, item={"type": "hologram"}),
        b"data: 7\n\n",
    ]
    ended = event("response.incomplete", response={"status": "incomplete", "incomplete_details": {"reason": "moonrise"}})
    async with replay(Reply([*strange, event("response.output_text.delta", delta="Yes."), ended])) as server:
        answer = await ask(server.url)

    assert (answer.text, answer.reason, answer.usage, answer.asides) == ("Yes.", "moonrise", None, [])


PART = {"type": "output_text", "text": "One."}
SAID_NO = {"type": "refusal", "refusal": "No."}
ONE = {"type": "message", "content": [PART]}
TWO = {"type": "message", "content": [{"type": "output_text", "text": "Two."}]}
FUNCTION_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}


def text_delta(text: str, **place: int) -> bytes:
    return event("response.output_text.delta", delta=text, **place)


def completed(*output: object) -> bytes:
    return event("response.completed", response={"status": "completed", "output": list(output)})


FINAL_OBJECTS = {
    "a text": ([event("response.output_text.done", text="One."), completed()], "One."),
    "a part": ([event("response.content_part.done", part=PART), completed()], "One."),
    "an item": ([event("response.output_item.done", output_index=0, item=ONE), completed()], "One."),
    "the response": ([completed(REASONING, ONE, TWO)], "One.\n\nTwo."),
    "an incomplete response": ([event("response.incomplete", response={"output": [ONE]})], "One."),
    "the rest of a text": ([text_delta("On"), event("response.output_text.done", text="One."), completed(ONE)], "One."),
    "the rest of the response": ([text_delta("On"), completed(ONE, TWO)], "One.\n\nTwo."),
    "the second message": (
        [text_delta("One."), event("response.output_item.done", item=ONE), completed(ONE, TWO)],
        "One.\n\nTwo.",
    ),
    "all of them": (
        [
            text_delta("One.", output_index=0, content_index=0),
            event("response.output_text.done", output_index=0, content_index=0, text="One."),
            event("response.content_part.done", output_index=0, content_index=0, part=PART),
            event("response.output_item.done", output_index=0, item=ONE),
            event("response.output_text.done", output_index=1, content_index=0, text="One."),
            event("response.content_part.done", output_index=1, content_index=0, part=PART),
            event("response.output_item.done", output_index=1, item=ONE),
            completed(ONE, ONE),
        ],
        "One.\n\nOne.",
    ),
    "places that do not agree": (
        [text_delta("On", output_index=3), text_delta("e.", output_index=3, content_index=1), completed(REASONING, ONE)],
        "One.",
    ),
    "places that are none": (
        [event("response.output_text.delta", delta="One.", output_index=[], content_index={}), completed(ONE)],
        "One.",
    ),
}


@pytest.mark.parametrize("name", FINAL_OBJECTS)
async def test_text_that_comes_in_final_objects_is_given_once(name: str) -> None:
    pieces, text = FINAL_OBJECTS[name]
    async with replay(Reply(pieces)) as server:
        answer = await ask(server.url)

    assert (answer.text, answer.asides) == (text, [])


REFUSED = [Aside("refusal", {"text": "No."})]
CALLED = [Aside("tool_call", {"index": 0, "id": "c", "name": "f", "arguments": "{}"})]
BEGUN = [event("response.output_item.added", output_index=0, item={**FUNCTION_CALL, "arguments": ""})]
CALLED_AND_GIVEN = [
    Aside("tool_call", {"index": 0, "id": "c", "name": "f"}),
    Aside("tool_call", {"index": 0, "arguments": "{}"}),
]
FINAL_ASIDES = {
    "a refusal": ([event("response.refusal.done", refusal="No."), completed()], REFUSED),
    "a part that refuses": ([event("response.content_part.done", part=SAID_NO), completed()], REFUSED),
    "a refusal, twice": (
        [event("response.refusal.delta", delta="No."), completed({"type": "message", "content": [SAID_NO]})],
        REFUSED,
    ),
    "a call": ([event("response.output_item.done", output_index=0, item=FUNCTION_CALL), completed(FUNCTION_CALL)], CALLED),
    "a call in the response": ([completed(FUNCTION_CALL)], CALLED),
    "arguments": (
        [*BEGUN, event("response.function_call_arguments.done", output_index=0, arguments="{}"), completed(FUNCTION_CALL)],
        CALLED_AND_GIVEN,
    ),
    "arguments in the item": ([*BEGUN, completed(REASONING, FUNCTION_CALL)], CALLED_AND_GIVEN),
    "arguments, twice": (
        [
            *BEGUN,
            event("response.function_call_arguments.delta", output_index=0, delta="{}"),
            event("response.function_call_arguments.done", output_index=0, arguments="{}"),
            completed(FUNCTION_CALL),
        ],
        CALLED_AND_GIVEN,
    ),
}


@pytest.mark.parametrize("name", FINAL_ASIDES)
async def test_refusals_and_calls_that_come_in_final_objects_are_given_once(name: str) -> None:
    pieces, asides = FINAL_ASIDES[name]
    async with replay(Reply(pieces)) as server:
        answer = await ask(server.url)

    assert (answer.text, answer.asides) == ("", asides)


FAILED = {"status": "failed", "error": {"code": "server_error", "message": "no: xyzzy"}}


@pytest.mark.parametrize(
    ("pieces", "text", "line"),
    [
        ([event("response.failed", response={**FAILED, "output": [ONE]})], "One.", "failed while answering"),
        ([event("response.completed", response={**FAILED, "output": [ONE]})], "One.", "failed while answering"),
        ([event("response.completed", response={"status": "cancelled"})], "", "failed while answering"),
        ([event("response.text.delta", delta="One."), completed()], "", "there is no text that is known here"),
        ([event("response.output_text.delta", delta={"text": "One."}), completed()], "", "there is no text"),
        ([b"event: error\ndata: rate limit\n\n"], "", "too many requests"),
    ],
)
async def test_an_answer_that_is_none(pieces: list[bytes], text: str, line: str) -> None:
    async with replay(Reply(pieces)) as server:
        outcome = await outcome_of(openai_responses, server.url)

    assert (outcome.text, outcome.asides) == (text, [])
    assert line in str(outcome.error)


async def test_an_empty_answer_is_no_error() -> None:
    begin = event("response.created", response={"status": "in_progress", "output": []})
    thought = event("response.reasoning_text.delta", delta="Hm.")
    async with replay(Reply([begin, completed()]), Reply([thought, event("new"), completed()])) as server:
        for _ in range(2):
            text, asides, error = await outcome_of(openai_responses, server.url)
            assert (text, len(asides), error) == ("", 1, None)


async def test_a_response_that_is_still_being_made_is_not_complete() -> None:
    async with replay(json_reply(200, {"status": "in_progress", "error": None, "output": []})) as server:
        assert "ended before it was complete" in str((await outcome_of(openai_responses, server.url)).error)


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}


async def test_what_is_asked() -> None:
    history = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "image_url", "image_url": {"url": "data:,"}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "7"},
        {"role": "assistant", "content": [{"type": "text", "text": "1"}]},
        {"type": "item_reference", "id": "i"},
        {"role": "user", "content": "Two"},
    ]
    tools = {"tools": [{"type": "function", "function": FUNCTION}, {"type": "web_search"}], "tool_choice": "auto"}
    async with replay(Reply([stream("responses")])) as server:
        await ask(
            server.url, history, system="Count.", template="Q: {prompt}", temperature=0.5, max_tokens=50, extra={"top_p": 1}
        )
        await ask(server.url, extra={"max_completion_tokens": 7, "store": True, **tools})

    first, second = server.requests
    assert first.path == second.path == "/v1/responses"
    assert first.body == {
        "model": "m",
        "instructions": "Count.\n\nBe brief.",
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "One"}, {"type": "input_image", "image_url": "data:,"}],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "7"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "1"}]},
            {"type": "item_reference", "id": "i"},
            {"role": "user", "content": "Q: Two"},
        ],
        "temperature": 0.5,
        "max_output_tokens": 50,
        "top_p": 1,
        "store": False,
        "stream": True,
    }
    assert second.body == {
        "model": "m",
        "input": [{"role": "user", "content": "Why?"}],
        "max_output_tokens": 7,
        "store": True,
        "stream": True,
        "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
        "tool_choice": "auto",
    }


async def test_openai_itself_is_asked_without_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy of the environment, which is honoured for a vendor: nothing is sent to OpenAI."""
    async with replay(Reply([stream("responses")])) as server:
        monkeypatch.setenv("http_proxy", server.url)
        answer = await read(openai_responses("Why?", base_url="http://eu.api.openai.com/v1", model="m"))

    assert answer.text == WHOLE
    assert server.requests[0].body["stream_options"] == {"include_obfuscation": False}


async def test_a_client_keeps_its_connection_from_answer_to_answer() -> None:
    async with replay(Reply([stream("responses")])) as server:
        async with OpenAIResponses(ModelSettings(model="m", base_url=server.url)) as responses:
            answers = [await read(responses.answer("Why?")) for _ in range(3)]

    assert [answer.text for answer in answers] == [WHOLE] * 3
    assert {request.connection for request in server.requests} == {1}


def test_wrong_options_are_told_before_anything_is_started() -> None:
    with pytest.raises(ConfigError, match="no key for OpenAI: set OPENAI_API_KEY"):
        openai_responses("Why?")
    with pytest.raises(ConfigError, match="Responses know no stop words"):
        openai_responses("Why?", model="m", base_url="http://localhost", stop=["END"])
    with pytest.raises(LocalProtocolError, match="not entered"):
        OpenAIResponses(ModelSettings(model="m", base_url="http://localhost")).answer("Why?")
