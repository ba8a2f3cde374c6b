"""Chat Completions through the daemon, with the official SDK: what the LLM wrote, and speech that says it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import openai
import pytest
from msgspec.structs import replace

from llm2ws.server import sending
from llm2ws.settings.fields import Llm, Settings
from llm2ws.testing import Drop, FaultySpeech, How, decode
from tests.server.conftest import CODING, Start, chunks, says
from tests.sources.replay import DATA, SSE, End, Reply, json_reply, replay, stream
from tests.support import MS
from tests.watch.test_metrics import value

TEXT = "The sky is blue, because air scatters short waves. At sunset it is red! That is all."
ASK: Any = {"model": "scripted", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
SPOKEN: Any = {**ASK, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}


class HasUrl(Protocol):
    @property
    def url(self) -> str: ...


@asynccontextmanager
async def sdk(daemon: HasUrl) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client, with nothing changed but base URL and key."""
    client = openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0)
    try:
        yield client
    finally:
        await client.close()


def pcm_of(choice: Any) -> bytes:
    audio = choice.delta.audio
    return base64.b64decode(audio.data) if audio and audio.data else b""


async def heard(events: openai.AsyncStream[Any]) -> tuple[str, str, bytes, list[Any]]:
    """The text, what is said to be spoken, the audio, and all chunks."""
    text, transcript, audio, taken = "", "", b"", []
    async for chunk in events:
        taken.append(chunk)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if spoken := choice.delta.audio:
                transcript += spoken.transcript or ""
                audio += base64.b64decode(spoken.data or "")
    return text, transcript, audio, taken


async def test_the_text_is_the_models_own_and_the_audio_says_it(start: Start) -> None:
    async with start(TEXT) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True, stream_options={"include_usage": True})
        text, transcript, audio, taken = await heard(answer)
    assert text == TEXT
    assert transcript.strip() == TEXT
    assert decode(audio) == TEXT
    reasons = [choice.finish_reason for chunk in taken for choice in chunk.choices]
    assert reasons == [None] * (len(reasons) - 1) + ["stop"]
    assert taken[-1].usage.total_tokens == 10
    audios = [spoken for chunk in taken for choice in chunk.choices if (spoken := choice.delta.audio)]
    assert [one.id is not None for one in audios] == [True] + [False] * (len(audios) - 1)
    assert [one.expires_at is not None for one in audios] == [False] * (len(audios) - 1) + [True]
    assert len({chunk.id for chunk in taken}) == 1
    # What the daemon owns does not reach the LLM; all else does, under the LLM's own name.
    asked = daemon.llm.requests[0].body
    assert (asked["model"], asked["stream"], asked["stream_options"]) == ("m-1", True, {"include_usage": True})
    assert not {"modalities", "audio"} & set(asked)


async def test_audio_comes_while_the_model_writes(start: Start) -> None:
    # It stops in mid-answer until the client leaves; what it wrote before is heard all the same.
    async with start(says("The first sentence is here. And now it", end=End.HOLD)) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        pcm = b""
        async for chunk in answer:
            for choice in chunk.choices:
                pcm += pcm_of(choice)
            if "here." in decode(pcm):
                break
        await answer.close()
        await asyncio.wait_for(daemon.llm.left.wait(), 5)  # the LLM saw it go at once


@pytest.mark.parametrize("how", ["wav", "mp3"])
async def test_other_formats(start: Start, how: str) -> None:
    async with start(TEXT) as daemon, sdk(daemon) as client:
        asked = {**SPOKEN, "audio": {"voice": "alloy", "format": how}}
        _, transcript, audio, _ = await heard(await client.chat.completions.create(**asked, stream=True))
    assert transcript.strip() == TEXT
    if how == "wav":
        assert audio[:4] == b"RIFF"
        assert decode(audio[44:]) == TEXT
    else:
        assert audio[:2] in (b"\xff\xf3", b"\xff\xfb", b"ID")


async def test_not_streamed(start: Start) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    message = {"role": "assistant", "content": TEXT, "refusal": None}
    whole = {
        "id": "chatcmpl-2",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": usage,
    }
    async with start(json_reply(200, whole)) as daemon, sdk(daemon) as client:
        asked = {**SPOKEN, "audio": {"voice": "alloy", "format": "wav"}}
        raw = await client.chat.completions.with_raw_response.create(**asked)
        answer = raw.parse()
        assert "first_audio;dur=" in raw.headers["server-timing"]
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.total_tokens == 3
    audio = answer.choices[0].message.audio
    assert audio is not None
    assert audio.transcript == TEXT
    with wave.open(io.BytesIO(base64.b64decode(audio.data))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert decode(file.readframes(file.getnframes())) == TEXT


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply([b"<html>"], headers={"Content-Type": "text/html"}), "operator"),
        (Reply([b"[]"]), "operator"),
        (Reply([b'{"choices": []}']), "gave no answer"),
        (Reply([b'{"choices": {"a": 1}}']), "gave no answer"),
        (Reply([b'{"choices": ["a"]}']), "gave no answer"),
        (Reply([b'{"id": "1", "cho'], end=End.CUT), "try again"),
    ],
    ids=["HTML", "list", "nothing", "object", "strings", "half"],
)
async def test_not_streamed_and_no_answer(start: Start, reply: Reply, words: str) -> None:
    async with start(reply) as daemon, sdk(daemon) as client:
        with pytest.raises(openai.InternalServerError, match=words):
            await client.chat.completions.create(**SPOKEN)


async def test_of_a_content_in_parts_the_text_is_spoken(start: Start) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": TEXT}]
    whole = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": parts}, "finish_reason": "stop"}]}
    async with start(json_reply(200, whole)) as daemon:
        async with daemon.http.post("/v1/chat/completions", json=SPOKEN) as answer:
            message = (await answer.json())["choices"][0]["message"]
    assert message["content"] == parts
    assert message["audio"]["transcript"] == TEXT
    assert decode(base64.b64decode(message["audio"]["data"])) == TEXT


@pytest.mark.parametrize(
    "odd",
    [
        {"id": None},
        {"id": 7, "model": None},
        {"created": 1_700_000_000.1},
        {"usage": {"prompt_tokens": None, "completion_tokens": 1.5}},
        {"usage": [], "object": None},
        {"choices": [{"index": None}]},
        {"choices": ["nothing", {"delta": {"tool_calls": "none", "role": 7}}]},
    ],
    ids=str,
)
async def test_an_odd_field_silences_nothing(start: Start, odd: dict[str, Any]) -> None:
    def oddly(data: bytes) -> bytes:
        if not data.startswith(b"data: {"):
            return data
        chunk = json.loads(data.removeprefix(b"data: "))
        *more, changed = odd.get("choices", [{}])
        merged = [
            *more,
            *({**choice, **changed, "delta": {**changed.get("delta", {}), **choice["delta"]}} for choice in chunk["choices"]),
        ]
        return b"data: " + json.dumps({**chunk, **odd, "choices": merged}).encode() + b"\n\n"

    reply = Reply([oddly(data) for data in chunks(TEXT)])
    async with start(reply) as daemon:
        async with daemon.http.post("/v1/chat/completions", json={**SPOKEN, "stream": True}) as answer:
            lines = (await answer.text()).splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in event["choices"] if isinstance(choice, dict)]
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT
    assert decode(b"".join(base64.b64decode(delta.get("audio", {}).get("data", "")) for delta in deltas)) == TEXT
    assert "data: [DONE]" in lines


OTHER_FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "over two lines": lambda event: event.replace(b', "choices"', b',\ndata: "choices"'),
    "without an empty line": lambda event: event.removesuffix(b"\n"),
    "keep-alives": lambda event: b"data: : keep-alive\n\nevent: ping\ndata: ping\n\n" + event,
}


@pytest.mark.parametrize("name", OTHER_FRAMINGS)
async def test_however_the_llms_server_writes_its_events_the_client_gets_whole_ones(start: Start, name: str) -> None:
    written = list(map(OTHER_FRAMINGS[name], chunks(TEXT)))
    assert written != chunks(TEXT)
    async with start(Reply(written)) as daemon, sdk(daemon) as client:
        text, transcript, audio, taken = await heard(await client.chat.completions.create(**SPOKEN, stream=True))
    assert text == transcript.strip() == decode(audio) == TEXT
    assert taken[-1].usage.total_tokens == 10


async def test_an_answer_that_broke_off_by_its_reason_ends_with_an_error(start: Start) -> None:
    written = [event.replace(b'"stop"', b'"insufficient_system_resource"') for event in chunks(TEXT)]
    async with start(Reply(written)) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        with pytest.raises(openai.APIError):
            await heard(answer)


async def test_what_comes_after_the_end_is_not_waited_for(start: Start) -> None:
    async with start(Reply(chunks(TEXT), 200, SSE, End.HOLD)) as daemon, sdk(daemon) as client:
        _, transcript, _, _ = await heard(await client.chat.completions.create(**SPOKEN, stream=True))
        await daemon.llm.left.wait()
    assert transcript.strip() == TEXT


def test_the_blocking_sdk(start: Start) -> None:
    async def ask() -> str:
        async with start(TEXT) as daemon:

            def block() -> str:
                with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
                    parts = client.chat.completions.create(**SPOKEN, stream=True)
                    pcm = b""
                    for chunk in parts:
                        for choice in chunk.choices:
                            pcm += pcm_of(choice)
                    return decode(pcm)

            return await asyncio.to_thread(block)

    assert asyncio.run(ask()) == TEXT


RECORDED = sorted(path.stem for path in DATA.glob("*.sse") if not path.stem.startswith("anthropic"))


@pytest.mark.parametrize("name", RECORDED)
async def test_without_audio_the_bytes_are_the_llms(start: Start, name: str) -> None:
    async with start(Reply([stream(name)])) as daemon:
        async with daemon.http.post("/v1/chat/completions", json={**ASK, "stream": True}) as answer:
            assert await answer.read() == stream(name)
            assert answer.headers["Content-Type"] == SSE["Content-Type"]
        assert daemon.speech.texts() == []  # nothing was spoken


async def test_a_function_call_read_through_the_daemon_equals_the_one_read_directly(start: Start) -> None:
    call = [
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Rome"}'}}]},
    ]
    base = {"id": "chatcmpl-3", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
    choices: list[Any] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in call]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    events = [b"data: " + json.dumps({**base, "choices": [choice]}).encode() + b"\n\n" for choice in choices]
    reply = Reply([*events, b"data: [DONE]\n\n"])

    async def calls(url: str, asked: Any) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            parts = await client.chat.completions.create(**asked, stream=True)
            return [choice.to_dict() async for chunk in parts for choice in chunk.choices]

    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    async with start(reply) as daemon:
        direct = await calls(f"{daemon.llm.url}/v1", {**ASK, "tools": tools})
        assert await calls(f"{daemon.url}/v1", {**ASK, "tools": tools}) == direct
        assert await calls(f"{daemon.url}/v1", {**SPOKEN, "tools": tools, "logprobs": True}) == direct
        assert daemon.llm.requests[-1].body["tools"] == tools
        assert daemon.llm.requests[-1].body["logprobs"] is True
        assert daemon.speech.texts() == []


@pytest.mark.parametrize(
    ("change", "status", "says_so"),
    [
        ({"model": "other"}, 404, "there is no model 'other'"),
        ({"model": "http://example.com/"}, 404, "there is no model of that name"),
        ({"model": 5}, 400, "model: Expected str, got int"),
        ({"messages": []}, 400, "messages: Expected array of length >= 1"),
        ({"messages": "hello"}, 400, "messages: Expected array, got str"),
        ({"audio": None}, 400, "audio: it says which voice"),
        ({"audio": {"voice": "alloy", "format": "opus"}}, 400, "audio.format: no such audio format"),
        ({"audio": {"voice": "ws://example.com", "format": "pcm16"}}, 404, "there is no voice of that name"),
        ({"audio": {"voice": ["x"]}}, 400, "audio.voice: Expected str, got array"),
        ({"modalities": "audio"}, 400, "modalities: Expected array"),
        ({"stream": "yes"}, 400, "stream: Expected bool"),
    ],
)
async def test_requests_that_cannot_be_right(start: Start, change: dict[str, Any], status: int, says_so: str) -> None:
    async with start(TEXT) as daemon, sdk(daemon) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(**{**SPOKEN, **change})
        assert raised.value.status_code == status
        assert says_so in str(raised.value)
        assert isinstance(raised.value, openai.NotFoundError if status == 404 else openai.BadRequestError)
        assert daemon.llm.requests == []


@pytest.mark.parametrize("asked", [ASK, SPOKEN], ids=["text", "spoken"])
@pytest.mark.parametrize(
    ("status", "becomes"), [(400, 400), (404, 404), (422, 422), (429, 429), (401, 502), (403, 502), (500, 500), (503, 503)]
)
async def test_what_the_llms_server_refuses(start: Start, status: int, becomes: int, asked: Any) -> None:
    error = {"error": {"message": "no such luck", "type": "some_type", "param": None, "code": "some_code"}}
    async with start(json_reply(status, error)) as daemon, sdk(daemon) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(**asked, stream=True)
    assert raised.value.status_code == becomes
    if status == becomes:
        assert raised.value.code == "some_code"
    else:
        assert "operator" in str(raised.value)  # whose key it is


async def test_an_llm_that_repeats_its_key_is_not_repeated(start: Start) -> None:
    def echo_key(headers: str) -> Reply:
        return json_reply(400, {"error": {"message": f"bad key {headers}"}})

    async with start("") as daemon:
        async with daemon.http.post("/v1/chat/completions", json=ASK) as answer:
            await answer.read()
        key = daemon.llm.requests[0].headers["authorization"]
        daemon.llm._replies[:] = [echo_key(key)]
        async with daemon.http.post("/v1/chat/completions", json=ASK) as answer:
            assert answer.status == 400
            assert key.split()[1] not in await answer.text()


@pytest.mark.parametrize("asked", [ASK, SPOKEN], ids=["text", "spoken"])
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "later"])
async def test_nor_is_it_under_a_status_of_success(start: Start, asked: Any, begun: bool) -> None:
    async with start("") as daemon:
        async with daemon.http.post("/v1/chat/completions", json=ASK) as answer:
            await answer.read()
        key = daemon.llm.requests[0].headers["authorization"].split()[1]
        said = b'data: {"error": {"message": "Incorrect API key provided: ' + key.encode() + b'"}}\n\n'
        daemon.llm._replies[:] = [Reply([*(chunks("One. ", end=False) if begun else ()), said])]
        async with daemon.http.post("/v1/chat/completions", json={**asked, "stream": True}) as answer:
            body = await answer.text()
        assert answer.status == (200 if begun else 502)
    assert key not in body
    assert "cannot be used: its operator" in body
    assert "[DONE]" not in body


async def test_an_llm_that_is_not_there(start: Start) -> None:
    async with start(Reply(raw=b"", end=End.EOF)) as daemon, sdk(daemon) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            await client.chat.completions.create(**SPOKEN, stream=True)
    assert raised.value.status_code == 502
    assert "the LLM failed: try again" in str(raised.value)


@pytest.mark.parametrize("end", [End.CUT, End.RESET, End.EOF])
async def test_an_llm_that_dies_in_mid_answer_has_been_spoken_so_far(start: Start, end: End) -> None:
    cut = Reply(chunks("One sentence is here. And half of", end=False), 200, SSE, end)
    async with start(cut) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        pcm = b""
        with pytest.raises(openai.APIError, match="the LLM failed: try again"):
            async for chunk in answer:
                for choice in chunk.choices:
                    pcm += pcm_of(choice)
    assert decode(pcm) == "One sentence is here. And half of"


@pytest.mark.parametrize("spoken", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("first", [json_reply(503, {}), Reply(raw=b"", end=End.RESET)], ids=["503", "reset"])
async def test_another_llm_answers_where_the_first_cannot(start: Start, first: Reply, spoken: bool, streamed: bool) -> None:
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m-2", "choices": choices}
    async with replay(says(TEXT) if streamed else json_reply(200, whole)) as other:

        def two(settings: Settings) -> Settings:
            second = Llm(kind="openai", base_url=f"{other.url}/v1", model="m-2")
            scripted = replace(
                settings.llm["scripted"], failover=("parrot", "second")
            )  # of which the first cannot be relayed to
            return replace(settings, llm={"scripted": scripted, "second": second, "parrot": Llm(kind="echo")})

        async with start(first, change=two) as daemon, sdk(daemon) as client:
            asked = SPOKEN if spoken else ASK
            if streamed:
                text, transcript, _, _ = await heard(await client.chat.completions.create(**asked, stream=True))
            else:
                answer = (await client.chat.completions.create(**asked)).choices[0].message
                text, transcript = answer.content, answer.audio.transcript if answer.audio else ""
            assert (text, transcript.strip()) == (TEXT, TEXT if spoken else "")
        assert [request.body["model"] for request in other.requests] == ["m-2"]


@pytest.mark.parametrize("asked", [ASK, SPOKEN], ids=["text", "spoken"])
async def test_a_client_that_reads_nothing_is_let_go(start: Start, monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    monkeypatch.setattr(sending, "SLOW_CLIENT_S", 300 * MS)
    chunk = {"choices": [{"index": 0, "delta": {"reasoning": "x" * 100_000}}]}  # which is passed on, and not spoken
    flood = Reply([b"data: " + json.dumps(chunk).encode() + b"\n\n"] * 200, 200, SSE, End.HOLD)  # 20 MB
    async with start(flood) as daemon:
        async with daemon.http.post("/v1/chat/completions", json={**asked, "stream": True}):
            await daemon.llm.left.wait()
            await daemon.daemon.until_unused()
        assert not daemon.daemon.turns


async def test_an_llms_own_error_in_mid_answer_is_passed_on(start: Start) -> None:
    failed = Reply([*chunks("One sentence.", end=False), b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'])
    async with start(failed) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            await heard(answer)


async def test_a_lost_speech_connection_is_not_noticed(start: Start) -> None:
    speech = FaultySpeech(coding=CODING)
    async with start(TEXT, speech=speech) as daemon, sdk(daemon) as client:
        speech.drops.append(Drop(How.RESET, after_chars=20))
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        text, transcript, _, _ = await heard(answer)
    assert text == TEXT
    assert transcript.strip() == TEXT


async def test_an_endpoint_that_is_gone_is_an_error_in_the_stream(start: Start) -> None:
    speech = FaultySpeech(coding=CODING)
    async with start(TEXT, speech=speech) as daemon, sdk(daemon) as client:
        speech.drops.append(Drop(How.RESET, after_chars=1))
        speech.refusals.extend([401] * 9)
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        with pytest.raises(openai.APIError, match="operator"):
            await heard(answer)


def with_claude(url: str) -> Callable[[Settings], Settings]:
    """Another LLM behind the same address."""
    claude = Llm(kind="anthropic", base_url=url, model="claude", max_retries=0)
    return lambda settings: replace(settings, llm={**settings.llm, "claude": claude})


@pytest.mark.parametrize("asked", [ASK, SPOKEN], ids=["text", "spoken"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_another_llm_that_refuses_is_an_error_by_its_status(start: Start, asked: Any, streamed: bool) -> None:
    refusal = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    async with replay(json_reply(400, refusal)) as llm, start(change=with_claude(llm.url)) as daemon:
        async with daemon.http.post("/v1/chat/completions", json={**asked, "model": "claude", "stream": streamed}) as answer:
            assert (answer.status, answer.content_type) == (400, "application/json")
            assert "refused the request" in (await answer.json())["error"]["message"]


async def test_a_parameter_that_is_null_is_as_good_as_absent(start: Start) -> None:
    nulls = dict.fromkeys(("max_tokens", "temperature", "tools", "response_format", "stop", "stream", "modalities", "audio"))
    async with replay(Reply([stream("anthropic")])) as llm, start(change=with_claude(llm.url)) as daemon:
        async with daemon.http.post("/v1/chat/completions", json={**nulls, **ASK, "model": "claude"}) as answer:
            assert answer.status == 200
        assert isinstance(llm.requests[0].body["max_tokens"], int)
        assert not nulls.keys() - {"max_tokens", "stream"} & llm.requests[0].body.keys()


@pytest.mark.parametrize("model", ["scripted", "claude"])
@pytest.mark.parametrize("asked", [ASK, SPOKEN], ids=["text", "spoken"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_the_end_of_the_daemon_is_told(start: Start, model: str, asked: Any, streamed: bool, begun: bool) -> None:
    whole, said = stream("anthropic" if model == "claude" else "openai"), b"text_delta" if model == "claude" else b'"content"'
    half = whole[: whole.index(b"\n\n", whole.index(said)) + 2] if begun else b": ping\n\n" * (model == "claude")
    async with replay(Reply([half], 200, SSE, End.HOLD)) as llm:

        def both(settings: Settings) -> Settings:
            scripted = replace(settings.llm["scripted"], base_url=f"{llm.url}/v1")
            return with_claude(llm.url)(replace(settings, llm={"scripted": scripted}))

        async with start(change=both) as daemon:
            body = {**asked, "model": model, "stream": streamed}
            asking = asyncio.create_task(daemon.http.post("/v1/chat/completions", json=body).__aenter__())
            as_it_comes = streamed or (model == "scripted" and asked is ASK)
            if begun and as_it_comes:
                answer = await asking
                await answer.content.readany()
            await llm.holding.wait()
            for stop in list(daemon.daemon.turns):
                await stop()
            async with await asking as answer:
                assert answer.status == (200 if begun and as_it_comes else 503)
                assert '"code":"draining"' in (await answer.text()).replace(": ", ":")
        await llm.left.wait()


@pytest.mark.parametrize("asked", [ASK, SPOKEN], ids=["text", "spoken"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_tokens_are_counted(start: Start, asked: Any, streamed: bool) -> None:
    async with replay(Reply([stream("anthropic")])) as llm, start(TEXT, change=with_claude(llm.url)) as daemon:
        async with daemon.http.post("/v1/chat/completions", json={**asked, "model": "claude", "stream": streamed}) as answer:
            await answer.read()
        metrics = daemon.daemon.metrics
        counted = [value(metrics, f'llm2ws_tokens_total{{kind="{kind}"}}') for kind in ("prompt", "completion")]
        assert min(counted) > 0
        async with daemon.http.post("/v1/chat/completions", json={**SPOKEN, "stream": True}) as answer:
            await answer.read()
        assert value(metrics, 'llm2ws_tokens_total{kind="completion"}') == counted[1] + 7


async def test_other_llms_are_made_into_chunks(start: Start) -> None:
    def with_echo(settings: Any) -> Any:
        return replace(settings, llm={**settings.llm, "echo": Llm(kind="echo", tokens_per_s=0)})

    asked = {"model": "echo", "messages": [{"role": "user", "content": TEXT}]}
    async with start(change=with_echo) as daemon, sdk(daemon) as client:
        plain = await client.chat.completions.create(**asked)  # type: ignore[call-overload]
        assert plain.choices[0].message.content == TEXT
        text, transcript, audio, taken = await heard(await client.chat.completions.create(**asked, stream=True))  # type: ignore[call-overload]
        assert (text, transcript, audio) == (TEXT, "", b"")
        assert taken[-1].choices[0].finish_reason == "stop"
        speech = {**asked, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
        text, transcript, audio, taken = await heard(await client.chat.completions.create(**speech, stream=True))  # type: ignore[call-overload]
        assert (text, transcript.strip(), decode(audio)) == (TEXT, TEXT, TEXT)
        assert taken[-1].choices[0].finish_reason == "stop"
        with pytest.raises(openai.BadRequestError, match="tools"):
            await client.chat.completions.create(**asked, tools=[])  # type: ignore[call-overload]


async def test_the_models_that_can_be_asked(start: Start) -> None:
    async with start() as daemon, sdk(daemon) as client:
        assert [model.id async for model in client.models.list()] == ["scripted"]
        assert (await client.models.retrieve("scripted")).id == "scripted"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("other")
