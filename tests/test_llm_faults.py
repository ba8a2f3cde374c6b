"""What can go wrong with the LLM behind the command, each as a real process: outcome, exit code, one line, and that what was
received is spoken and flushed. `tests.support.run` looks for tracebacks and for credentials."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from llm2ws.speech.dialects.deepgram_server import ClearIn, FlushIn, SpeakIn
from llm2ws.testing import FaultySpeech
from tests.sources.asking import chunk, delta, event, refusal
from tests.sources.replay import SSE, End, Reply, json_reply, replay
from tests.support import MS, assert_no_canary, run

PROMPT = "Why is the secret word xyzzy?"
DONE = b"data: [DONE]\n\n"
TEXT = "The sky is blue. That is because"
HALF = chunk("The sky is ") + chunk("blue. That is ") + chunk("because")
TOOL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": 1}'}}


class Fault(NamedTuple):
    """Replies, and what must come of them. `line`: what standard error says after who answers; "" for nothing."""

    name: str
    replies: tuple[Reply, ...]
    line: str
    code: int = 3
    spoken: str = ""
    settings: Mapping[str, str] = {}
    kind: str = "openai"


def answer(*frames: bytes, end: End = End.CHUNK, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(frames, headers={**SSE, **named}, end=end)


MESSAGE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}
GIVE_UP = {"FIRST_TOKEN_S": f"{300 * MS:g}"}
STALL = {"STALL_S": f"{300 * MS:g}"}
AT = "m at 127.0.0.1:PORT: "
FAULTS = [
    # The server says no.
    Fault("401", (refusal(401),), AT + "401, the key was refused (invalid_request_error): set OPENAI_API_KEY to a valid key"),
    Fault("402", (refusal(402),), AT + "402, the account has no credit left (invalid_request_error): add credit"),
    Fault("403", (refusal(403),), AT + "403, the key may not use this model (invalid_request_error): choose another"),
    Fault(
        "404 model",
        (refusal(404, "The model `m` does not exist", "model_not_found"),),
        AT + "404, it has no such model (model_not_found, invalid_request_error): set model to the name of one that it has",
    ),
    Fault("429", (refusal(429),), AT + "429, too many requests (invalid_request_error): try again later, or raise the limit"),
    Fault(
        "429, Retry-After",
        (refusal(429, retry_after="7"),),
        AT + "429, too many requests (invalid_request_error): try again in 7 s",
    ),
    Fault(
        "429, then an answer",
        (refusal(429, retry_after_ms="1"), answer(HALF, chunk(reason="stop"), DONE)),
        "",
        0,
        TEXT,
        {"MAX_RETRIES": "1"},
    ),
    Fault("500", (json_reply(500, {"error": "no"}),), AT + "500, an error of the server: try again, or look into its log"),
    Fault("503", (Reply([], 503, {"Retry-After": "20"}),), AT + "503, the server is not ready: try again in 20 s"),
    Fault("529", (Reply([], 529, {}),), AT + "529, the server is overloaded: try again later", kind="anthropic"),
    Fault(
        "redirect", (Reply([], 307, {"Location": "https://elsewhere.example/v1"}),), AT + "307, it redirects to https://elsewh"
    ),
    # It answers, but not as it should.
    Fault(
        "HTML", (Reply([b"<html>"], headers={"Content-Type": "text/html"}),), AT + "answered with a web page that is no answer"
    ),
    Fault("JSON instead of a stream", (json_reply(200, MESSAGE),), "", 0, TEXT),
    Fault(
        "gzip",
        (answer(gzip.compress(HALF + chunk(reason="stop") + DONE), Content_Encoding="gzip"),),
        "",
        0,
        TEXT,
    ),
    Fault(
        "no JSON", (answer(HALF, b"data: {oops\n\n", DONE),), AT + "sent an event that is no JSON: what came before", 3, TEXT
    ),
    Fault("a line of 1 MB", (answer(HALF, chunk(reasoning="x" * 1_000_000), chunk(reason="stop"), DONE),), "", 0, TEXT),
    # It fails in the middle.
    Fault("closed at once", (Reply(raw=b"", end=End.EOF),), AT + "the connection broke: try again"),
    Fault("cut", (answer(HALF, end=End.CUT),), AT + "the connection broke: try again, or look", 3, TEXT),
    Fault("reset", (answer(HALF, end=End.RESET),), AT + "the connection broke: try again, or look", 3, TEXT),
    Fault("bare end", (answer(HALF),), AT + "the answer ended before it was complete: look into the server's log", 3, TEXT),
    Fault("bare end of Messages", (answer(delta(TEXT)),), AT + "the answer ended before it", 3, TEXT, kind="anthropic"),
    Fault(
        "error in the stream", (answer(HALF, b'data: {"error": {"code": 502}}\n\n'),), AT + "failed while answering", 3, TEXT
    ),
    Fault(
        "overloaded in the stream",
        (answer(delta(TEXT), event("error", error={"type": "overloaded_error", "message": "no"})),),
        AT + "failed while answering, the server is overloaded (overloaded_error): try again later",
        3,
        TEXT,
        kind="anthropic",
    ),
    Fault(
        "silence instead of an answer",
        (Reply(raw=b"", end=End.HOLD),),
        AT + "no answer in time: raise first_token_s",
        3,
        "",
        GIVE_UP,
    ),
    Fault("silence in mid-answer", (answer(HALF, end=End.HOLD),), AT + "nothing came for 0.", 3, TEXT, STALL),
    Fault(
        "a reason that is a failure",
        (answer(HALF, chunk(reason="error"), DONE),),
        AT + "gave up while answering (error): try again",
        3,
        TEXT,
    ),
    Fault("no known text", (answer(chunk(text=TEXT), DONE),), AT + "sent data in which there is no text that is known here", 3),
    # It ends in good order, but there is something to be told.
    Fault("signs of life, then an answer", (answer(*[b": loading\n\n"] * 30, HALF, DONE),), "", 0, TEXT),
    Fault(
        "longest answer",
        (answer(HALF, chunk(reason="length"), DONE),),
        "the answer reached its longest: raise max_tokens",
        0,
        TEXT,
    ),
    Fault(
        "an unknown reason",
        (answer(HALF, chunk(reason="moonrise"), DONE),),
        "the model stopped for a reason that is not known here, moonrise: look into its documentation",
        0,
        TEXT,
    ),
    Fault("only reasoning", (answer(chunk(reasoning_content="Hm."), chunk(reason="stop"), DONE),), "there was no text", 0),
    Fault("only reasoning, cut", (answer(chunk(reasoning="Hm."), chunk(reason="length"), DONE),), "the answer reached its", 0),
    Fault(
        "only a tool call", (answer(chunk(tool_calls=[TOOL]), chunk(reason="tool_calls"), DONE),), "the model wants to call", 0
    ),
    Fault(
        "filtered", (answer(HALF, chunk(reason="content_filter"), DONE),), "the answer was stopped by the provider's", 0, TEXT
    ),
    Fault("refused", (answer(chunk(refusal="I can't."), chunk(reason="stop"), DONE),), "the model refused to answer", 0),
    Fault("empty", (answer(chunk(reason="stop"), DONE),), "there was no text", 0),
]


async def say(tmp_path: Path, env: dict[str, str], kind: str = "openai") -> tuple[int, list[dict[str, Any]], str, FaultySpeech]:
    """Exit code, events, what was said after who answers, and what has become of the endpoint."""
    settings = {"KIND": kind, "MODEL": "m", "MAX_RETRIES": "0"}
    env = {f"LLM2WS_LLM__IT__{name}": value for name, value in settings.items()} | env
    async with FaultySpeech() as speech:
        args = ["say", PROMPT, "--speech", speech.url, "--no-play", "--json"]
        done = await asyncio.to_thread(run, args, cwd=tmp_path, env=env)
    who, *said = done.stderr.splitlines()
    assert who.startswith("llm2ws: it (m at ")
    assert all(line.startswith("llm2ws: ") for line in said)
    assert "xyzzy" not in done.stderr, "what was asked is in an error"
    return done.code, [json.loads(line) for line in done.stdout.splitlines()], "\n".join(said), speech


def check(fault: Fault, port: int, code: int, events: list[dict[str, Any]], said: str, speech: FaultySpeech) -> None:
    assert code == fault.code, said
    assert len(said.splitlines()) == (1 if fault.line else 0), said
    assert said.startswith(f"llm2ws: {fault.line.replace('PORT', str(port))}" if fault.line else ""), said
    assert [one["outcome"] for one in events if one["event"] == "done"] == ["cut short" if code else "done"]
    assert (events[-1]["event"] == "error") == (code != 0)
    messages = [one.message for one in speech.log]
    assert " ".join("".join(one.text for one in messages if isinstance(one, SpeakIn)).split()) == fault.spoken
    assert "".join(str(one["text"]) for one in events if one["event"] == "said").strip() == fault.spoken
    spoken = [type(one) for one in messages if isinstance(one, SpeakIn | FlushIn | ClearIn)]
    assert spoken[-1:] == ([FlushIn] if fault.spoken else []), "what was received is flushed, and nothing else"


# Each is a process that imports an SDK for half a second or more. Every fault is met by the library in tests/sources as well,
# so only each third is tried here without --all.
ROWS = [pytest.param(row, id=row.name, marks=[pytest.mark.soak] if at % 3 else []) for at, row in enumerate(FAULTS)]


@pytest.mark.parametrize("fault", ROWS)
async def test_fault(tmp_path: Path, canary: Callable[[], str], fault: Fault) -> None:
    async with replay(*fault.replies) as server:
        env = {"BASE_URL": server.url + "/v1", "API_KEY": canary(), **fault.settings}
        found = await say(tmp_path, {f"LLM2WS_LLM__IT__{name}": value for name, value in env.items()}, fault.kind)
    check(fault, int(server.url.rpartition(":")[2]), *found)
    assert len(server.requests) == len(fault.replies), "nothing is retried after the first byte"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://127.0.0.1:PORT/v1", AT + "nothing listens there: start the server, or check base_url"),
        ("http://nowhere.invalid/v1", "m at nowhere.invalid: there is no such address: check base_url, and the network"),
    ],
)
async def test_nobody_is_there(tmp_path: Path, url: str, line: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    found = await say(tmp_path, {"LLM2WS_LLM__IT__BASE_URL": url.replace("PORT", str(port))})
    check(Fault("", (), line), port, *found)


async def test_tls_where_there_is_none(tmp_path: Path) -> None:
    def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await say(tmp_path, {"LLM2WS_LLM__IT__BASE_URL": f"https://127.0.0.1:{port}"})
    check(Fault("", (), AT + "TLS failed: check whether base_url is https:// or http://"), port, *found)


@pytest.mark.parametrize("known", [False, True])
async def test_a_private_authority(tmp_path: Path, known: bool) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    env = {"LLM2WS_LLM__IT__CA_FILE": str(tmp_path / "ca.pem")} if known else {}
    async with replay(answer(HALF, DONE), tls=tls) as server:
        found = await say(tmp_path, env | {"LLM2WS_LLM__IT__BASE_URL": server.url})
    refused = Fault("", (), AT + "its certificate is not trusted: set ca_file to the authority's PEM file")
    check(Fault("", (), "", 0, TEXT) if known else refused, int(server.url.rpartition(":")[2]), *found)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_logs_of_the_sdks_stay_where_they_are(tmp_path: Path, canary: Callable[[], str], kind: str) -> None:
    """At DEBUG they hold the prompt, and httpx writes addresses at INFO."""
    key = canary()
    env = {"OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug", "LLM2WS_LOG": "info", "LLM2WS_LLM__IT__KIND": kind}
    env |= {"LLM2WS_LLM__IT__API_KEY": key, "LLM2WS_LLM__IT__MODEL": "m", "LLM2WS_LLM__IT__MAX_RETRIES": "0"}
    async with replay(refusal(500)) as server, FaultySpeech() as speech:
        env["LLM2WS_LLM__IT__BASE_URL"] = server.url
        done = await asyncio.to_thread(run, ["say", PROMPT, "--speech", speech.url, "--no-play"], cwd=tmp_path, env=env)
    assert done.code == 3
    assert_no_canary(done.stderr)
    assert "xyzzy" not in done.stderr
    assert {json.loads(line)["logger"].partition(".")[0] for line in done.stderr.splitlines() if line[0] == "{"} <= {"llm2ws"}
