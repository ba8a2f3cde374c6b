"""What Ctrl+C and SIGTERM do to a command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from llm2ws.speech.dialects.deepgram_server import ClearIn
from llm2ws.testing import FaultySpeech
from tests.command.spoken import NULL, SENTENCE
from tests.support import MS, start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interruption_reaches_the_endpoint_and_what_was_heard_is_told(tmp_path: Path, number: signal.Signals) -> None:
    async with FaultySpeech(pace=1.0) as speech:  # so that audio is owed
        args = ["say", SENTENCE * 20, "--speech", speech.url, "--json"]
        process = await asyncio.to_thread(start, args, cwd=tmp_path, env=NULL)
        with process:
            assert process.stdout
            events: list[dict[str, object]] = []
            while not events or events[-1]["event"] != "said":
                events.append(json.loads(await asyncio.to_thread(process.stdout.readline)))
            process.send_signal(number)
            rest = await asyncio.to_thread(process.stdout.read)
            assert process.stderr
            assert b"Traceback" not in process.stderr.read()
            assert await asyncio.to_thread(process.wait) == 130
        last = json.loads(rest.splitlines()[-1])
        assert last["event"] == "interrupted"
        assert (SENTENCE * 20).startswith(last["heard"])
        assert speech.count(ClearIn) == 1


def test_a_second_interruption_does_not_wait(tmp_path: Path) -> None:
    """What is in the way here is a pipe without a reader, which cannot be opened."""
    os.mkfifo(tmp_path / "pipe.raw")
    with start(["say", "Hello.", "-o", "pipe.raw"], cwd=tmp_path) as process:
        assert process.stderr
        assert b"Hz)" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(100 * MS)
            except subprocess.TimeoutExpired:
                continue
        assert process.wait() == 130
