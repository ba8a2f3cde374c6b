"""`llm2ws say` with LLMs: local servers that answer as the real ones do, whole answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from llm2ws.settings.fields import TextSettings
from llm2ws.settings.text import cleaner
from llm2ws.speech.dialects.deepgram_server import FlushIn
from llm2ws.testing import FaultySpeech
from tests.command.llms import DONE, STORY, answer, llm
from tests.sources.asking import chunk, delta, event
from tests.sources.replay import WHOLE, End, Reply, replay, stream
from tests.support import child_environment, run, start


def words(text: str) -> str:
    clean = cleaner(TextSettings())
    return " ".join("".join(piece.text for piece in clean.feed(text) + clean.finish()).split())


# --- answers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["openai", "ollama", "vllm_old", "vllm_new", "llamacpp_old", "llamacpp_new", "openrouter", "anthropic"]
)
async def test_the_answer_of_every_server_is_spoken_whole(tmp_path: Path, name: str) -> None:
    kind = "anthropic" if name == "anthropic" else "openai"
    async with replay(Reply([stream(name)])) as server, FaultySpeech() as speech:
        args = ["say", "Why?", "--speech", speech.url, "--no-play", "--json"]
        done = await asyncio.to_thread(run, args, cwd=tmp_path, env=llm(server, kind))
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.code, last["event"], last["outcome"]) == (0, "done", "done"), done.stderr
    assert last["stats"]["source_chars"] == len(WHOLE)
    assert " ".join("".join(speech.texts()).split()) == words(WHOLE)
    assert isinstance(speech.log[-2].message, FlushIn), "the last one before Close"


async def test_the_vendors_variables_and_flags_are_all_it_takes(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with replay(answer(*STORY)) as server, FaultySpeech() as speech:
        flags = ["--model", "m", "--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "50"]
        args = ["say", "A story.", "--speech", speech.url, "--no-play", *flags]
        env = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"{server.url}/v1"}
        who = f"openai (m at {server.url.partition('://')[2]}) answers, 127.0.0.1:{speech.port} speaks (linear16 24000 Hz)"
        done = await asyncio.to_thread(run, args, cwd=tmp_path, env=env)
    (request,) = server.requests
    assert done.stderr == f"llm2ws: {who}\n"
    assert done.stdout.decode().split() == "".join(STORY).split()
    assert request.headers["authorization"] == f"Bearer {key}"
    assert request.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A story."},
    ]
    assert (request.body["temperature"], request.body["max_tokens"]) == (0.5, 50)


async def test_a_server_without_a_key_and_settings_from_a_file(tmp_path: Path) -> None:
    async with replay(Reply([delta("Yes."), event("message_stop")])) as server, FaultySpeech() as speech:
        (tmp_path / "s.toml").write_text(
            f"default_llm = 'home'\n[llm.home]\nkind = 'anthropic'\nbase_url = '{server.url}'\nmodel = 'm'\n"
            "system = 'Be brief.'\ntemplate = '[{system}] {prompt}!'\nstop = ['END', 'STOP']\nmax_tokens = 9\n"
        )
        args = ["say", "Why", "--config", "s.toml", "--speech", speech.url, "--no-play", "-q"]
        done = await asyncio.to_thread(run, args, cwd=tmp_path)
    assert (done.code, done.stdout, done.stderr) == (0, b"", "")
    body = server.requests[0].body
    assert body["messages"] == [{"role": "user", "content": "[Be brief.] Why!"}]
    assert (body["stop_sequences"], body["max_tokens"], "system" in body) == (["END", "STOP"], 9, False)
    assert "".join(speech.texts()).strip() == "Yes."


async def test_words_that_are_said_differently(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[text]\nkeep = ['emphasis']\n[text.replace]\nnginx = 'engine x'\n'C++' = 'C plus plus'\n")
    async with replay(answer("Use *ng", "inx* with", " C+", "+.")) as server, FaultySpeech() as speech:
        args = ["say", "?", "--config", "s.toml", "--speech", speech.url, "--no-play"]
        done = await asyncio.to_thread(run, args, cwd=tmp_path, env=llm(server))
    assert done.code == 0, done.stderr
    assert "".join(speech.texts()).strip() == "Use *engine x* with C plus plus."


@pytest.mark.parametrize(("kind", "other"), [("openai", "anthropic"), ("anthropic", "openai")])
async def test_only_the_sdk_that_is_used_is_loaded(tmp_path: Path, kind: str, other: str) -> None:
    frames = [delta("Yes."), event("message_stop")] if kind == "anthropic" else [chunk("Yes."), DONE]
    code = (
        "import sys; from llm2ws.command.cli import main; code = main(sys.argv[1:]);"
        f"print(code, '{kind}' in sys.modules, '{other}' in sys.modules)"
    )
    async with replay(Reply(frames)) as server, FaultySpeech() as speech:
        command = [sys.executable, "-P", "-c", code, "say", "?", "--speech", speech.url, "--no-play", "-q"]
        done = await asyncio.to_thread(
            subprocess.run, command, env=child_environment(llm(server, kind)), cwd=tmp_path, check=True, capture_output=True
        )
    assert done.stdout.split() == [b"0", b"True", b"False"]


# --- while it is being written ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def stepwise(sentences: Sequence[str], shown: asyncio.Queue[None]) -> AsyncIterator[str]:
    """A server that writes a sentence only when the one before has been shown."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for sentence in sentences:
            writer.write(chunk(sentence))
            await shown.get()
        writer.write(DONE)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
async def test_each_sentence_is_shown_before_the_next_is_written(tmp_path: Path, terminal: bool) -> None:
    """It would wait for ever for a sentence that is held until the next one begins."""
    reading, writing = pty.openpty() if terminal else os.pipe()
    shown: asyncio.Queue[None] = asyncio.Queue()
    async with stepwise(STORY, shown) as url, FaultySpeech() as speech:
        env = {"OPENAI_BASE_URL": url, "LLM2WS_LLM__OPENAI__MODEL": "m"}
        args = ["say", "A story.", "--speech", speech.url, "--no-play"]
        process = await asyncio.to_thread(start, args, cwd=tmp_path, env=env, stdout=writing)
        with process:
            os.close(writing)
            seen = b""
            for sentence in STORY:
                while sentence.strip().encode() not in seen:
                    seen += await asyncio.to_thread(os.read, reading, 4_096)
                shown.put_nowait(None)
            with contextlib.suppress(OSError):  # how a terminal says that its other end is closed
                while data := await asyncio.to_thread(os.read, reading, 4_096):
                    seen += data
            assert await asyncio.to_thread(process.wait) == 0
            assert process.stderr
            assert b"Traceback" not in process.stderr.read()
        os.close(reading)
    assert seen.decode().split() == "".join(STORY).split()


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_the_server_sees_that_it_was_interrupted(tmp_path: Path, kind: str) -> None:
    frames = [delta(text) for text in STORY] if kind == "anthropic" else [chunk(text) for text in STORY]
    async with replay(Reply(frames, end=End.HOLD)) as server, FaultySpeech() as speech:
        args = ["say", "A story.", "--speech", speech.url, "--no-play", "--json"]
        process = await asyncio.to_thread(start, args, cwd=tmp_path, env=llm(server, kind))
        with process:
            await server.holding.wait()
            assert process.stdout
            while b'"said"' not in await asyncio.to_thread(process.stdout.readline):
                pass
            process.send_signal(signal.SIGINT)
            await server.left.wait()
            assert await asyncio.to_thread(process.wait) == 130


# --- conversations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--model", "--system"])
def test_a_flag_for_a_model_without_a_model(tmp_path: Path, flag: str) -> None:
    done = run(["say", "Hello.", flag, "x"], cwd=tmp_path)
    assert done.code == 2
    assert done.stderr.startswith(f"llm2ws: {flag}: no LLM is set that could take it: set OPENAI_API_KEY")
