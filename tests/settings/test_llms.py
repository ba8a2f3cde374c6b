"""Each kind of LLM from its settings on: `say`, `check`, standing in for another, and what is imported for it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from msgspec.structs import replace as replace_settings

from llm2ws.command.check import settings_of, show
from llm2ws.errors import ConfigError, SourceError
from llm2ws.server.run import running
from llm2ws.service import Service
from llm2ws.settings.fields import Llm, Secret, Server, Settings, Speech
from llm2ws.settings.llms import KINDS, LlmKind, choose_llm, llm_client
from llm2ws.settings.loading import load
from llm2ws.sources.aside import Aside
from llm2ws.sources.failover import one_answer
from llm2ws.sources.prompt import Prompt, conversation, question
from llm2ws.testing import FaultySpeech
from tests.sources.replay import WHOLE, Reply, json_reply, read, replay, stream
from tests.sources.triton import VLLM, Triton, triton
from tests.support import child_environment, has_canary, run

NULL = {"LLM2WS_PLAY__DEVICE": "null"}
TEXT = "Because of the air. It scatters light."
OLLAMA: dict[str, str] = {"text_path": "message.content", "end": "done_reason"}
# What is asked of each kind that there is a server for, and what is imported then. Of the others: nothing.
LOADED = {
    "ndjson": {"aiohttp"},
    "responses": {"aiohttp", "httpx2", "openai"},
    "triton": {"grpc", "tritonclient"},
}
SLOW = {"aiohttp", "anthropic", "grpc", "httpx2", "openai", "tritonclient"}


@asynccontextmanager
async def server_of(kind: str) -> AsyncIterator[str]:
    """A server that says WHOLE; its address."""
    if kind == "triton":
        async with triton(Triton({"m": replace(VLLM, steps=[WHOLE])})) as rpc:
            yield rpc.url
    else:
        async with replay(Reply([stream("ollama_chat.ndjson" if kind == "ndjson" else "responses")])) as http:
            yield http.url


def environment(kind: str, url: str, **fields: str) -> dict[str, str]:
    fields = {"kind": kind, "base_url": url, "model": "m", "max_retries": "0", **(OLLAMA if kind == "ndjson" else {}), **fields}
    return {f"LLM2WS_LLM__IT__{name.upper()}": value for name, value in fields.items()}


@pytest.mark.parametrize("kind", LOADED)
async def test_its_answer_is_spoken_and_nothing_is_imported_for_other_kinds(tmp_path: Path, kind: str) -> None:
    code = (
        "import sys; from llm2ws.command.cli import main; code = main(sys.argv[1:]);"
        f"print('\\n', code, *sorted({SLOW!r} & set(sys.modules)))"
    )
    async with server_of(kind) as url, FaultySpeech() as speech:
        command = [sys.executable, "-P", "-c", code, "say", "Why?", "--speech", speech.url, "--no-play", "-q"]
        env = child_environment(environment(kind, url))
        done = await asyncio.to_thread(subprocess.run, command, env=env, cwd=tmp_path, check=True, capture_output=True)
    assert done.stderr == b""
    assert done.stdout.decode().split() == ["0", *sorted(LOADED[kind])]
    assert "3.50, Dr. Müller. 日本語" in "".join(speech.texts())


async def test_check_reports_each(tmp_path: Path) -> None:
    models = json_reply(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
    waits = Reply([], 405)  # it wants a POST
    async with triton(Triton({"m": VLLM, "once": replace(VLLM, decoupled=False)})) as rpc, replay(models) as vendor:
        async with replay(waits) as chat:
            fields = {
                "responses": f"base_url = '{vendor.url}/v1'\nmodel = 'm'",
                "relay": f"kind = 'sse'\nbase_url = '{chat.url}/chat'\ntext_path = 'delta'",
                "triton": f"base_url = '{rpc.url}'\nmodel = 'm'",
                "once": f"kind = 'triton'\nbase_url = '{rpc.url}'\nmodel = 'once'",
                "dead": "kind = 'triton'\nbase_url = 'http://127.0.0.1:9'\nmodel = 'm'",
            }
            (tmp_path / "s.toml").write_text("".join(f"[llm.{name}]\n{text}\n" for name, text in fields.items()))
            args = ["check", "--json", "--config", "s.toml"]
            done = await asyncio.to_thread(run, args, cwd=tmp_path, env=NULL)
    found = {one["name"]: one for one in json.loads(done.stdout)["checks"] if one["kind"] == "llm"}
    assert done.code == 3
    assert {name: one["state"] for name, one in found.items()} == {
        **dict.fromkeys(["responses", "relay", "triton"], "ok"),
        **dict.fromkeys(["once", "dead"], "failed"),
    }
    assert "it does not stream" in found["once"]["detail"]
    assert "nothing listens there" in found["dead"]["detail"]
    assert [request.path for server in (vendor, chat) for request in server.requests] == ["/v1/models", "/chat"]
    assert "ModelStreamInfer" not in rpc.calls


async def test_they_stand_in_for_each_other() -> None:
    refused = Reply([], 503)
    async with triton(Triton({"m": replace(VLLM, steps=["One. Two."])})) as rpc, replay(refused) as http:
        llms = {
            "relay": Llm(kind="sse", base_url=http.url, max_retries=0, failover=("dead", "gpu")),
            "dead": Llm(kind="responses", base_url="http://127.0.0.1:9", model="m", max_retries=0),
            "gpu": Llm(kind="triton", base_url=rpc.url, model="m"),
        }
        settings = Settings(llm=llms)
        client = llm_client(settings, choose_llm(settings, "relay")[1])
        text, *_ = await read(one_answer(client, "Why?"))

    assert text == "One. Two."
    assert len(http.requests) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "Why is it?",
        [{"role": "user", "content": [{"type": "text", "text": "Why is it?"}]}],
        [{"role": "user", "content": "Why is it?"}, {"role": "assistant", "content": None, "tool_calls": []}],
    ],
)
async def test_echo_answers_with_what_the_user_said_last_however_it_is_written(prompt: Any) -> None:
    client = llm_client(Settings(), Llm(kind="echo", tokens_per_s=0.0))
    assert "".join([str(item) async for item in one_answer(client, prompt)]) == "Why is it?"


async def test_the_daemons_clients_ask_them_as_they_ask_openai() -> None:
    async with triton(Triton({"m": replace(VLLM, steps=["One. ", "Two."])})) as rpc, FaultySpeech() as speech:
        settings = Settings(
            llm={"gpu": Llm(kind="triton", base_url=rpc.url, model="m")},
            speech={"it": Speech(url=speech.url)},
            server=Server(listen="127.0.0.1:0"),
        )
        async with running(settings) as daemon, openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none") as client:
            question: Any = [{"role": "user", "content": "Why?"}]
            told = await client.chat.completions.create(model="gpu", messages=question, temperature=0.5)

    assert told.choices[0].message.content == "One. Two."
    assert json.loads(rpc.inputs()["sampling_parameters"]) == {"temperature": 0.5}


# --- settings ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "vendor"), [("openai", "OPENAI"), ("responses", "OPENAI"), ("anthropic", "ANTHROPIC")])
def test_an_entry_uses_the_key_of_its_vendor(canary: Callable[[], str], kind: str, vendor: str) -> None:
    variable, key = f"{vendor}_API_KEY", canary()
    own = {"LLM2WS_LLM__SUPPORT__KIND": kind, "LLM2WS_LLM__SUPPORT__MODEL": "m", variable: key}

    def chosen(environ: dict[str, str], name: str) -> Llm:
        return choose_llm(load(environ=environ | {"XDG_CONFIG_HOME": "/nonexistent"}).settings, name)[1]

    assert chosen(own, "support") == Llm(kind=kind, model="m", api_key=Secret(key))
    assert chosen({variable: key}, kind) == Llm(kind=kind, api_key=Secret(key))
    # The key was meant for someone else, and a key of its own is stronger.
    assert not chosen(own | {"LLM2WS_LLM__SUPPORT__BASE_URL": "http://127.0.0.1:8/v1"}, "support").api_key
    assert chosen(own | {"LLM2WS_LLM__SUPPORT__API_KEY": "mine"}, "support").api_key == Secret("mine")


def test_an_entry_uses_the_address_of_its_vendor_but_not_its_model() -> None:
    vendor = Llm(base_url="https://127.0.0.1:9/v1", ca_file="ca.pem")
    settings = Settings(llm={"openai": Llm(base_url=vendor.base_url, ca_file="ca.pem", model="other")})
    assert choose_llm(settings, "responses")[1] == Llm(kind="responses", base_url=vendor.base_url, ca_file="ca.pem")
    text = Llm(kind="sse")  # of no vendor
    assert choose_llm(Settings(llm={"sse": Llm(base_url="http://127.0.0.1:9"), "own": text}), "own")[1] == text


WRONG: dict[str, tuple[Llm, str]] = {
    "no address": (Llm(kind="sse"), "no address is set"),
    "no path": (Llm(kind="ndjson", base_url="http://127.0.0.1"), "text_path is not set"),
    "no model": (Llm(kind="triton"), "no model is set for Triton"),
    "stop": (Llm(kind="responses", base_url="http://127.0.0.1", model="m", stop=("END",)), "know no stop words"),
    "no header": (Llm(kind="sse", base_url="http://127.0.0.1", headers=(Secret("X-A: 1"), Secret("b"))), "the 2. is no header"),
    "no name": (Llm(kind="sse", base_url="http://127.0.0.1", headers=(Secret("X A: 1"),)), "the 1. is no header"),
    "line end": (Llm(kind="sse", base_url="http://127.0.0.1", headers=(Secret("X-A: 1\r\nX-B: 2"),)), "the 1. is no header"),
    "no ASCII": (Llm(kind="triton", model="m", headers=(Secret("X-A: ü"),)), "the 1. is no header"),
    "no request": (Llm(kind="text", base_url="http://127.0.0.1", request="{}"), "no place for the question"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_right(name: str) -> None:
    llm, line = WRONG[name]
    with pytest.raises(ConfigError, match=line):
        KINDS[llm.kind](llm)


def test_headers_are_shown_to_nobody(tmp_path: Path, canary: Callable[[], str]) -> None:
    header = canary()
    (tmp_path / "s.toml").write_text(f"[llm.it]\nkind = 'sse'\nheaders = ['X-Key: {header}']\n")
    loaded = load(config=str(tmp_path / "s.toml"), environ={})
    assert not has_canary(show(loaded, [], everything=True, as_json=True))
    assert {one.name: one.value for one in settings_of(loaded)}["llm.it.headers"] == ["***"]


async def test_a_kind_without_a_list_of_models_is_tried_all_the_same() -> None:
    for reply, ok in [(Reply([], 405), True), (Reply([], 200), True), (Reply([], 401), False), (Reply([], 404), False)]:
        async with replay(reply) as server:
            client = KINDS["sse"](Llm(kind="sse", base_url=server.url))
            async with client:
                if ok:
                    assert await client.models() is None
                else:
                    with pytest.raises(SourceError):
                        await client.models()


class ToyLlm:
    """A kind of LLM in one file: it says the key that it was given, and the question."""

    who = "the toy"

    def __init__(self, llm: Llm) -> None:
        self._key = llm.api_key.reveal()

    async def __aenter__(self) -> None:
        """Open nothing."""

    async def __aexit__(self, *_: object) -> None:
        """Close nothing."""

    async def answer(self, prompt: Prompt, *, extra: Mapping[str, object] | None = None) -> AsyncGenerator[str | Aside, None]:
        yield f"{self._key}: {question(conversation(prompt))}"

    async def models(self) -> list[str] | None:
        return None


async def test_a_new_kind_is_its_file_and_a_row(monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]) -> None:
    monkeypatch.setitem(KINDS, "toy", LlmKind(ToyLlm, "toy", {"TOY_LLM_KEY": "api_key"}, takes_tools=True))
    key = canary()
    settings = load(environ={"TOY_LLM_KEY": key}).settings
    async with FaultySpeech() as speech:
        entry = Speech(url=speech.url, dialect="deepgram", sample_rate_hz=8_000)
        async with Service(replace_settings(settings, speech={"it": entry})) as service:
            assert (service.llms, service.takes_tools("")) == (["toy"], True)
            assert [item async for item in service.answer("", "Why?")] == [f"{key}: Why?"]
    with pytest.raises(ConfigError, match=r"give one of .*toy"):
        choose_llm(settings, "nobody")
