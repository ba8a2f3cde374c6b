"""What becomes of an answer when something goes wrong: one line, one outcome, and what was received is kept.

Each fault is met by both APIs where both can have it, over real sockets and through the official SDKs.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple, Protocol, Unpack

import pytest
import trustme

from llm2ws import Aside, anthropic_messages, openai_chat
from llm2ws.errors import SourceError
from llm2ws.sources.answer import _Watchdog
from llm2ws.sources.model import ModelOptions
from llm2ws.sources.prompt import Prompt
from tests.sources.clock import run_jumping
from tests.sources.replay import SSE, End, Reply, json_reply, replay, stream
from tests.support import MS, texts_of

PROMPT = "Why is the secret word xyzzy?"


class Ask(Protocol):
    def __call__(self, prompt: Prompt, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]: ...


class Outcome(NamedTuple):
    text: str
    asides: list[Aside]
    error: SourceError | None


async def outcome_of(ask: Ask, url: str, **options: Unpack[ModelOptions]) -> Outcome:
    text: list[str] = []
    asides: list[Aside] = []
    try:
        given: ModelOptions = {"model": "m", "base_url": url, "max_retries": 0, **options}
        async for item in ask(PROMPT, **given):
            if isinstance(item, str):
                text.append(item)
            else:
                asides.append(item)
    except SourceError as exc:
        return Outcome("".join(text), asides, exc)
    return Outcome("".join(text), asides, None)


def chunk(content: str | None = None, reason: str | None = None, **delta: Any) -> bytes:
    if content is not None:
        delta["content"] = content
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


HALF = {openai_chat: chunk("Half an") + chunk(" answer"), anthropic_messages: delta("Half an") + delta(" answer")}
BOTH: list[Ask] = [openai_chat, anthropic_messages]


both = pytest.mark.parametrize("ask", BOTH, ids=["openai", "anthropic"])


class Fault(NamedTuple):
    """A reply instead of an answer, and what the error says after the model and the server."""

    reply: Reply
    line: str
    status: int | None = None
    retry: bool = False


def refusal(status: int, message: str = "", code: str | None = None, **headers: str) -> Reply:
    error = {"message": message or f"no: {PROMPT}", "type": "invalid_request_error", "param": None, "code": code}
    return json_reply(status, {"error": error}, **headers)


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
        "failed in the middle of the answer, the server is overloaded (overloaded_error): try again later",
        retry=True,
    ),
    "words": Fault(
        json_reply(200, {"error": "xyzzy"}), "failed in the middle of the answer, an error of the server: try", None, True
    ),
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


@both
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_before_the_answer(ask: Ask, name: str) -> None:
    fault = FAULTS[name]
    async with replay(fault.reply) as server:
        text, asides, error = await outcome_of(ask, server.url)

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


@both
@pytest.mark.parametrize("name", BROKEN)
async def test_a_fault_within_the_answer_keeps_what_came_before(ask: Ask, name: str) -> None:
    pieces, end, line = BROKEN[name]
    async with replay(Reply([HALF[ask], *pieces], end=end)) as server:
        text, asides, error = await outcome_of(ask, server.url, stall_s=(200 if name == "stalled" else 30_000) * MS)

    assert (text, asides) == ("Half an answer", [])
    assert_line(error, server.url, line)
    assert len(server.requests) == 1


RECORDED = {
    "vllm_old_error": "failed in the middle of the answer, an error of the server (InternalServerError): try again",
    "vllm_new_error": "failed in the middle of the answer, an error of the server (InternalServerError): try again",
    "llamacpp_old_error": "failed in the middle of the answer, the conversation is longer than the model takes (server_error)",
    "llamacpp_new_error": "failed in the middle of the answer, the conversation is longer than the model takes (server_error)",
    "openrouter_error": "failed in the middle of the answer, an error of the server: try again",
    "anthropic_error": "failed in the middle of the answer, the server is overloaded (overloaded_error): try again later",
}


@pytest.mark.parametrize("name", RECORDED)
async def test_servers_that_say_under_status_200_that_they_failed(name: str) -> None:
    ask: Ask = anthropic_messages if name.startswith("anthropic") else openai_chat
    async with replay(Reply([stream(name)])) as server:
        text, asides, error = await outcome_of(ask, server.url)

    assert (text, asides) == ("Half an answer", [])
    assert_line(error, server.url, RECORDED[name])


QUIET = {
    "before headers": Reply(raw=b"", end=End.HOLD),
    "after headers": Reply([], end=End.HOLD),
    "with comments": Reply([b": loading\n\n", b": loading\n\n"], end=End.HOLD),
    "within JSON": Reply([b'{"choices": ['], end=End.HOLD),
}


@both
@pytest.mark.parametrize("name", QUIET)
async def test_a_server_that_never_begins(ask: Ask, name: str) -> None:
    async with replay(QUIET[name]) as server:
        _, _, error = await outcome_of(ask, server.url, first_token_s=300 * MS)
        await server.left.wait()

    assert_line(error, server.url, "no answer in time: raise first_token_s if the model needs longer to load")


@both
async def test_a_model_that_is_loaded_first_may_take_longer_than_a_stall(ask: Ask) -> None:
    """The limit for a stall is passed many times before the first event comes."""
    async with replay(Reply([HALF[ask]], end=End.HOLD)) as server:
        items = ask(PROMPT, model="m", base_url=server.url, first_token_s=30_000 * MS, stall_s=0.0)

        assert await anext(items) == "Half an"
        await items.aclose()


@both
async def test_the_key_is_refused_and_echoed(ask: Ask, canary: Callable[[], str]) -> None:
    key = canary()
    body = {"error": {"message": f"Incorrect API key provided: {key}", "type": "auth", "code": key}}
    async with replay(json_reply(401, body)) as server:
        _, _, error = await outcome_of(ask, server.url, api_key=key)

    variable = "OPENAI_API_KEY" if ask is openai_chat else "ANTHROPIC_API_KEY"
    assert_line(error, server.url, f"401, the key was refused (auth): set {variable} to a valid key")
    assert error is not None
    assert not any(key in text for text in texts_of(error))
    assert any(key in value for value in server.requests[0].headers.values())


@both
async def test_a_key_is_asked_for(ask: Ask) -> None:
    async with replay(refusal(401)) as server:
        _, _, error = await outcome_of(ask, server.url)

    assert_line(error, server.url, "401, it asks for a key (invalid_request_error): set api_key")


@both
async def test_nobody_listens(ask: Ask) -> None:
    async with replay(Reply()) as server:
        pass
    _, _, error = await outcome_of(ask, server.url)

    assert_line(error, server.url, "nothing listens there: start the server, or check base_url")


async def test_a_name_that_does_not_exist() -> None:
    url = "http://no-such-host.invalid"
    _, _, error = await outcome_of(openai_chat, url)

    assert_line(error, url, "there is no such address: check base_url, and the network")


async def test_an_address_that_cannot_be_reached() -> None:
    url = "http://255.255.255.255"
    _, _, error = await outcome_of(openai_chat, url)

    assert_line(error, url, "it cannot be reached: check base_url, and the network")


@both
async def test_proxies(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://llm.example"
    async with replay(Reply()) as server:
        monkeypatch.setenv("http_proxy", server.url)
    _, _, unreachable = await outcome_of(ask, url)
    async with replay(Reply([], 407)) as server:
        monkeypatch.setenv("https_proxy", server.url)
        _, _, refusal = await outcome_of(ask, url.replace("http:", "https:"))

    assert_line(unreachable, url, "the proxy cannot be reached: check HTTPS_PROXY")
    assert_line(refusal, url, "the proxy refused: check HTTPS_PROXY")


@both
async def test_certificates(ask: Ask, tmp_path: Any) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with replay(Reply([stream("anthropic" if ask is anthropic_messages else "openai")]), tls=context) as server:
        strange = await outcome_of(ask, server.url)
        known = await outcome_of(ask, server.url, ca_file=str(tmp_path / "ca.pem"))

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


@both
async def test_https_where_http_is_spoken(ask: Ask) -> None:
    async with plain_server() as url:
        _, _, error = await outcome_of(ask, url)

    assert_line(error, url, "TLS failed: check whether base_url is https:// or http://")


@both
async def test_retries_before_the_first_token_are_the_sdks(ask: Ask) -> None:
    whole = stream("anthropic" if ask is anthropic_messages else "openai")
    busy = refusal(503, retry_after_ms="1")
    async with replay(busy, busy, Reply([whole])) as server:
        text, _, error = await outcome_of(ask, server.url, max_retries=2)

    assert error is None
    assert text.startswith("Why?")
    assert len(server.requests) == 3


@both
async def test_compressed_although_not_asked_for(ask: Ask) -> None:
    whole = gzip.compress(stream("anthropic" if ask is anthropic_messages else "openai"))
    pieces = [whole[i : i + 100] for i in range(0, len(whole), 100)]
    async with replay(Reply(pieces, 200, {**SSE, "Content-Encoding": "gzip"})) as server:
        text, _, error = await outcome_of(ask, server.url)

    assert error is None
    assert text.endswith("Done.")
    assert server.requests[0].headers["accept-encoding"] == "identity"


@both
async def test_a_line_of_a_megabyte(ask: Ask) -> None:
    long = "x" * 1_000_000
    pieces = [chunk(long), chunk(reason="stop")] if ask is openai_chat else [delta(long), event("message_stop")]
    async with replay(Reply(pieces)) as server:
        text, _, error = await outcome_of(ask, server.url)

    assert error is None
    assert text == long


@both
async def test_an_answer_without_text(ask: Ask) -> None:
    pieces = [chunk(reason="stop")] if ask is openai_chat else [event("message_stop")]
    async with replay(Reply(pieces)) as server:
        text, asides, error = await outcome_of(ask, server.url)

    assert (text, error) == ("", None)
    assert [aside.kind for aside in asides] == ["finish"]


@both
async def test_a_connection_that_stays_open_after_the_answer_holds_up_nothing(ask: Ask) -> None:
    whole = stream("anthropic" if ask is anthropic_messages else "openai")
    async with replay(Reply([whole], end=End.HOLD)) as server:
        text, asides, error = await outcome_of(ask, server.url)
        await server.left.wait()

    assert (text[-5:], len(asides), error) == ("Done.", 1, None)


@both
@pytest.mark.parametrize("by", ["aclose", "cancel", "cancel before headers"])
async def test_leaving_closes_the_connection_and_the_server_sees_it(ask: Ask, by: str) -> None:
    reply = Reply([HALF[ask]], end=End.HOLD, raw=b"" if by == "cancel before headers" else None)
    async with replay(reply) as server:
        items = ask(PROMPT, model="m", base_url=server.url)
        if by == "aclose":
            assert await anext(items) == "Half an"
            await items.aclose()
        else:
            taken = asyncio.create_task(_take_all(items))
            await server.holding.wait()
            taken.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taken
        await server.left.wait()  # the test's own time limit is the assertion


async def _take_all(items: AsyncIterator[str | Aside]) -> list[str | Aside]:
    return [item async for item in items]


async def gaps(*waits: float) -> AsyncGenerator[bytes, None]:
    for wait_s in waits:
        await asyncio.sleep(wait_s)
        yield b"x"


def watched(waits: Sequence[float], limits: Sequence[float], *, pause_s: float = 0.0) -> tuple[list[bytes | None], float]:
    """What reads with these limits give, `pause_s` apart, and when the last one was over."""

    async def read() -> list[bytes | None]:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        found = []
        with _Watchdog(loop) as watchdog:
            async with aclosing(gaps(*waits)) as reads:
                for limit_s in limits:
                    found.append(await watchdog.read(reads, loop.time() + limit_s))
                    assert task is not None
                    assert task.cancelling() == 0
                    await asyncio.sleep(pause_s)
        return found

    return run_jumping(read())


@pytest.mark.parametrize(
    ("waits", "limits", "found", "seconds"),
    [
        ([1, 2], [10, 10, 10], [b"x", b"x", b""], 3),
        ([1, 50], [10, 10], [b"x", None], 11),  # a limit is that of one read, and not of the time since the first
        ([9, 9, 9, 50], [10] * 4, [b"x"] * 3 + [None], 37),
        ([1, 500], [120, 30], [b"x", None], 31),  # a shorter one after a longer one
        ([29, 100], [30, 120], [b"x", b"x"], 129),  # and the other way round
    ],
)
def test_a_read_is_given_its_time(
    waits: Sequence[float], limits: Sequence[float], found: Sequence[bytes | None], seconds: float
) -> None:
    read, took = watched(waits, limits)

    assert read == found
    assert took == pytest.approx(seconds)


def test_the_time_that_the_listener_takes_is_not_the_servers() -> None:
    assert watched([1, 9, 50], [10] * 3, pause_s=100)[0] == [b"x", b"x", None]


def test_a_cancellation_from_outside_is_not_taken_for_silence() -> None:
    async def read() -> None:
        loop = asyncio.get_running_loop()
        with _Watchdog(loop) as watchdog:
            async with aclosing(gaps(500)) as reads, asyncio.timeout(5):
                await watchdog.read(reads, loop.time() + 10)

    with pytest.raises(TimeoutError):
        run_jumping(read())
