"""From start to end, as a real process: signals, settings read again, ports, an end that loses nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import openai
import pytest

from llm2ws.errors import ConfigError
from llm2ws.server.run import serve
from llm2ws.settings.fields import Server, Settings
from llm2ws.testing import FaultySpeech, decode
from tests.server.conftest import CODING, Start, says
from tests.server.processes import process
from tests.server.test_chat import SPOKEN, TEXT, heard, sdk
from tests.sources.replay import End
from tests.support import run
from tests.support import start as start_process


async def test_sigterm_lets_a_turn_finish(tmp_path: Path, canary: Callable[[], str]) -> None:
    speech = FaultySpeech(coding=CODING, pace=4.0)
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(process(tmp_path, key=canary(), speech=speech))
        client = await stack.enter_async_context(sdk(daemon))
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        taken = [await anext(aiter(answer))]
        daemon.signal(signal.SIGTERM)
        await daemon.line("to finish")
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
        _, transcript, audio, rest = await heard(answer)
        assert transcript.strip() == TEXT
        assert decode(audio) == TEXT
        assert rest[-1].choices[0].finish_reason == "stop" if rest[-1].choices else True
        assert await daemon.code() == 0
        assert taken
        line = await daemon.line('"event": "turn"')
        assert json.loads(line)["outcome"] == "done"
        assert TEXT[:10] not in line


async def test_sigterm_under_load(tmp_path: Path) -> None:
    speech = FaultySpeech(coding=CODING, pace=4.0)
    async with process(tmp_path, speech=speech) as daemon, sdk(daemon) as client:
        answers = [await client.chat.completions.create(**SPOKEN, stream=True) for _ in range(20)]
        daemon.signal(signal.SIGTERM)
        for _, transcript, audio, _ in await asyncio.gather(*map(heard, answers)):
            assert decode(audio) == transcript.strip() == TEXT
        assert await daemon.code() == 0


async def test_at_the_deadline_a_turn_is_told(tmp_path: Path) -> None:
    hangs = says("The first sentence is here. And now it", end=End.HOLD)
    async with process(tmp_path, hangs, server="drain_s = 0.2") as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        await daemon.llm.holding.wait()
        daemon.signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the daemon stops"):
            await heard(answer)
        await asyncio.wait_for(daemon.llm.left.wait(), 10)
        assert await daemon.code() == 0


async def test_at_the_deadline_a_relayed_answer_is_told_too(tmp_path: Path) -> None:
    async with process(tmp_path, says("One", end=End.HOLD), server="drain_s = 0.2") as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**{**SPOKEN, "modalities": ["text"]}, stream=True)
        await daemon.llm.holding.wait()
        daemon.signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the daemon stops"):
            await heard(answer)
        assert await daemon.code() == 0


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async with process(tmp_path, says("One. Two", end=End.HOLD)) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        await daemon.llm.holding.wait()
        daemon.signal(signal.SIGTERM)
        await daemon.line("to finish")
        daemon.signal(signal.SIGTERM)
        assert await daemon.code() == 130
        await answer.close()


async def test_settings_are_read_again(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with process(tmp_path) as daemon, aiohttp.ClientSession(daemon.url) as http:
        config = tmp_path / "llm2ws.toml"
        good = config.read_text()

        async def models(**headers: str) -> int:
            async with http.get("/v1/models", headers=headers) as answer:
                await answer.read()
                return answer.status

        assert await models() == 200
        for bad, why in [
            ("[server", "line"),
            (good.replace("[server]", "[server]\nlisen = 1"), "no such setting"),
            (good.replace("[server]", '[server]\ninsecure = "perhaps"'), "bool"),
            (good + '[[server.keys]]\nname = "a"\nkey = "short"\n', "less than"),
            (good.replace('dialect = "deepgram"', 'dialect = "other"'), "not known"),
            (good + '[voices.alloy]\nspeech = "local"\n', "voices.alloy.voice"),
        ]:
            config.write_text(bad)
            daemon.signal(signal.SIGHUP)
            line = await daemon.line("settings were not reloaded")
            assert why in line, line
            assert await models() == 200
        config.write_text(good + f'[[server.keys]]\nname = "a"\nkey = "{key}"\n')
        daemon.signal(signal.SIGHUP)
        await daemon.line("settings were reloaded")
        assert await models() == 401
        assert await models(Authorization=f"Bearer {key}") == 200
        daemon.signal(signal.SIGINT)
        assert await daemon.code() == 0


async def test_new_settings_that_meet_a_bug_are_not_the_last_that_are_read(caplog: pytest.LogCaptureFixture) -> None:
    def bad() -> Settings:
        raise RuntimeError("what nobody foresaw")

    async def reloads() -> AsyncIterator[Callable[[], Settings]]:
        yield bad
        yield lambda: settings
        shutdown.set()

    settings, shutdown = Settings(server=Server(listen="127.0.0.1:0")), asyncio.Event()
    await serve(settings, shutdown=shutdown, reloads=reloads())
    told = [record.getMessage() for record in caplog.records if "reloaded" in record.getMessage()]
    assert told == ["settings were not reloaded, all stays as it was: a bug: RuntimeError", "settings were reloaded"]


async def test_a_turn_in_progress_keeps_the_settings_it_began_with(tmp_path: Path) -> None:
    speech = FaultySpeech(coding=CODING, pace=4.0)
    async with process(tmp_path, speech=speech) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        await anext(aiter(answer))
        daemon.signal(signal.SIGHUP)
        await daemon.line("settings were reloaded")
        _, transcript, audio, _ = await heard(answer)
        assert decode(audio) == transcript.strip() == TEXT
        _, transcript, _, _ = await heard(await client.chat.completions.create(**SPOKEN, stream=True))
        assert transcript.strip() == TEXT
        daemon.signal(signal.SIGTERM)
        assert await daemon.code() == 0


async def test_an_address_that_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: in use"):
            async with start(server=Server(listen=f"127.0.0.1:{port}")):
                pass


async def test_a_client_that_vanishes_ends_its_llms_request(start: Start) -> None:
    async with start(says("One sentence is here. Two", end=End.HOLD)) as daemon:
        for asked in (SPOKEN, {name: SPOKEN[name] for name in ("model", "messages")}):
            body = json.dumps({**asked, "stream": True}).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await reader.readuntil(b"data:")
            writer.transport.abort()
            await asyncio.wait_for(daemon.llm.left.wait(), 10)
            await daemon.daemon.until_unused()
            daemon.llm.left.clear()
        assert not daemon.daemon.turns
        metrics = daemon.daemon.metrics.exposition().decode()
        assert 'llm2ws_turns_total{face="chat",outcome="interrupted"} 1.0' in metrics


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: local"])
async def test_connections_that_never_finish_a_request_are_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("llm2ws.server.run.IDLE_S", 0.2)
    async with start() as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("speech", "why"),
    [
        ('url = "http://127.0.0.1:1"', "not a WebSocket address"),
        ('url = "ws://127.0.0.1:1"\nsample_rate_hz = 44100', "44100 Hz"),
        ('url = "ws://example.com"\napi_key = "not-a-key"', "clear text"),
        ('url = "ws://127.0.0.1:1"\nfailover = ["other"]', "not known"),
        ("voice = 5", "expected str"),
    ],
)
def test_settings_that_cannot_be_right_are_known_at_the_start(tmp_path: Path, speech: str, why: str) -> None:
    config = tmp_path / "llm2ws.toml"
    config.write_text(f'[server]\nlisten = "127.0.0.1:0"\n[speech.x]\ndialect = "deepgram"\n{speech}\n')
    done = run(["serve", "--config", str(config)])
    assert (done.code, len(done.stderr.splitlines())) == (2, 1)
    assert why in done.stderr


def test_a_dot_env_that_a_daemon_leaves_alone_is_told_of(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM2WS_SERVER__LISTEN=nowhere\n")
    with start_process(["serve", "--listen", "127.0.0.1:0"], cwd=tmp_path) as child:
        assert child.stderr is not None
        assert json.loads(child.stderr.readline())["event"] == ".env is not read here: --env-folder . reads it"
        assert json.loads(child.stderr.readline())["event"].startswith("listening on http://127.0.0.1:")
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    done = run(["serve", "--env-folder", "."], cwd=tmp_path)
    assert (done.code, done.stderr.partition(": not")[0]) == (2, "llm2ws: server.listen 'nowhere'")
