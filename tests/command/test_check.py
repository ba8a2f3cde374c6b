"""`llm2ws check` against servers that are as they should be, and against those that are not."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm2ws.command import check as module
from llm2ws.errors import ConfigError, SourceError
from llm2ws.localspeech.engine import Engine
from llm2ws.localspeech.server import SpeechServer
from llm2ws.server.run import running
from llm2ws.settings.fields import Llm, Server, Settings, Speech
from llm2ws.settings.loading import load
from llm2ws.testing import Faults, FaultySpeech
from tests.sources.asking import refusal
from tests.sources.replay import End, Reply, json_reply, replay
from tests.support import MS, Finished, child_environment, has_canary, run

NULL = {"LLM2WS_PLAY__DEVICE": "null"}
MODELS = json_reply(
    200, {"object": "list", "data": [{"id": "llama3.2:latest", "object": "model"}, {"id": "phi4", "object": "model"}]}
)


async def check(tmp_path: Path, env: dict[str, str], *args: str) -> Finished:
    return await asyncio.to_thread(run, ["check", *args], cwd=tmp_path, env=NULL | env)


def checks(done: Finished) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["name"]): one for one in json.loads(done.stdout)["checks"]}


def llm(url: str, kind: str = "openai", model: str = "llama3.2") -> dict[str, str]:
    return {"LLM2WS_LLM__IT__KIND": kind, "LLM2WS_LLM__IT__BASE_URL": f"{url}/v1", "LLM2WS_LLM__IT__MODEL": model}


def test_with_nothing_set_it_says_what_there_is(tmp_path: Path) -> None:
    done = run(["check"], cwd=tmp_path, env=NULL)
    assert done.code == 0
    assert b"llm     echo       the prompt itself" in done.stdout
    assert b"-> set OPENAI_API_KEY, ANTHROPIC_API_KEY or [llm.<name>]" in done.stdout
    assert b"speech  local      the embedded endpoint: open after" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_settings_with_their_origin_and_secrets_masked(tmp_path: Path, canary: Callable[[], str]) -> None:
    key, other = canary(), canary()
    (tmp_path / "s.toml").write_text(f"[text]\nlanguage = 'de'\n[[server.keys]]\nname = 'me'\nkey = '{key}'\n")
    (tmp_path / ".env").write_text("LLM2WS_TEXT__MAX_CHARS=200\n")
    env = {"LLM2WS_LLM__IT__BASE_URL": f"http://me:{other}@127.0.0.1:9/v1?key={other}", "LLM2WS_LLM__IT__KIND": "openai"}
    env |= {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    done = run(["check", "--json", "--all", "--config", "s.toml"], cwd=tmp_path, env=NULL | env)
    settings = {one["name"]: (one["value"], one["origin"]) for one in json.loads(done.stdout)["settings"]}
    assert settings["text.language"] == ("de", "s.toml")
    assert settings["text.max_chars"] == (200, ".env")
    assert settings["llm.openai.api_key"] == ("***", "the environment")
    assert settings["llm.it.base_url"] == ("http://***@127.0.0.1:9/v1?***", "the environment")
    assert settings["text.first_max_chars"] == (120, "default")
    assert settings["server.keys"][0][0]["key"] == "***"


async def test_names_of_a_server_reach_the_terminal_without_control_characters(tmp_path: Path) -> None:
    name = "evil\x1b[31m\x07\r\x9b-1b\nok: all is well"
    async with replay(json_reply(200, {"object": "list", "data": [{"id": name, "object": "model"}]})) as server:
        done = await check(tmp_path, llm(server.url))
    shown = done.stdout.decode()
    assert "evil [31m" in shown
    assert "\nok: all is well" not in shown
    assert not [c for c in shown if c != "\n" and not c.isprintable()]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_an_llm_that_answers_has_been_asked_for_nothing_that_costs(
    tmp_path: Path, canary: Callable[[], str], kind: str
) -> None:
    async with replay(MODELS) as server:
        done = await check(tmp_path, llm(server.url, kind) | {"LLM2WS_LLM__IT__API_KEY": canary()}, "--json")
    assert done.code == 0, done.stderr
    assert [request.path.partition("?")[0] for request in server.requests] == ["/v1/models"]
    found = checks(done)["llm", "it"]
    assert (found["state"], found["hint"]) == ("ok", "")
    assert found["detail"].startswith(f"llama3.2 at {server.url.partition('://')[2]}: answers in 0.")


async def test_a_model_that_is_not_listed_is_a_warning(tmp_path: Path) -> None:
    """llama.cpp takes any name."""
    async with replay(MODELS) as server:
        done = await check(tmp_path, llm(server.url, model="qwen3"), "--json")
    assert done.code == 0
    found = checks(done)["llm", "it"]
    assert found["state"] == "warning"
    assert found["hint"] == "if it does not answer, set model: it has llama3.2:latest, phi4"


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (refusal(401), "401, it asks for a key"),
        (refusal(404), "404, no such address or model"),
        (refusal(503), "503, the server is not ready"),
        (Reply([b"<html>"], headers={"Content-Type": "text/html"}), "answered with something that is no answer of a model"),
        (json_reply(200, {"hello": 1}), "answered with something that is no answer of a model"),
        (json_reply(200, []), "answered with something that is no answer of a model"),
        (Reply(raw=b"", end=End.RESET), "the connection broke"),
    ],
    ids=["401", "404", "503", "HTML", "JSON", "list", "reset"],
)
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_an_llm_that_cannot_be_asked(kind: str, reply: Reply, line: str) -> None:
    async with replay(reply) as server:
        settings = Settings(llm={"it": Llm(kind=kind, base_url=f"{server.url}/v1", model="llama3.2")})
        found = await module._tried("llm", "it", module._llm(settings, "it"))
    assert found.detail.startswith(f"llama3.2 at {server.url.partition('://')[2]}: {line}")
    assert isinstance(found.error, SourceError)
    assert reply.raw is not None or len(server.requests) == 1, (
        "it tries once; aiohttp again where a kept connection may have died"
    )


async def test_a_speech_endpoint_is_opened_and_nothing_is_said(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    async with FaultySpeech(key=key) as speech:
        env = {"LLM2WS_SPEECH__IT__URL": speech.url, "LLM2WS_SPEECH__IT__API_KEY": key}
        good = await check(tmp_path, env, "--json")
        log = list(speech.log)
        bad = await check(tmp_path, env | {"LLM2WS_SPEECH__IT__API_KEY": canary()}, "--json")
    assert good.code == 0
    assert checks(good)["speech", "it"]["state"] == "ok"
    assert [type(one.message).__name__ for one in log] == ["CloseIn"]
    assert bad.code == 4
    assert "HTTP 401" in checks(bad)["speech", "it"]["detail"]
    assert checks(bad)["speech", "it"]["hint"] == "the key is wrong or missing: set DEEPGRAM_API_KEY or api_key"


async def test_every_endpoint_is_tried_and_the_first_failure_gives_the_code(tmp_path: Path) -> None:
    env = llm("http://127.0.0.1:9") | {
        "LLM2WS_SPEECH__DEAD__URL": "ws://127.0.0.1:9",
        "LLM2WS_SPEECH__DEAD__CONNECT_S": f"{1_000 * MS}",
    }
    env |= {"LLM2WS_SPEECH__NOKEY__DIALECT": "deepgram"}
    async with Engine() as engine, SpeechServer(engine) as server:
        done = await check(tmp_path, env | {"LLM2WS_SPEECH__LIVE__URL": server.url}, "--json")
    found = checks(done)
    assert done.code == 3
    assert found["llm", "it"]["hint"] == "start the server, or check base_url"
    assert found["speech", "dead"]["hint"] == "start the endpoint or look at url"
    assert found["speech", "nokey"]["hint"] == "set DEEPGRAM_API_KEY, or use the endpoint 'local'"
    assert found["speech", "live"]["state"] == "ok"


@pytest.mark.parametrize(("device", "code"), [("null", 0), ("aplay", 2), ("nonsense", 2)])
def test_the_loudspeaker(tmp_path: Path, device: str, code: int) -> None:
    env = {"LLM2WS_PLAY__DEVICE": device, "PATH": "/nonexistent"}
    done = run(["check", "--json"], cwd=tmp_path, env=env)
    assert done.code == code, done.stdout
    assert checks(done)["sound", device]["state"] == ("ok" if code == 0 else "failed")


@pytest.fixture
def without_extras(tmp_path: Path) -> str:
    """Python as if the modules of some extras were not there."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in ('lameenc', 'uvloop') else real(name, *rest)\n"
    )
    return os.pathsep.join([str(folder), child_environment()["PYTHONPATH"]])


def test_what_is_not_installed_is_named_with_the_command_to_type(tmp_path: Path, without_extras: str) -> None:
    done = run(["check"], cwd=tmp_path, env=NULL | {"PYTHONPATH": without_extras})
    assert done.code == 0
    assert "-> pip install 'llm2ws[mp3]'" in done.stdout.decode()
    assert "-> pip install 'llm2ws[fast]'" in done.stdout.decode()
    assert "'llm2ws[local]'" not in done.stdout.decode()


async def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_S", 200 * MS)
    async with replay(Reply(end=End.HOLD)) as server:
        found = await module.check(Settings(llm={"it": Llm(kind="openai", base_url=server.url, model="m")}))
    (tried,) = (one for one in found if one.kind == "llm")
    assert tried.state == module.CheckState.FAILED
    assert "no answer within" in tried.detail


async def test_a_speech_endpoint_is_waited_for_as_long_as_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRY_S", 0.1)
    async with FaultySpeech() as speech:
        speech.faults = Faults(handshake_s=math.inf)
        found = await module.check(Settings(speech={"it": Speech(dialect="deepgram", url=speech.url, connect_s=0.3)}))
    (tried,) = (one for one in found if one.kind == "speech")
    assert "within 0.3 s" in tried.detail


def test_an_address_is_named_as_it_was_set() -> None:
    found = list(module._server(Settings(server=Server(listen="[::1]:0"))))
    assert {one.name for one in found} == {"[::1]:0"}


@pytest.mark.parametrize(
    ("server", "code", "state", "words"),
    [
        ("", 0, "ok", "http, without client keys"),
        ("listen = '0.0.0.0:0'", 2, "failed", "without a key"),
        ("listen = '192.0.2.1:0'\ninsecure = true", 2, "failed", "cannot be listened on"),
        ("listen = '8765'", 2, "failed", "not an address"),
        ("tls_cert_file = 'none.pem'", 2, "failed", "none.pem"),
        ("tls_key_file = 'none.pem'", 2, "failed", "without a certificate"),
        ("hosts = ['https://voice.example.com']", 2, "failed", "not the name of a host"),
        ("[[server.keys]]\nname = 'a'\nkey = 'short'", 2, "failed", "less than 16 characters"),
        ("[[server.keys]]\nname = 'a'\nkey_file = 'none'", 2, "failed", "none"),
        ("[[server.keys]]\nname = 'a'\nkey = 'long-enough-a-key'\nlimits = {turn_speech = 3}", 2, "failed", "turn_speech"),
        ("[[server.keys]]\nname = 'a'\nkey = 'long-enough-a-key'", 0, "ok", "with 1 client keys"),
        ("listen = '0.0.0.0:0'\ninsecure = true", 0, "warning", "server.hosts"),
        ("listen = '0.0.0.0:0'\ninsecure = true\nhosts = ['voice.example.com']", 0, "warning", "without TLS"),
    ],
)
async def test_the_daemons_settings(tmp_path: Path, server: str, code: int, state: str, words: str) -> None:
    listen = "" if "listen" in server else "listen = '127.0.0.1:0'"
    (tmp_path / "s.toml").write_text(f"[server]\n{listen}\n{server}\n")
    loaded = load(config=str(tmp_path / "s.toml"))
    found = list(module._server(loaded.settings))
    assert state in [one.state for one in found]
    assert words in " ".join(f"{one.detail} {one.hint}" for one in found)
    assert next((2 for one in found if one.error), 0) == code


async def test_an_address_that_is_in_use_may_be_the_daemons_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await check(tmp_path, {"LLM2WS_SERVER__LISTEN": listen}, "--json")
    assert done.code == 0
    found = checks(done)["server", listen]
    assert (found["state"], "in use" in found["detail"]) == ("warning", True)


# What is refused at the start, by the line that names it.
WRONG = {
    "default_speech = 'typo'": "speech endpoint 'typo' is not known",
    "default_llm = 'typo'": "LLM 'typo' is not known",
    "[voices.alloy]\nvoice = 'v'\nspeech = 'typo'": "voices.alloy.speech: speech endpoint 'typo' is not known",
    "[models.tts-1]\nspeech = 'typo'": "models.tts-1.speech: speech endpoint 'typo' is not known",
    "[models.tts-1]\nspeech = 'ws://127.0.0.1:1'": "models.tts-1.speech: speech endpoint of that name is not known",
    "[models.tts-1]\nspeech = 'deepgram'": "no key for deepgram",
    "[speech.local]\nfailover = ['typo']": "speech.local.failover: speech endpoint 'typo' is not known",
    "[speech.local]\nfailover = ['ws://127.0.0.1:1']": "speech.local.failover: speech endpoint of that name is not known",
    "[llm.echo]\nfailover = ['typo']": "LLM 'typo' is not known",
    "[llm.it]\nkind = 'typo'": "llm.it.kind: 'typo' is not known",
    "[llm.it]\nmodel = 'm'": "llm.it.kind: not set",
    "[llm.echo]\nfailover = ['anthropic']": "no key for Anthropic",
}


@pytest.mark.parametrize("text", WRONG)
async def test_what_is_refused_at_the_start_is_no_success_here(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(f"{text}\n[server]\nlisten = '127.0.0.1:0'\n")
    settings = load(config=str(tmp_path / "s.toml"), environ={}).settings
    with pytest.raises(ConfigError, match=re.escape(WRONG[text])):
        async with running(settings):
            pass
    failed = [one for one in await module.check(settings) if one.error]
    assert WRONG[text] in failed[0].detail
    assert {type(one.error) for one in failed} == {ConfigError}


async def test_what_can_be_started_is_a_success_here(tmp_path: Path) -> None:
    async with FaultySpeech() as speech:
        text = f"default_speech = '{speech.url}'\n[voices.alloy]\nvoice = 'en-us'\nspeech = 'local'\n"
        (tmp_path / "s.toml").write_text(f"{text}[server]\nlisten = '127.0.0.1:0'\n")
        done = await check(tmp_path, {}, "--json", "--config", "s.toml")
        async with running(load(config=str(tmp_path / "s.toml"), environ={}).settings) as daemon:
            assert daemon.service.speech == [f"127.0.0.1:{speech.port}", "local"]
        assert {name for kind, name in checks(done) if kind == "speech"} == {speech.url, "local"}
    assert done.code == 0


@pytest.mark.parametrize("command", [["check"], ["check", "--json"], ["say", "Hello.", "--no-play"]])
def test_a_password_in_an_address_is_shown_to_nobody(tmp_path: Path, canary: Callable[[], str], command: list[str]) -> None:
    done = run(command, cwd=tmp_path, env=NULL | {"LLM2WS_DEFAULT_SPEECH": f"ws://me:{canary()}@127.0.0.1:9/?{canary()}"})
    assert done.code == 2
    assert "holds a user or password" in done.stdout.decode() + done.stderr
    assert not has_canary(done.stdout)
    assert not has_canary(done.stderr)
