"""`llm2ws serve` as a process of its own, and what it writes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from llm2ws.testing import FaultySpeech
from tests.server.conftest import CODING, says
from tests.server.test_chat import TEXT
from tests.sources.replay import Reply, replay
from tests.sources.replay import Server as Llms
from tests.support import MS, assert_no_canary
from tests.support import start as start_process


class Process:
    """`llm2ws serve` as a process. What it writes is kept, a line at a time."""

    def __init__(self, pid: int, lines: asyncio.Queue[str], ended: asyncio.Future[int], llm: Llms) -> None:
        self.url = ""  # known when it listens
        self.pid, self.llm = pid, llm
        self._lines, self._ended = lines, ended

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def line(self, holding: str) -> str:
        """The next line on its standard error that holds this."""
        async with asyncio.timeout(20_000 * MS):
            while holding not in (line := await self._lines.get()):
                pass
        return line

    async def code(self) -> int:
        async with asyncio.timeout(20_000 * MS):
            return await asyncio.shield(self._ended)


@asynccontextmanager
async def process(
    folder: Path,
    *replies: str | Reply,
    key: str = "",
    server: str = "",
    speech: FaultySpeech | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Process]:
    """The command, with a scripted LLM and a speech endpoint that live in this process."""
    answers = [says(reply) if isinstance(reply, str) else reply for reply in replies or [TEXT]]
    loop = asyncio.get_running_loop()
    async with replay(*answers) as llm, speech or FaultySpeech(coding=CODING, key=key or None) as voice:
        config = folder / "llm2ws.toml"
        config.write_text(
            f'log = "info"\n[server]\nlisten = "127.0.0.1:0"\n{server}\n'
            f'[llm.scripted]\nkind = "openai"\nbase_url = "{llm.url}/v1"\nmodel = "m-1"\napi_key = "{key}"\n'
            f'[speech.faulty]\ndialect = "deepgram"\nurl = "{voice.url}"\napi_key = "{key}"\n'
        )
        child = start_process(["serve", "--config", config], cwd=folder, env=env)
        lines: asyncio.Queue[str] = asyncio.Queue()
        seen: list[str] = []

        def read() -> None:
            assert child.stderr is not None
            for raw in child.stderr:
                seen.append(raw.decode(errors="replace"))
                loop.call_soon_threadsafe(lines.put_nowait, seen[-1])

        reading = asyncio.create_task(asyncio.to_thread(read))
        ended = asyncio.ensure_future(asyncio.to_thread(child.wait))
        try:
            one = Process(child.pid, lines, ended, llm)
            one.url = json.loads(await one.line("listening on "))["event"].removeprefix("listening on ")
            yield one
        finally:
            child.kill()
            await ended
            await reading
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            child.stderr.close()
        text = "".join(seen)
        assert_no_canary(text, "the log")
        assert "Traceback" not in text
