"""What becomes of an answer when something goes wrong: one line, one outcome, and what was received is kept.

Each fault is met by every API of an SDK where it can have it, over real sockets and through the official SDKs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trustme

from llm2ws import openai_chat
from llm2ws.errors import SourceError
from tests.sources.asking import PROMPT, outcome_of, refusal
from tests.sources.kinds import KINDS, Kind, every_sdk
from tests.sources.replay import SSE, End, Reply, json_reply, replay, stream
from tests.support import MS, texts_of


class Fault(NamedTuple):
    """A reply instead of an answer, and what the error says after the model and the server."""

    reply: Reply
    line: str
    status: int | None = None
    retry: bool = False


PAGE = Reply([b"<!doctype html><title>Welcome</title>"], 200, {"Content-Type": "text/html"})
FAULTS = {
    "400": Fault(refusal(400), "400, the request was refused (invalid_request_error): check the settings", 400),
    "400 long": Fault(
        refusal(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        "400, the conversation is longer than the model takes (context_length_exceeded, invalid_request_error): shorten it",
        400,
    ),
    "402": Fault(refusal(402), "402, the account has no credit left (invalid_request_error): add credit", 402),
    "403": Fault(refusal(403), "403, the key may not use this model (invalid_request_error): choose another", 403),
    "404 model": Fault(
        refusal(404, "The model `m` does not exist", "model_not_found"),
        "404, it has no such model (model_not_found, invalid_request_error): set model",
        404,
    ),
    "404 ollama": Fault(
        refusal(404, 'model "m" not found, try pulling it first'),
        "404, it has no such model (invalid_request_error): set model",
        404,
    ),
    "404 path": Fault(
        Reply([b"<h1>404</h1>"], 404, {"Content-Type": "text/html"}),
        "404, no such address or model: check the settings base_url (usually like https://api.",
        404,
    ),
    "408": Fault(refusal(408), "408, the server gave up waiting (invalid_request_error): try again", 408, retry=True),
    "413": Fault(Reply([], 413), "413, the conversation is longer than the server takes: shorten it", 413),
    "422": Fault(json_reply(422, {"detail": [{"loc": ["body"], "msg": PROMPT}]}), "422, the request was refused: check", 422),
    "418": Fault(Reply([b"{}"], 418), "418, the request was refused: check the settings", 418),
    "429": Fault(refusal(429, code="rate_limit_exceeded"), "429, too many requests (rate_limit_exceeded,", 429, retry=True),
    "429 wait": Fault(
        refusal(429, Retry_After="7"), "429, too many requests (invalid_request_error): try again in 7 s", 429, True
    ),
    "429 quota": Fault(
        refusal(429, code="insufficient_quota"), "429, the account has no credit left (insufficient_quota,", 429
    ),
    "500": Fault(
        Reply([PROMPT.encode()], 500), "500, an error of the server: try again, or look into its log", 500, retry=True
    ),
    "500 memory": Fault(
        refusal(500, "model requires more system memory (9 GiB) than is available"),
        "500, the server has too little memory for the model (invalid_request_error): choose a smaller model",
        500,
    ),
    "503": Fault(Reply([], 503), "503, the server is not ready: try again later", 503, retry=True),
    "529": Fault(
        json_reply(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        "529, the server is overloaded (overloaded_error): try again later",
        529,
        retry=True,
    ),
    "redirect": Fault(
        Reply([], 307, {"Location": "https://new.example/v1/x?secret=1"}),
        "307, it redirects to https://new.example/v1/x: set base_url to where the server really is",
        307,
    ),
    "web page": Fault(PAGE, "answered with a web page that is no answer of a model: check base_url"),
    "other JSON": Fault(
        json_reply(200, {"models": []}), "answered with something that is no answer of a model: check base_url"
    ),
    "JSON lines": Fault(Reply([b'{"response":"A"}\n{"response":"B"}\n']), "answered with something that is no answer"),
    "JSON error": Fault(
        json_reply(200, {"type": "error", "error": {"message": PROMPT, "type": "overloaded_error"}}),
        "failed while answering, the server is overloaded (overloaded_error): try again later",
        retry=True,
    ),
    "words": Fault(json_reply(200, {"error": "xyzzy"}), "failed while answering, an error of the server: try", None, True),
    "words, refused": Fault(json_reply(500, {"error": "xyzzy"}), "500, an error of the server: try again", 500, retry=True),
    "nothing": Fault(Reply([]), "the answer ended before it was complete: look into the server's log", retry=True),
    "closed at once": Fault(
        Reply(raw=b"", end=End.EOF), "the connection broke: try again, or look into the server's log", retry=True
    ),
    "another protocol": Fault(Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n", end=End.EOF), "the connection broke", retry=True),
    "not gzip": Fault(Reply([b"data: {}\n\n"], 200, {**SSE, "Content-Encoding": "gzip"}), "the connection broke", retry=True),
}


def assert_line(error: SourceError | None, url: str, line: str) -> None:
    assert error is not None
    assert str(error).startswith(f"m at {url.split('//')[1]}: {line}")
    assert "\n" not in str(error)
    assert not any("xyzzy" in text for text in texts_of(error))  # the prompt, in whatever the servers echo


@every_sdk
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_before_the_answer(kind: Kind, name: str) -> None:
    fault = FAULTS[name]
    async with replay(fault.reply) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)

    assert_line(error, server.url, fault.line)
    assert (text, asides) == ("", [])
    assert error is not None
    assert (error.status, error.retry) == (fault.status, fault.retry)


class Broken(NamedTuple):
    """What comes after half an answer, how the response ends, and what the error says."""

    pieces: Sequence[bytes]
    end: End
    line: str


BROKEN = {
    "reset": Broken([], End.RESET, "the connection broke"),
    "cut": Broken([], End.CUT, "the connection broke"),
    "ended": Broken([], End.CHUNK, "the answer ended before it was complete"),
    "ended in an event": Broken([b'data: {"choices":[{"delta":{"cont'], End.EOF, "the answer ended before it was complete"),
    "no JSON": Broken([b'data: {"choices"\n\n'], End.CHUNK, "sent an event that is no JSON"),
    "stalled": Broken([b": still\n\n"], End.HOLD, "nothing came for"),
    "a line without end": Broken([b"data: " + b"x" * 9_000_000], End.HOLD, "sent an event of more than 8388608 bytes"),
}


@every_sdk
@pytest.mark.parametrize("name", BROKEN)
async def test_a_fault_within_the_answer_keeps_what_came_before(kind: Kind, name: str) -> None:
    pieces, end, line = BROKEN[name]
    async with replay(Reply([kind.half, *pieces], end=end)) as server:
        text, asides, error = await outcome_of(kind.ask, server.url, stall_s=(200 if name == "stalled" else 30_000) * MS)

    assert (text, asides) == ("Half an answer", [])
    assert_line(error, server.url, line)
    assert len(server.requests) == 1


RECORDED = {
    "vllm_old_error": "failed while answering, an error of the server (InternalServerError): try again",
    "vllm_new_error": "failed while answering, an error of the server (InternalServerError): try again",
    "llamacpp_old_error": "failed while answering, the conversation is longer than the model takes (server_error)",
    "llamacpp_new_error": "failed while answering, the conversation is longer than the model takes (server_error)",
    "openrouter_error": "failed while answering, an error of the server: try again",
    "responses_error": "failed while answering, an error of the server (server_error): try again, or look into",
    "responses_failed": "failed while answering, too many requests (rate_limit_exceeded): try again later",
    "anthropic_error": "failed while answering, the server is overloaded (overloaded_error): try again later",
}


@pytest.mark.parametrize("name", RECORDED)
async def test_servers_that_say_under_status_200_that_they_failed(name: str) -> None:
    kind = KINDS.get(name.partition("_")[0], KINDS["openai"])
    async with replay(Reply([stream(name)])) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)

    assert (text, asides) == ("Half an answer", [])
    assert_line(error, server.url, RECORDED[name])


QUIET = {
    "before headers": Reply(raw=b"", end=End.HOLD),
    "after headers": Reply([], end=End.HOLD),
    "with comments": Reply([b": loading\n\n", b": loading\n\n"], end=End.HOLD),
    "within JSON": Reply([b'{"choices": ['], end=End.HOLD),
}


@every_sdk
@pytest.mark.parametrize("name", QUIET)
async def test_a_server_that_never_begins(kind: Kind, name: str) -> None:
    async with replay(QUIET[name]) as server:
        _, _, error = await outcome_of(kind.ask, server.url, first_token_s=300 * MS)
        await server.left.wait()

    assert_line(error, server.url, "no answer in time: raise first_token_s if the model needs longer to load")


@every_sdk
async def test_a_model_that_is_loaded_first_may_take_longer_than_a_stall(kind: Kind) -> None:
    """The limit for a stall is passed many times before the first event comes."""
    async with replay(Reply([kind.half], end=End.HOLD)) as server:
        items = kind.ask(PROMPT, model="m", base_url=server.url, first_token_s=30_000 * MS, stall_s=0.0)

        assert await anext(items) == "Half an"
        await items.aclose()


@every_sdk
async def test_the_key_is_refused_and_echoed(kind: Kind, canary: Callable[[], str]) -> None:
    key = canary()
    body = {"error": {"message": f"Incorrect API key provided: {key}", "type": "auth", "code": key}}
    async with replay(json_reply(401, body)) as server:
        _, _, error = await outcome_of(kind.ask, server.url, api_key=key)

    variable = "ANTHROPIC_API_KEY" if kind.name == "anthropic" else "OPENAI_API_KEY"
    assert_line(error, server.url, f"401, the key was refused (auth): set {variable} to a valid key")
    assert error is not None
    assert not any(key in text for text in texts_of(error))
    assert any(key in value for value in server.requests[0].headers.values())


@every_sdk
async def test_a_key_is_asked_for(kind: Kind) -> None:
    async with replay(refusal(401)) as server:
        _, _, error = await outcome_of(kind.ask, server.url)

    assert_line(error, server.url, "401, it asks for a key (invalid_request_error): set api_key")


async def test_a_name_that_does_not_exist() -> None:
    url = "http://no-such-host.invalid"
    _, _, error = await outcome_of(openai_chat, url)

    assert_line(error, url, "there is no such address: check base_url, and the network")


async def test_an_address_that_cannot_be_reached() -> None:
    url = "http://255.255.255.255"
    _, _, error = await outcome_of(openai_chat, url)

    assert_line(error, url, "it cannot be reached: check base_url, and the network")


@every_sdk
async def test_proxies(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://llm.example"
    async with replay(Reply()) as server:
        monkeypatch.setenv("http_proxy", server.url)
    _, _, unreachable = await outcome_of(kind.ask, url)
    async with replay(Reply([], 407)) as server:
        monkeypatch.setenv("https_proxy", server.url)
        _, _, refusal = await outcome_of(kind.ask, url.replace("http:", "https:"))

    assert_line(unreachable, url, "the proxy cannot be reached: check HTTPS_PROXY")
    assert_line(refusal, url, "the proxy refused: check HTTPS_PROXY")


@every_sdk
async def test_certificates(kind: Kind, tmp_path: Any) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with replay(Reply([kind.whole()]), tls=context) as server:
        strange = await outcome_of(kind.ask, server.url)
        known = await outcome_of(kind.ask, server.url, ca_file=str(tmp_path / "ca.pem"))

    assert_line(strange.error, server.url, "its certificate is not trusted: set ca_file to the authority's PEM file")
    assert known.error is None
    assert known.text.startswith("Why?")


@asynccontextmanager
async def plain_server() -> AsyncIterator[str]:
    """Answers whatever comes, as web servers answer a TLS greeting."""

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@every_sdk
async def test_https_where_http_is_spoken(kind: Kind) -> None:
    async with plain_server() as url:
        _, _, error = await outcome_of(kind.ask, url)

    assert_line(error, url, "TLS failed: check whether base_url is https:// or http://")
