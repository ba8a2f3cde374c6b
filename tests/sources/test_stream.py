"""Any HTTP stream, by a path to the text: servers as they really speak, and what is asked of them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Unpack

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from llm2ws import Aside
from llm2ws.errors import ConfigError, SourceError
from llm2ws.server.run import running
from llm2ws.settings.fields import Llm, Server, Settings, Speech
from llm2ws.sources.failover import one_answer
from llm2ws.sources.model import LlmEndpoint, ModelOptions, ModelSettings
from llm2ws.sources.prompt import Prompt
from llm2ws.sources.stream import VENDOR, HttpStream, Shape, ShapeReader, at, splitter_of
from llm2ws.testing import FaultySpeech
from tests.server.conftest import CODING
from tests.sources.asking import PROMPT, Ask, outcome_of
from tests.sources.kinds import CHAT
from tests.sources.replay import SSE, WHOLE, End, Reply, json_reply, read, replay, stream
from tests.support import texts_of

HERE = LlmEndpoint(VENDOR, "http://127.0.0.1", "127.0.0.1", "m", "", loopback=True)
PAGE = {"Content-Type": "text/html; charset=utf-8"}


def asking(shape: Shape) -> Ask:
    def ask(prompt: Prompt, **options: Unpack[ModelOptions]) -> AsyncGenerator[str | Aside, None]:
        return one_answer(HttpStream(ModelSettings(**options), shape), prompt)

    return ask


class Recorded(NamedTuple):
    """A recorded stream, and the settings that read it."""

    shape: Shape
    reason: str = "stop"


RECORDED = {
    "bare.sse": Recorded(Shape()),
    "cumulative.sse": Recorded(Shape(text_path="text", end="done", cumulative=True)),
    "gemini.sse": Recorded(Shape(text_path="candidates.0.content.parts.0.text", end="candidates.0.finishReason")),
    "llamacpp_native.sse": Recorded(Shape(text_path="content", end="stop_type")),
    "tgi.sse": Recorded(Shape(text_path="token.text", end="generated_text")),
    "triton_generate.sse": Recorded(Shape(text_path="text_output")),
    "ollama_chat.ndjson": Recorded(Shape(framing="ndjson", text_path="message.content", end="done_reason")),
    "ollama_generate.ndjson": Recorded(Shape(framing="ndjson", text_path="response", end="done_reason"), reason="length"),
}


def items_of(reader: ShapeReader, *reads: bytes) -> tuple[str, Aside]:
    """Return the items that a reader gives of a response, up to where the answer is complete."""
    text = ""
    for data in (*reads, b""):
        if reader.complete:
            break
        for item in reader.feed(data):
            assert isinstance(item, str)
            text += item
    return text, reader.end()


def reader_of(shape: Shape) -> ShapeReader:
    return ShapeReader(splitter_of(shape, "the stream"), shape, HERE)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_streams_cut_at_every_byte(name: str) -> None:
    shape, reason = RECORDED[name]
    whole, fresh = stream(name), reader_of(shape)

    for cut in range(len(whole)):
        text, last = items_of(deepcopy(fresh), *filter(None, (whole[:cut], whole[cut:])))
        assert (text, last.data["reason"]) == (WHOLE, reason), cut


@pytest.mark.parametrize("name", RECORDED)
async def test_recorded_streams_over_a_socket(name: str) -> None:
    shape, reason = RECORDED[name]
    whole = stream(name)
    async with replay(Reply([whole[i : i + 7] for i in range(0, len(whole), 7)])) as server:
        text, asides, error = await outcome_of(asking(shape), server.url)

    assert (text, error) == (WHOLE, None)
    assert [aside.data for aside in asides] == [{"reason": reason, "usage": None}]


@pytest.mark.parametrize("name", [name for name, one in RECORDED.items() if one.shape.end])
def test_what_has_an_end_is_not_complete_without_it(name: str) -> None:
    reader = reader_of(RECORDED[name].shape)
    half = stream(name)[: len(stream(name)) // 2]

    with pytest.raises(SourceError, match="the answer ended before it was complete"):
        items_of(reader, half)


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_text_itself_does_not_depend_on_the_reads(texts: Sequence[str], data: st.DataObject) -> None:
    body = "".join(texts).removeprefix("\ufeff").encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    reads = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    if body and body != b"[DONE]" and b"[DONE]" not in reads:
        assert items_of(reader_of(Shape(framing="text")), *filter(None, reads))[0] == body.decode().removeprefix("\ufeff")


# --- what is asked ----------------------------------------------------------------------------------------------------------


async def test_the_usual_request_is_what_most_servers_take() -> None:
    async with replay(Reply([stream("openai")])) as server:
        await outcome_of(asking(CHAT), server.url)
        options: ModelOptions = {"system": "Be brief.", "temperature": 0.5, "max_tokens": 9, "stop": ["END"]}
        text, _, error = await outcome_of(asking(CHAT), f"{server.url}/chat", **options)

    assert (text, error) == (WHOLE, None)
    question = {"role": "user", "content": PROMPT}
    assert [request.path for request in server.requests] == ["/", "/chat"]
    assert server.requests[0].body == {"model": "m", "messages": [question], "stream": True}
    assert server.requests[1].body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, question],
        "temperature": 0.5,
        "max_tokens": 9,
        "stop": ["END"],
        "stream": True,
    }


async def test_fields_of_a_request_win_over_the_settings_where_there_is_a_place_for_them() -> None:
    async with replay(Reply([stream("openai")])) as server:
        async with HttpStream(ModelSettings(base_url=server.url, temperature=0.5, max_tokens=9), CHAT) as client:
            await read(client.answer("Why?", extra={"temperature": 0.1, "top_p": 0.9, "seed": 7}))

    (asked,) = server.requests
    question = {"role": "user", "content": "Why?"}
    assert asked.body == {"messages": [question], "temperature": 0.1, "top_p": 0.9, "max_tokens": 9, "stream": True}


async def test_a_request_of_ones_own_with_values_as_values(canary: Callable[[], str]) -> None:
    request = '{"q": "{prompt}", "who": "{system}", "options": {"n": "{max_tokens}", "t": "{temperature}"}, "n": [1, null]}'
    shape = Shape(framing="text", request=request, headers=[("X-Tenant", "one")], key_header="X-Api-Key")
    key = canary()
    prompt = '", "who": "{system}", {prompt} \\ ü'
    async with replay(Reply([b"Yes."], headers={"Content-Type": "text/plain"})) as server:
        client = HttpStream(ModelSettings(base_url=server.url, api_key=key, system="Be brief.", max_tokens=9), shape)
        async with client:
            text, *_ = await read(client.answer(prompt))

    (asked,) = server.requests
    assert text == "Yes."
    assert asked.body == {"q": prompt, "who": "Be brief.", "options": {"n": 9}, "n": [1, None]}
    assert (asked.headers["x-api-key"], asked.headers["x-tenant"]) == (key, "one")
    assert "authorization" not in asked.headers
    assert asked.headers["accept-encoding"] == "identity"


async def test_gemini_as_it_wants_to_be_asked(canary: Callable[[], str]) -> None:
    shape = replace(RECORDED["gemini.sse"].shape, request='{"contents": [{"parts": [{"text": "{prompt}"}]}]}')
    shape, key = replace(shape, key_header="x-goog-api-key"), canary()
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    async with replay(Reply([stream("gemini")])) as server:
        text, _, error = await outcome_of(asking(shape), f"{server.url}{path}", api_key=key)

    assert (text, error) == (WHOLE, None)
    assert server.requests[0].path == path
    assert server.requests[0].headers["x-goog-api-key"] == key
    assert server.requests[0].body == {"contents": [{"parts": [{"text": PROMPT}]}]}


WRONG: dict[str, tuple[Shape, ModelOptions, str]] = {
    "no address": (Shape(), {}, "no address is set"),
    "no JSON": (Shape(request="{"), {}, "request is no JSON"),
    "no object": (Shape(request="[]"), {}, "request is no JSON object"),
    "no question": (Shape(request="{}"), {}, "no place for the question"),
    "unknown": (Shape(request='{"a": "{prompt}", "b": "{promt}"}'), {}, r"\{promt\} stands for nothing"),
    "no place": (Shape(request='{"a": "{prompt}"}'), {"max_tokens": 9}, "max_tokens is set, and request has no place"),
    "no path": (Shape(framing="ndjson"), {}, "text_path is not set"),
    "clear text": (Shape(), {"base_url": "http://llm.example/chat", "api_key": "k"}, "in clear text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_right(name: str) -> None:
    shape, options, line = WRONG[name]
    given: ModelOptions = {"base_url": None if name == "no address" else "http://127.0.0.1/chat", **options}
    with pytest.raises(ConfigError, match=line):
        HttpStream(ModelSettings(**given), shape)


# --- what goes wrong --------------------------------------------------------------------------------------------------------

FAULTS = {
    "error by a path": (
        Shape(text_path="text", error_path="failure.reason"),
        Reply([b'data: {"failure": {"reason": "xyzzy"}}\n\n']),
        "failed while answering, an error of the server",
    ),
    "error as the first event": (
        Shape(),
        Reply([b'data: {"error": {"code": 429, "message": "xyzzy"}}\n\n']),
        "failed while answering, too many requests",
    ),
    "error by its name": (Shape(), Reply([b"event: error\ndata: model m not found\n\n"]), "it has no such model"),
    "no JSON": (Shape(text_path="text"), Reply([b"data: xyzzy\n\n"]), "sent an event that is no JSON"),
    "a web page": (Shape(), Reply([b"<p>xyzzy"], headers=PAGE), "answered with a web page"),
    "nothing": (Shape(), Reply([]), "answered with something that is no answer of a model"),
    "taken back": (
        Shape(text_path="text", cumulative=True),
        Reply([b'data: {"text": "Half"}\n\ndata: {"text": "No"}\n\n']),
        "took back what it had said",
    ),
    "a line without end": (
        Shape(framing="ndjson", text_path="text"),
        Reply([b"x" * 9_000_000], end=End.HOLD),
        "sent an event of more than 8388608 bytes",
    ),
    "refused": (Shape(), json_reply(400, {"detail": [{"msg": PROMPT}]}), "400, the request was refused"),
    "refused in words": (Shape(), Reply([b"xyzzy"], 404, PAGE), "404, no such address or model"),
    "redirect": (Shape(), Reply([], 307, {"Location": "http://127.0.0.1:1/x"}), "307, it redirects to http://127.0.0.1:1/x"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_faults(name: str) -> None:
    shape, reply, line = FAULTS[name]
    async with replay(reply) as server:
        _, asides, error = await outcome_of(asking(shape), server.url)

    assert asides == []
    assert error is not None
    assert str(error).startswith(f"m at {server.url.partition('://')[2]}: ")
    assert line in str(error)
    assert not any("xyzzy" in shown for shown in texts_of(error))
    assert len(server.requests) == 1


async def test_what_the_connection_cut_off_is_no_text_and_is_told() -> None:
    shape = Shape(framing="ndjson", text_path="text")
    async with replay(Reply([b'{"text": "One."}\n{"text": " Tw'])) as server:
        text, _, error = await outcome_of(asking(shape), server.url)

    assert text == "One."
    assert "the answer ended before it was complete" in str(error)


RELAYS = {
    "strings of JSON": (Shape(), b'data: "The "\n\ndata:"\\u0073ea."\n\n', "The sea."),
    "a text in quotation marks": (Shape(), b'data: "Come in\n\ndata: ," she said.\n\n', '"Come in," she said.'),
    "lines of JSON": (Shape(text_path="t"), b'data: {"t":"The "}\ndata: {"t":"sea."}\n\n', "The sea."),
    "the end in a line": (Shape(), b"data: The sea.\ndata: [DONE]\ndata: No.\n", "The sea.\n"),
    "usual names": (
        Shape(),
        b'event: metadata\ndata: {"id": 1}\n\nevent: ping\ndata: 2026\n\nevent: token\ndata: Yes.\n\nevent: done\ndata: x\n\n',
        "Yes.",
    ),
    "names that are set": (
        Shape(text_events=["token", "message"]),
        b"event: token\ndata: One.\n\nevent: status\ndata: thinking\n\ndata:  Two.\n\n",
        "One. Two.",
    ),
    "names beside a path": (
        Shape(text_path="t", text_events=["token"]),
        b'event: token\ndata: {"t": "One."}\n\nevent: log\ndata: {"t": "no"}\n\nevent: log\ndata: no\n\n',
        "One.",
    ),
    "LangServe": (
        Shape(text_path="content", text_events=["data"], end="end"),
        b'event: metadata\ndata: {"run_id": "1"}\n\nevent: data\ndata: {"content": "Yes."}\n\nevent: end\n\n',
        "Yes.",
    ),
    "LangServe without an end that is set": (
        Shape(text_path="content"),
        b'event: data\ndata: {"content": "Yes."}\n\nevent: end\n\n',
        "Yes.",
    ),
    "objects beside the text": (Shape(), b'data: {"id": 1}\n\ndata: {}\n\ndata: {\n\ndata: Yes.\n\n', "{}{Yes."),
    "LangServe with a parser": (
        Shape(text_events=["data"], end="end"),
        b'event: metadata\ndata: {"run_id": "1"}\n\nevent: data\ndata: "Yes."\n\nevent: end\n\n',
        "Yes.",
    ),
    "a keep-alive": (Shape(text_path="t"), b'data: : keepalive\n\ndata: \n\ndata: {"t":"Yes."}\n\n', "Yes."),
    "an empty answer": (Shape(text_path="t"), b'data: {"t":""}\n\n', ""),
    "an end that is not yet": (
        Shape(text_path="t", end="finish_reason"),
        b'data: {"t":"Yes", "finish_reason":"null"}\n\ndata: {"t":".", "finish_reason":"eos_token"}\n\n',
        "Yes.",
    ),
}


@pytest.mark.parametrize("name", RELAYS)
async def test_relays(name: str) -> None:
    shape, body, said = RELAYS[name]
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        async with replay(Reply(pieces)) as server:
            text, asides, error = await outcome_of(asking(shape), server.url)

        assert (text, error) == (said, None)
        assert [aside.data["reason"] for aside in asides] == ["stop"]


REASON = Shape(text_path="t", end="finish_reason")
BROKEN_OFF = {
    "a reason that is a failure": (REASON, b'data: {"t":"Yes", "finish_reason":"ERROR"}\n\n', "gave up while answering"),
    "an error as an object": (Shape(), b'data: Yes\n\ndata: {"error": "xyzzy"}\n\n', "failed while answering"),
    "an end that is missing": (Shape(end="end"), b"data: Yes\n\n", "ended before it was complete"),
}


@pytest.mark.parametrize("name", BROKEN_OFF)
async def test_what_a_server_gave_before_it_failed_is_given(name: str) -> None:
    shape, body, line = BROKEN_OFF[name]
    async with replay(Reply([body])) as server:
        text, asides, error = await outcome_of(asking(shape), server.url)

    assert (text, asides) == ("Yes", [])
    assert line in str(error)


STRANGE = {
    "another path": (Shape(text_path="t"), b'data: {"text":"Yes."}\n\ndata: [DONE]\n\n'),
    "no path": (Shape(), b'data: {"text":"Yes."}\n\ndata: [DONE]\n\n'),
    "another path, in lines": (Shape(framing="ndjson", text_path="t"), b'{"text":"Yes."}\n'),
    "another name": (Shape(text_events=["token"]), b"event: chunk\ndata: Yes.\n\n"),
    "no name": (Shape(text_events=["token"]), b"data: Yes.\n\n"),
}


@pytest.mark.parametrize("name", STRANGE)
async def test_data_without_text_is_an_error_that_names_the_settings(name: str) -> None:
    shape, body = STRANGE[name]
    async with replay(Reply([body])) as server:
        text, _, error = await outcome_of(asking(shape), server.url)

    assert text == ""
    assert "sent data in which there is no text that is known here: check the settings text_path" in str(error)


async def test_a_reason_that_is_not_known_is_passed_on() -> None:
    async with replay(Reply([b'data: {"t":"Yes", "finish_reason":"MOONRISE"}\n\n'])) as server:
        _, asides, error = await outcome_of(asking(REASON), server.url)

    assert error is None
    assert [aside.data["reason"] for aside in asides] == ["MOONRISE"]


@pytest.mark.parametrize(
    ("framing", "charset", "encoding"),
    [
        ("text", "iso-8859-1", "latin-1"),
        ("text", '"UTF-16LE"', "utf-16-le"),
        ("text", "UTF-8", "utf-8-sig"),
        ("text", "base64", "utf-8"),
        ("text", "idna", "utf-8"),
        ("text", "no-such", "utf-8"),
        ("sse", "iso-8859-1", "utf-8"),
    ],
)
async def test_a_text_is_read_in_the_encoding_that_its_server_names(framing: str, charset: str, encoding: str) -> None:
    said = "Gr\u00fc\u00dfe aus K\u00f6ln."
    body = (f"data: {said}\n\n" if framing == "sse" else said).encode(encoding)
    headers = {"Content-Type": f"text/plain; charset={charset}"}
    async with replay(Reply([body[:3], body[3:]], headers=headers)) as server:
        assert (await outcome_of(asking(Shape(framing=framing)), server.url)).text == said


@pytest.mark.parametrize("framing", ["sse", "ndjson"])
async def test_json_that_is_nested_too_deep_is_an_error_by_name(framing: str) -> None:
    deep = b'{"t": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n"
    body = [b"data: " + event if framing == "sse" else event.removesuffix(b"\n") for event in (b'{"t": "One."}\n\n', deep)]
    async with replay(Reply(body)) as server:
        outcome = await outcome_of(asking(Shape(framing=framing, text_path="t")), server.url)
    assert outcome.text == "One."
    assert "sent an event that is no JSON" in str(outcome.error)


@pytest.mark.parametrize("charset", ["utf-16", "utf-32"])
async def test_a_charset_that_needs_a_byte_order_mark_where_there_is_none(charset: str) -> None:
    body = "Hello.".encode(f"{charset}-le")
    async with replay(Reply([body], headers={"Content-Type": f"text/plain; charset={charset}"})) as server:
        outcome = await outcome_of(asking(Shape(framing="text")), server.url)
    assert "not in the charset" in str(outcome.error)


async def test_a_private_certificate_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with replay(Reply([stream("bare")]), tls=context) as server:
        strange = await outcome_of(asking(Shape()), server.url)
        known = await outcome_of(asking(Shape()), server.url, ca_file=str(tmp_path / "ca.pem"))

    assert "its certificate is not trusted" in str(strange.error)
    assert (known.text, known.error) == (WHOLE, None)


async def test_a_client_keeps_its_connection_from_answer_to_answer() -> None:
    async with replay(Reply([stream("bare")], headers=SSE)) as server:
        async with HttpStream(ModelSettings(base_url=server.url), Shape()) as client:
            for _ in range(3):
                assert (await read(client.answer("Why?"))).text == WHOLE

    assert {request.connection for request in server.requests} == {1}


# --- our own ----------------------------------------------------------------------------------------------------------------


async def test_the_daemons_own_chat_is_such_a_server() -> None:
    shape = Shape(request='{"messages": "{messages}"}', text_path="delta", end="done", error_path="code")
    async with FaultySpeech(coding=CODING) as speech:
        settings = Settings(
            llm={"echo": Llm(tokens_per_s=0)}, speech={"it": Speech(url=speech.url)}, server=Server(listen="127.0.0.1:0")
        )
        async with running(settings) as daemon, HttpStream(ModelSettings(base_url=f"{daemon.url}/chat"), shape) as client:
            assert await client.models() is None
            text, *_ = await read(client.answer("The sky is blue. That is all."))

    assert text == "The sky is blue. That is all."


def test_a_path() -> None:
    value = {"a": [{"b": "x"}, 7], "0": {"c": None}}

    assert at(value, "a.0.b") == "x"
    assert at(value, "0.c") is None
    assert [at(value, path) for path in ("a.2", "a.-1", "a.b", "a.0.b.c", "", "x")] == [None] * 6
