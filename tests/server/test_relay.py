"""The plain relay, as curl, Python and Node read it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import urllib.request
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from llm2ws.settings.fields import ClientLimits, Llm, Server, Settings, SpeechLimits
from llm2ws.speech.dialects.deepgram_server import ClearIn, SpeakIn
from llm2ws.testing import Coding, Drop, FaultySpeech, How, decode
from tests.server.conftest import Running, Start, says
from tests.sources.replay import End, json_reply

ANSWER = "The sky is **blue**, because air scatters short waves. 🎉 At sunset it is red! It costs $3.50, Dr. Smith."
SPOKEN = "The sky is blue, because air scatters short waves. At sunset it is red! It costs $3.50, Dr. Smith."
ASK = {"prompt": "Why is the sky blue?"}

Events = list[tuple[str, dict[str, Any]]]


def parsed(text: str) -> Events:
    """Server-sent events, read by their definition as far as it is used."""
    events: Events = []
    for block in text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def text_of(events: Events) -> str:
    return "".join(data["delta"] for name, data in events if name == "text")


def audio_of(events: Events) -> bytes:
    return b"".join(base64.b64decode(data["data"]) for name, data in events if name == "audio")


async def chat(daemon: Running, body: object = ASK, query: str = "") -> Events:
    async with daemon.http.post(f"/chat{query}", json=body) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        return parsed(await answer.text())


# --- what comes -------------------------------------------------------------------------------------------------------------


async def test_the_text_the_audio_and_what_is_heard_of_it(start: Start) -> None:
    async with start(ANSWER) as daemon:
        events = await chat(daemon, query="?audio=1")
    assert text_of(events) == ANSWER
    assert decode(audio_of(events)) == SPOKEN
    assert {data["format"] for name, data in events if name == "audio"} == {"pcm16"}
    spans = [data for name, data in events if name == "spoken"]
    assert ANSWER[spans[0]["start"] : spans[0]["end"]].startswith("The sky is **blue**")
    assert all(a["end"] <= b["start"] for a, b in pairwise(spans))
    assert spans[-1]["end"] == len(ANSWER)
    name, done = events[-1]
    assert name == "done"
    assert (done["outcome"], done["reason"]) == ("done", "stop")
    assert done["stats"]["audio_s"] == round(len(audio_of(events)) / 48_000, 4)
    assert done["stats"]["first_token_s"] <= done["stats"]["first_audio_s"] <= done["stats"]["done_s"]


async def test_without_audio(start: Start) -> None:
    async with start(ANSWER) as daemon:
        for query in ("", "?audio=0", "?audio=false"):
            events = await chat(daemon, query=query)
            assert text_of(events) == ANSWER
            assert {name for name, _ in events} == {"text", "spoken", "done"}


async def test_a_conversation_and_names(start: Start) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "name": "ada", "content": [{"type": "text", "text": "Why?"}]},
    ]

    def more(settings: Any) -> Any:
        return replace(settings, llm={**settings.llm, "parrot": Llm(kind="echo")})

    async with start(ANSWER, change=more) as daemon:
        assert text_of(await chat(daemon, {"messages": messages, "llm": "scripted", "voice": "alloy"})) == ANSWER
        assert daemon.llm.requests[0].body["messages"] == messages
        events = await chat(daemon, {"prompt": "Say it back.", "llm": "parrot"}, "?audio=true")
        assert text_of(events) == decode(audio_of(events)) == "Say it back."


async def test_text_comes_while_the_llm_writes(start: Start) -> None:
    begun = "A whole sentence, with more to come. And"
    async with start(says(begun, end=End.HOLD)) as daemon:
        async with daemon.http.post("/chat?audio=1", json=ASK) as answer:
            text, audio = "", b""
            while text != begun or not decode(audio).endswith("come."):
                name, data = (await answer.content.readline()).decode(), (await answer.content.readline()).decode()
                await answer.content.readline()
                event = json.loads(data.removeprefix("data: "))
                text += event["delta"] if name == "event: text\n" else ""
                audio += base64.b64decode(event["data"]) if name == "event: audio\n" else b""
        await daemon.llm.left.wait()  # with its client gone, the LLM is not read any more
        await daemon.daemon.until_unused()


async def test_a_client_that_leaves_stops_the_speech_too(start: Start) -> None:
    async with start(ANSWER * 5, speech=FaultySpeech(coding=Coding(char_samples=2400), pace=1.0)) as daemon:
        async with daemon.http.post("/chat?audio=1", json=ASK):
            await daemon.speech.until(lambda speech: speech.frames > 0)
        await daemon.speech.until(lambda speech: speech.count(ClearIn) == 1)
        await daemon.daemon.until_unused()


# --- real clients -----------------------------------------------------------------------------------------------------------


async def output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs: curl")
async def test_curl(start: Start) -> None:
    async with start(ANSWER) as daemon:
        given = ("-H", "Content-Type: application/json", "-d", json.dumps(ASK), f"{daemon.url}/chat?audio=1")
        events = parsed(await output_of("curl", "-sSN", *given))
    assert text_of(events) == ANSWER
    assert decode(audio_of(events)) == SPOKEN


async def test_python_line_by_line(start: Start) -> None:
    async with start(ANSWER) as daemon:

        def read() -> str:
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{daemon.url}/chat?audio=1", json.dumps(ASK).encode(), headers)
            with urllib.request.urlopen(request) as answer:
                return "".join(line.decode() for line in answer)

        events = parsed(await asyncio.to_thread(read))
    assert text_of(events) == ANSWER
    assert decode(audio_of(events)) == SPOKEN


_NODE = """
const answer = await fetch(process.argv[1] + "/chat?audio=1", {
  method: "POST",
  headers: {"Content-Type": "application/json"},
  body: JSON.stringify({prompt: "Why is the sky blue?"}),
});
if (!answer.ok) throw new Error(await answer.text());
for await (const text of answer.body.pipeThrough(new TextDecoderStream())) process.stdout.write(text);
"""


@pytest.mark.node
async def test_node(start: Start) -> None:
    async with start(ANSWER) as daemon:
        events = parsed(await output_of("node", "--input-type=module", "-e", _NODE, daemon.url))
    assert text_of(events) == ANSWER
    assert decode(audio_of(events)) == SPOKEN


# --- what goes wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "query", "status", "words"),
    [
        ({}, "", 400, "prompt or messages"),
        ([], "", 400, "object"),
        ("Hello.", "", 400, "object"),
        ({"prompt": ""}, "", 400, "empty"),
        ({"prompt": " \n"}, "", 400, "empty"),
        ({"prompt": 7}, "", 400, "str"),
        ({"prompt": ["Hello."]}, "", 400, "str"),
        ({"prompt": "Hello.", "messages": [{"role": "user", "content": "Hello."}]}, "", 400, "either"),
        ({"messages": []}, "", 400, "length >= 1"),
        ({"messages": "Hello."}, "", 400, "array"),
        ({"messages": ["Hello."]}, "", 400, "object"),
        ({"messages": [{"content": "Hello."}]}, "", 400, "messages[0].role"),
        ({"messages": [{"role": 7, "content": "Hello."}]}, "", 400, "messages[0].role"),
        ({"prompt": "Hello.", "promt": "Hello."}, "", 400, "unknown field"),
        ({"prompt": "Hello.", "llm": "http://other"}, "", 404, "scripted"),
        ({"prompt": "Hello.", "llm": 7}, "", 400, "str"),
        ({"prompt": "Hello.", "voice": "no/body"}, "", 404, "alloy"),
        ({"prompt": "Hello."}, "?audio=maybe", 400, "audio"),
    ],
)
async def test_a_bad_request_is_explained(
    start: Start, body: object, query: str, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with start("It serves on.") as daemon:
        async with daemon.http.post(f"/chat{query}", json=body) as answer:
            error = (await answer.json())["error"]
            assert answer.status == status
            assert words in error["message"]
        assert text_of(await chat(daemon)) == "It serves on."
    assert [
        record for record in caplog.records if record.name.startswith(("llm2ws.", "aiohttp")) and record.levelno >= 30
    ] == []


async def test_an_llm_that_refuses_is_an_error_by_its_status(start: Start) -> None:
    refusal = json_reply(429, {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}})
    async with start(refusal) as daemon, daemon.http.post("/chat", json=ASK) as answer:
        assert answer.status == 429
        assert (await answer.json())["error"]["code"] == "rate_limit_exceeded"
        assert daemon.speech.count(SpeakIn) == 0


async def test_an_llm_that_breaks_off_is_told_after_what_it_said(start: Start) -> None:
    async with start(says("The sky is blue. It is", end=End.CUT)) as daemon:
        events = await chat(daemon, query="?audio=1")
    assert text_of(events) == "The sky is blue. It is"
    assert decode(audio_of(events)) == "The sky is blue. It is"
    assert [name for name, _ in events][-2:] == ["error", "done"]
    assert events[-2][1]["code"] == "upstream_error"
    assert events[-1][1]["outcome"] == "cut short"


async def test_an_endpoint_that_fails_is_told(start: Start) -> None:
    async with start(ANSWER) as daemon:
        daemon.speech.drops.append(Drop(How.RESET, at_frame=1))
        daemon.speech.refusals.extend([401] * 5)
        events = await chat(daemon, query="?audio=1")
    assert [name for name, _ in events][-2:] == ["error", "done"]
    assert "operator" in events[-2][1]["message"]
    assert events[-1][1]["outcome"] == "lost"


async def test_a_lost_connection_is_told_and_the_rest_is_heard(start: Start) -> None:
    async with start(ANSWER) as daemon:
        daemon.speech.drops.append(Drop(How.RESET, at_frame=2))
        events = await chat(daemon, query="?audio=1")
    assert [data["kind"] for name, data in events if name == "notice"] == ["resumed"]
    assert events[-1][1]["outcome"] == "done"


async def test_a_limit_that_holds_speech_back_is_told(start: Start) -> None:
    def few(settings: Settings) -> Settings:
        limits = SpeechLimits(chars_per_window=60)
        return replace(settings, speech={"faulty": replace(settings.speech["faulty"], limits=limits)})

    async with start(ANSWER * 3, change=few) as daemon:
        async with daemon.http.post("/chat?audio=1", json=ASK) as answer:
            while (await answer.content.readline()) != b"event: notice\n":
                pass
            notice = json.loads((await answer.content.readline()).removeprefix(b"data: "))
        assert notice["kind"] == "delayed"
        assert "limit on characters" in notice["message"]
        await daemon.daemon.until_unused()


async def test_limits_and_the_end_of_the_daemon(start: Start) -> None:
    async with start(ANSWER, server=Server(limits=ClientLimits(turn_speech_s=0.05))) as daemon:
        assert (await chat(daemon, query="?audio=1"))[-1][1]["outcome"] == "speech limit"
    async with start(says("word " * 100, end=End.HOLD), server=Server(limits=ClientLimits(text_chars=100))) as daemon:
        assert (await chat(daemon))[-1][1]["outcome"] == "text limit"
        await daemon.llm.left.wait()
    async with start(says("The sky is blue. It is", end=End.HOLD)) as daemon:
        asked = asyncio.create_task(chat(daemon))
        await daemon.speech.until(lambda speech: speech.frames > 0)
        for stop in list(daemon.daemon.turns):
            await stop()
        assert (await asked)[-1][1]["outcome"] == "shutdown"
