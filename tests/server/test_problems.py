"""What clients are told of failures behind the daemon: enough to go on with, and nothing of what is behind it."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from llm2ws import errors
from llm2ws.errors import ConnectFailed, Llm2wsError, SlowConsumerError, SourceError, TurnLost, UnknownName
from llm2ws.server.problems import to_problem
from llm2ws.settings.fields import Settings
from llm2ws.testing import Drop, How
from tests.server.conftest import Running, Start
from tests.server.test_chat import ASK, SPOKEN, TEXT
from tests.sources.replay import End, Reply, json_reply

# An address, a setting, a variable, a model's or a server's own name.
BEHIND = re.compile(r"127\.0\.0\.1|://|m-1 at|_API_KEY|api_key|base_url|stall_s|silence_s|connect_s|\burl\b", re.IGNORECASE)
SECRET = "ws://10.0.0.7:8080/v1/speak: nothing listens there"


@pytest.mark.parametrize(
    ("exc", "status", "words"),
    [
        (SourceError(SECRET, hint="set base_url", retry=True), 502, "try again"),
        (SourceError(SECRET, hint="set base_url"), 502, "operator"),
        (SourceError(SECRET, status=400), 400, "parameters"),
        (SourceError(SECRET, status=401), 502, "operator"),
        (SourceError(SECRET, status=404), 404, "another model"),
        (SourceError(SECRET, status=413), 413, "shorten"),
        (SourceError(SECRET, status=429), 429, "later"),
        (ConnectFailed(SECRET, status=400), 400, "another voice"),
        (ConnectFailed(SECRET, status=401), 502, "operator"),
        (ConnectFailed(SECRET, status=429, retry_s=1.0), 429, "later"),
        (ConnectFailed(SECRET, retry_s=1.0), 502, "try again"),
        (TurnLost(SECRET), 502, "try again"),
        (SlowConsumerError("the client took nothing for 60 s", hint="take it faster", waited_s=60.0), 408, "faster"),
        (UnknownName("there is no voice 'x'", hint="give alloy"), 404, "alloy"),
        (Llm2wsError(SECRET), 500, "bug"),
    ],
)
def test_what_a_client_is_told(exc: Llm2wsError, status: int, words: str) -> None:
    problem = to_problem(exc)
    assert problem.status == status
    assert words in problem.message
    assert not BEHIND.search(problem.message), problem.message


def test_every_error_has_something_to_tell() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__]
    for kind in kinds:
        extra: Any = {"waited_s": 1.0} if kind is SlowConsumerError else {}
        assert to_problem(kind("what", **extra)).status >= 400


# --- through every face -----------------------------------------------------------------------------------------------------


async def posted(daemon: Running, path: str, body: object) -> str:
    async with daemon.http.post(path, json=body) as answer:
        return await answer.text() + str(dict(answer.headers))


async def over_speak(daemon: Running) -> str:
    said = []
    try:
        async with daemon.http.ws_connect("/v1/speak") as ws:
            await ws.send_json({"type": "Speak", "text": TEXT})
            await ws.send_json({"type": "Close"})
            async for message in ws:
                said += [message.data] if message.type is aiohttp.WSMsgType.TEXT else []
    except aiohttp.WSServerHandshakeError as exc:
        said += [str(exc.headers)]
    return "".join(said)


async def over_realtime(daemon: Running) -> str:
    said = ""
    content = [{"type": "input_text", "text": "Why?"}]
    async with daemon.http.ws_connect("/v1/realtime") as ws:
        await ws.send_json(
            {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}
        )
        await ws.send_json({"type": "response.create"})
        async for message in ws:
            said = message.data
            if json.loads(said)["type"] == "response.done":
                return str(json.loads(said)["response"]["status_details"])
    return said


async def all_faces(daemon: Running) -> list[str]:
    return [
        await posted(daemon, "/v1/chat/completions", ASK),
        await posted(daemon, "/v1/chat/completions", {**ASK, "stream": True}),
        await posted(daemon, "/v1/chat/completions", {**SPOKEN, "stream": True}),
        await posted(daemon, "/v1/audio/speech", {"input": TEXT, "stream_format": "sse"}),
        await posted(daemon, "/chat", {"prompt": "Why?"}),
        await over_speak(daemon),
        await over_realtime(daemon),
    ]


@pytest.mark.parametrize(
    "reply",
    [json_reply(401, {}), json_reply(503, {}), Reply(raw=b"", end=End.RESET), Reply([b"<html>"], headers={})],
    ids=["401", "503", "reset", "HTML"],
)
async def test_of_an_llm_that_fails(start: Start, reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    async with start(reply) as daemon:
        for said in await all_faces(daemon):
            assert not BEHIND.search(said), said
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("llm2ws.server")]
    assert [line for line in logged if "m-1 at 127.0.0.1" in line]  # the operator is told all


@pytest.mark.parametrize("status", [401, 403, 404, 500])
async def test_of_a_speech_endpoint_that_fails(start: Start, status: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def soon(settings: Settings) -> Settings:
        return replace(settings, speech={"faulty": replace(settings.speech["faulty"], connect_s=0.5)})

    async with start(TEXT, change=soon) as daemon:
        daemon.speech.drops.append(Drop(How.RESET, at_frame=1))  # of the connection that is open already
        daemon.speech.refusals.extend([status] * 1_000)
        told_all = (await all_faces(daemon))[2:]  # the others need none
        for said in told_all:
            assert "speech endpoint" in said
            assert not BEHIND.search(said), said
        daemon.speech.refusals.clear()
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("llm2ws.server")]
    assert [line for line in logged if line.startswith("speech endpoint ws://127.0.0.1:")]  # the operator is told all
