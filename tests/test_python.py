"""Every program of docs/python.md is run and checked by mypy --strict; together they use every public name."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import aiohttp
import pytest
from aiohttp import web
from starlette.testclient import TestClient

import llm2ws
import llm2ws.testing
from llm2ws.testing import FaultySpeech, decode
from tests.server.conftest import CODING, says
from tests.sources.replay import Reply, replay, stream
from tests.support import MS, ROOT, child_environment

PAGE = (ROOT / "docs" / "python.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {name: found[1] for name, text in SECTIONS.items() if (found := FENCED.search(text))}
ANSWER = "Because of the air. It scatters blue light more than red light, and so it comes from all sides."


def test_each_section_but_the_last_has_one_program() -> None:
    assert len(BLOCKS) == PAGE.count("```python\n") == PAGE.count("\n## ") - 1
    assert len(re.findall(r"^```", PAGE, re.MULTILINE)) == 2 * len(BLOCKS)


def test_every_public_name_is_in_a_program() -> None:
    used = {
        (node.module, alias.name)
        for block in BLOCKS.values()
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for module, name in used if module == "llm2ws"} == set(llm2ws.__all__)
    assert {name for module, name in used if module == "llm2ws.testing"} <= set(llm2ws.testing.__all__)


def test_every_error_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(llm2ws.errors.__all__)
    for name, what, more in rows:
        error = getattr(llm2ws, name)
        instance = error("x", waited_s=1.0) if name == "SlowConsumerError" else error("x")
        assert all(hasattr(instance, attribute) for attribute in re.findall(r"`(\w+)`", more)), name
        assert all(issubclass(error, getattr(llm2ws, base)) for base in re.findall(r"^a `(\w+)`", what)), name


def test_mypy_finds_nothing(tmp_path: Path) -> None:
    files = []
    for number, block in enumerate(BLOCKS.values()):
        file = tmp_path / f"program_{number}.py"
        file.write_text(block)
        files.append(str(file))
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    command = [sys.executable, "-m", "mypy", "--strict", *settings, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def program(name: str) -> str:
    """The program of a section, for a server that is not OpenAI's and a machine without a loudspeaker."""
    named = re.sub(r"\b(openai_chat)\((\w+|\"[^\"]*\")\)", r'\1(\2, model="m")', BLOCKS[name])
    named = named.replace("ModelOptions(", 'ModelOptions(model="m", ')
    return named.replace("Player(speech.format)", 'Player(speech.format, device="null")')


@pytest.fixture
def ran(tmp_path: Path, canary: Callable[[], str]) -> Callable[..., str]:
    """Run a program. Gives what it wrote to standard output."""

    def run(name: str, llm: str = "http://127.0.0.1:9") -> str:
        keys = {"OPENAI_API_KEY": canary(), "OPENAI_BASE_URL": f"{llm}/v1"}
        keys |= {"ANTHROPIC_API_KEY": canary(), "ANTHROPIC_BASE_URL": llm}
        done = subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", program(name)],
            cwd=tmp_path,
            env=child_environment(keys),
            capture_output=True,
            timeout=60_000 * MS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
        return done.stdout.decode()

    return run


async def test_an_answer_is_spoken(ran: Callable[..., str], tmp_path: Path) -> None:
    async with replay(says(ANSWER)) as llm:
        await asyncio.to_thread(ran, "Speak an answer", llm.url)
        assert llm.requests[0].body["messages"] == [{"role": "user", "content": "Why is the sky blue?"}]
    with wave.open(str(tmp_path / "sky.wav")) as file:
        assert 3.0 < file.getnframes() / file.getframerate() < 12.0


async def test_events(ran: Callable[..., str]) -> None:
    async with replay(says(ANSWER)) as llm:
        lines = (await asyncio.to_thread(ran, "What a turn tells", llm.url)).splitlines()
    said = next(line for line in lines if "characters" in line)
    assert re.fullmatch(r"0\.00 s: characters 0 to \d+ are said as 'Because of the air\. ?'", said), said
    assert any(re.fullmatch(r"\d\.\d\d s: \d+ bytes", line) for line in lines)
    assert "the model stopped: stop" in lines
    assert re.fullmatch(r"done: \d+\.\d s of audio, the first after \d+\.\d\d s", lines[-1])


async def test_errors(ran: Callable[..., str]) -> None:
    done, source, connection, config = (await asyncio.to_thread(ran, "Errors")).splitlines()
    assert done == "done"
    assert source == "the answer is not whole (HTTP None), try again"
    assert re.fullmatch(r"no connection \(HTTP None\), try again after [\d.]+ s", connection)
    assert re.match(r"speech endpoint 'deepgramm' is not known: give one of deepgram, .* $", config)


async def test_barge_in(ran: Callable[..., str]) -> None:
    """The model is reminded of what was heard, and of no more."""
    async with replay(says(ANSWER * 2), says("Then it is dark.")) as llm:
        shown = await asyncio.to_thread(ran, "Barge-in", llm.url)
        messages = llm.requests[1].body["messages"]
    assert re.fullmatch(r"heard '.*', not heard '.*'\n", shown)
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    heard = messages[1]["content"]
    assert (ANSWER * 2).startswith(heard)
    assert len(heard) < len(ANSWER * 2)


async def test_pushed_text(ran: Callable[..., str], tmp_path: Path) -> None:
    await asyncio.to_thread(ran, "Text that is pushed")
    assert (tmp_path / "sky.pcm").stat().st_size > 48_000


async def test_other_sources(ran: Callable[..., str]) -> None:
    async with replay(*[Reply([stream("responses")])] * 3, Reply([stream("anthropic")])) as llm:
        lines = (await asyncio.to_thread(ran, "Other sources", llm.url)).splitlines()
        assert [request.path.partition("?")[0] for request in llm.requests] == [
            *["/v1/responses"] * 3,
            "/v1/messages",
        ]
        assert llm.requests[2].body["max_output_tokens"] == llm.requests[3].body["max_tokens"] == 100
    assert len(lines) == 7
    assert all(re.fullmatch(r"[1-9]\d*\.\d s of audio", line) for line in lines), lines


async def test_a_vendors_sdk(ran: Callable[..., str], tmp_path: Path) -> None:
    async with replay(says(ANSWER)) as llm:
        await asyncio.to_thread(ran, "A vendor's SDK", llm.url)
        assert llm.requests[0].body["stream"] is True
    with wave.open(str(tmp_path / "sky.wav")) as file:
        assert 3.0 < file.getnframes() / file.getframerate() < 12.0


async def test_options(ran: Callable[..., str]) -> None:
    shown = await asyncio.to_thread(ran, "Options of `connect`")
    assert re.fullmatch(r"[23]\.\d s in mulaw 8000 Hz; the model wrote \d+ characters\n", shown), shown


def test_testing(ran: Callable[..., str]) -> None:
    ran("Testing")


def module(name: str, monkeypatch: pytest.MonkeyPatch, llm: str, speech: str, key: str) -> ModuleType:
    """An application as a module. It asks and speaks where the test says."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{llm}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", key)
    spec = importlib.util.spec_from_loader("application", loader=None)
    assert spec
    loaded = importlib.util.module_from_spec(spec)
    exec(program(name).replace("connect(", f"connect({speech!r}, ").replace(", )", ")"), loaded.__dict__)
    return loaded


async def test_aiohttp(monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]) -> None:
    async with replay(says("One two three."), says("Four five.")) as llm, FaultySpeech(coding=CODING) as speech:
        runner = web.AppRunner(module("In an aiohttp application", monkeypatch, llm.url, speech.url, canary()).make_app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{runner.addresses[0][1]}/talk") as ws:
                for text in ("One two three.", "Four five."):
                    await ws.send_str("Count.")
                    audio = b""
                    while (message := await ws.receive()).type is aiohttp.WSMsgType.BINARY:
                        audio += message.data
                    assert message.json() == {"done": text}
                    assert decode(audio) == text
        await runner.cleanup()
        assert speech.connections == 1


async def test_fastapi(monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]) -> None:
    async with replay(says("One two three.")) as llm, FaultySpeech(coding=CODING) as speech:
        client = TestClient(module("In a FastAPI application", monkeypatch, llm.url, speech.url, canary()).app)
        answer = await asyncio.to_thread(client.get, "/say", params={"question": "Count."})
    assert answer.headers["content-type"] == "audio/pcm;rate=24000"
    assert decode(answer.content) == "One two three."
