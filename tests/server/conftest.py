"""A daemon on a free port, in this process or as one of its own, with a scripted LLM behind it and a speech endpoint."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from llm2ws.server import openapi
from llm2ws.server.app import APIS
from llm2ws.server.daemon import Daemon
from llm2ws.server.run import running
from llm2ws.settings.fields import Llm, Secret, Server, Settings, Speech
from llm2ws.testing import Coding, FaultySpeech, tokens
from tests.sources.replay import SSE, End, Reply, replay
from tests.sources.replay import Server as Llms

# What the OpenAPI document describes, as "METHOD /path".
OPERATIONS = {f"{route.method} {route.path}" for api in (*APIS, openapi.api(APIS)) for route in api.routes if route.summary}

# Speech that tells its characters, short enough to be handled quickly.
CODING = Coding(char_samples=24, word_pause_s=0.004, sentence_pause_s=0.01, lead_in_s=0.0)


def chunks(text: str, *, end: bool = True) -> list[bytes]:
    """The stream in which OpenAI would give `text`, an event a token."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}

    def one(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return b"data: " + json.dumps({**base, "choices": [choice]}).encode() + b"\n\n"

    events = [one({"role": "assistant", "content": ""}), *(one({"content": token}) for token in tokens(text))]
    usage = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
    last = b"data: " + json.dumps({**base, "choices": [], "usage": usage}).encode() + b"\n\n"
    return [*events, one({}, "stop"), last, b"data: [DONE]\n\n"] if end else events


def says(text: str, *, end: End = End.CHUNK) -> Reply:
    """A reply of the scripted LLM; with `End.HOLD` it stops in mid-answer until its client leaves."""
    return Reply(chunks(text, end=end is End.CHUNK), 200, SSE, end)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the daemon logged as a warning or an error, with tracebacks."""
    ours = [record for record in caplog.records if record.name.startswith(("llm2ws.", "aiohttp."))]
    return [caplog.handler.format(record) for record in ours if record.levelno >= logging.WARNING]


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon with all that is around it."""

    daemon: Daemon
    llm: Llms
    speech: FaultySpeech
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.daemon.url


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(canary: Callable[[], str]) -> Start:
    """`async with start("What the LLM answers.") as running`: LLM "scripted", speech "faulty".

    `replies`: what the LLM's server answers instead, one after another. `server`: fields of [server]. `settings`: changes
    the settings before they are used.
    """

    @asynccontextmanager
    async def begin(
        *replies: str | Reply,
        server: Server = Server(),
        speech: FaultySpeech | None = None,
        change: Callable[[Settings], Settings] = lambda settings: settings,
    ) -> AsyncIterator[Running]:
        answers: Sequence[Reply] = [says(reply) if isinstance(reply, str) else reply for reply in replies or ["Hello."]]
        key, llm_key = canary(), canary()
        async with replay(*answers) as llm, speech or FaultySpeech(coding=CODING, key=key) as voice:
            settings = Settings(
                llm={"scripted": Llm(kind="openai", base_url=f"{llm.url}/v1", model="m-1", api_key=Secret(llm_key))},
                speech={"faulty": Speech(dialect="deepgram", url=voice.url, api_key=Secret(voice.key or ""), silence_s=5.0)},
                server=replace(server, listen="127.0.0.1:0" if server.listen == Server().listen else server.listen),
            )
            async with running(change(settings)) as daemon, aiohttp.ClientSession(daemon.url) as http:
                yield Running(daemon, llm, voice, http)

    return begin


@asynccontextmanager
async def slow(daemon: Running) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose socket holds little, so that what it does not read waits in the daemon."""

    def small(address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        return made

    connector = aiohttp.TCPConnector(socket_factory=small)
    async with aiohttp.ClientSession(daemon.url, connector=connector, read_bufsize=8_192) as http:
        yield http
