"""Schemathesis, which makes requests of the OpenAPI document, those that fit it and those that do not, finds nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace

from llm2ws.server.openapi import PATH
from llm2ws.settings.fields import ClientLimits, Llm, Server, Settings, SpeechLimits
from llm2ws.speech.dialects.deepgram_server import ServerLimits
from llm2ws.testing import FaultySpeech
from tests.server.conftest import CODING, OPERATIONS, Start, chunks
from tests.support import child_environment

CHECKS = (
    "not_a_server_error,content_type_conformance,response_schema_conformance,negative_data_rejection,positive_data_acceptance"
)


@asynccontextmanager
async def agreeable_llm() -> AsyncIterator[str]:
    """A server of Chat Completions that answers whatever it is asked. Gives its URL."""
    message = {"role": "assistant", "content": "Yes."}
    whole = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }

    async def answer(request: web.Request) -> web.Response:
        if (await request.json()).get("stream"):
            return web.Response(body=b"".join(chunks("Yes.")), content_type="text/event-stream")
        return web.json_response(whole)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.mark.soak
async def test_it_finds_nothing(start: Start, tmp_path: Path) -> None:
    async with agreeable_llm() as url:

        def change(settings: Settings) -> Settings:
            without = SpeechLimits(chars_per_window=10**9, flushes_per_window=10**9)
            speech = {"faulty": replace(settings.speech["faulty"], limits=without)}
            return replace(settings, llm={"scripted": Llm(kind="openai", base_url=url, model="m-1")}, speech=speech)

        server = Server(limits=ClientLimits(messages_per_s=10**6))
        speech = FaultySpeech(coding=CODING, limits=ServerLimits())
        async with start(server=server, speech=speech, change=change) as daemon:
            options = ["--checks", CHECKS, "--max-examples", "30", "--suppress-health-check", "all", "--no-color"]
            command: Any = [sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}{PATH}", *options]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=tmp_path,
                env=child_environment(),
            )
            said = (await process.communicate())[0].decode()
            async with daemon.http.get("/healthz") as alive:
                assert alive.status == 200
    assert process.returncode == 0, said
    assert f"{len(OPERATIONS) - 1} passed" in said, said  # all but the document itself, which it has read already
