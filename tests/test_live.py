"""scripts/live, with local servers in place of the vendors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from llm2ws.testing import Coding, FaultySpeech
from tests.sources.asking import chunk, refusal
from tests.sources.replay import Reply, replay
from tests.support import ROOT, assert_no_canary, child_environment
from tests.vendors.rows import ROWS

TEXT = "Sunlight is made of all colours. Air scatters the short waves most. So the sky is blue, and sunsets are red."
ANSWER = Reply([chunk(f"{word} ") for word in TEXT.split()] + [chunk(reason="stop") + b"data: [DONE]\n\n"])


def live(tmp_path: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(ROOT / "scripts" / "live.py")]
    done = subprocess.run(command, cwd=tmp_path, env=child_environment(env), capture_output=True, text=True, check=False)
    assert_no_canary(done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
    return done


def settings(llm: str, speech: FaultySpeech, key: str) -> dict[str, str]:
    at = {
        "OPENAI_BASE_URL": llm,
        "OPENAI_API_KEY": key,
        "LLM2WS_LLM__OPENAI__MODEL": "m",
        "LLM2WS_LLM__OPENAI__MAX_RETRIES": "0",
    }
    return at | {"DEEPGRAM_API_KEY": key, "LLM2WS_SPEECH__DEEPGRAM__URL": speech.url}


async def test_the_report(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with replay(ANSWER) as server, FaultySpeech(key=key, pace=20.0) as speech:
        done = await asyncio.to_thread(live, tmp_path, settings(server.url, speech, key))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows[1:]] == [["| openai over deepgram", "done"], ["| deepgram interrupted", "interrupted"]]
    assert "finish stop" in rows[1][2]
    assert "next turn done on the same connection" in rows[2][2]
    assert "Sunlight" not in done.stdout
    assert server.requests[0].body["max_tokens"] == 300


async def test_every_endpoint_is_in_the_report(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with AsyncExitStack() as stack:
        env = dict[str, str]()
        for row in ROWS:
            server = await stack.enter_async_context(row.server(coding=Coding(char_samples=1_440), key=key, pace=20.0))
            name = f"LLM2WS_SPEECH__{row.dialect.upper().replace('-', '_')}"
            env |= {f"{name}__URL": server.url, f"{name}__API_KEY": key}
        done = await asyncio.to_thread(live, tmp_path, env)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    endpoints = [row.dialect for row in ROWS]
    spoken = [[f"| echo over {name}", "done"] for name in endpoints]
    assert [row[:2] for row in rows] == spoken + [[f"| {name} interrupted", "interrupted"] for name in endpoints]
    assert all("on the same connection" in row[2] for row in rows[len(ROWS) :])


async def test_a_failure_is_in_the_report(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with replay(refusal(401)) as server, FaultySpeech(key=key) as speech:
        done = await asyncio.to_thread(live, tmp_path, settings(server.url, speech, key))
    assert done.returncode == 1
    assert "| openai over deepgram | FAILED | SourceError: m at 127.0.0.1:" in done.stdout


def test_without_keys_there_is_nothing_to_try(tmp_path: Path) -> None:
    done = live(tmp_path, {})
    assert (done.returncode, done.stdout) == (2, "")
    keys = "DEEPGRAM_API_KEY, ELEVENLABS_API_KEY, CARTESIA_API_KEY, ANTHROPIC_API_KEY, OPENAI_API_KEY"
    assert done.stderr == f"llm2ws: there is nothing to try: set one of {keys}\n"
