"""Every kind of LLM meets every case: one table. A kind that cannot says why in `tests/sources/kinds.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from copy import deepcopy

import pytest

from llm2ws.errors import SourceError
from llm2ws.settings import llms
from llm2ws.sources.model import ModelSettings
from tests.sources.asking import PROMPT, Outcome, outcome_of
from tests.sources.kinds import KINDS, Kind, Listening, Script
from tests.sources.replay import WHOLE, End
from tests.support import MS, texts_of

HALF = ("Half an", " answer")
TOKENS = [WHOLE[i : i + 5] for i in range(0, len(WHOLE), 5)]


def script(kind: Kind, *texts: str, reason: str = "stop") -> Script:
    """Check the contract of a source with a whole answer."""
    return Script([piece for text in texts for piece in pieces(kind.text(text))] + pieces(kind.end(reason)))


def half(kind: Kind, *more: object, end: End) -> Script:
    return Script([piece for part in (*map(kind.text, HALF), *more) for piece in pieces(part)], end)


def pieces(written: object) -> list[object]:
    """Bytes are one; what goes over gRPC is a list already."""
    return written if isinstance(written, list) else [written]


def assert_fails(outcome: Outcome, server: Listening, line: str, *, text: str = "Half an answer") -> None:
    assert (outcome.text, outcome.asides) == (text, [])
    assert isinstance(outcome.error, SourceError)
    assert str(outcome.error).startswith(f"m at {server.url.partition('://')[2]}: ")
    assert line in str(outcome.error)
    assert not any("xyzzy" in shown for shown in texts_of(outcome.error))  # the prompt, in whatever the servers echo


async def the_vendors_text(kind: Kind) -> None:
    async with kind.server(script(kind, *TOKENS)) as server:
        expected = await kind.reference(server.url) if kind.reference else WHOLE
        text, asides, error = await outcome_of(kind.ask, server.url)
    assert (text, error) == (expected, None)
    assert expected == WHOLE
    assert [(aside.kind, aside.data["reason"]) for aside in asides] == [("finish", "stop")]


async def every_cut(kind: Kind) -> None:
    """Feed the reader of a real answer with two reads, cut at each byte."""
    parts = [*kind.reasoning, kind.text("Let’s"), kind.text(" 日本 🎉\n"), *kind.call, kind.end("stop")]
    body = b"".join(parts)
    async with kind.server(Script([body])) as server, AsyncExitStack() as stack:
        client = await stack.enter_async_context(kind.client(ModelSettings(model="m", base_url=server.url)))
        fresh = (await client._ask(PROMPT, {}, stack)).reader
    for at in range(1, len(body)):
        reader = deepcopy(fresh)
        items = [item for data in (body[:at], body[at:], b"") for item in reader.feed(data)]
        assert "".join(item for item in items if isinstance(item, str)) == "Let’s 日本 🎉\n", at
        assert reader.end().kind == "finish", at


async def tool_call(kind: Kind) -> None:
    async with kind.server(Script([kind.text("One moment."), *kind.call, kind.end("stop")])) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)
    assert (text, error) == ("One moment.", None)
    calls = [aside.data for aside in asides if aside.kind == "tool_call"]
    assert (calls[0]["id"], calls[0]["name"]) == ("call_1", "get_weather")
    assert len({call["index"] for call in calls}) == 1
    assert "".join(str(call.get("arguments", "")) for call in calls) == '{"city": "Köln"}'
    assert [aside.kind for aside in asides[-2:]] == ["tool_call", "finish"]


async def reasoning(kind: Kind) -> None:
    async with kind.server(Script([*kind.reasoning, kind.text("Yes."), kind.end("stop")])) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)
    assert (text, len(asides), error) == ("Yes.", 1, None)


async def length(kind: Kind) -> None:
    async with kind.server(script(kind, *HALF, reason="length")) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)
    assert (text, error) == ("Half an answer", None)
    assert [aside.data["reason"] for aside in asides] == ["length"]


async def no_text(kind: Kind) -> None:
    async with kind.server(script(kind, " ")) as server:
        text, asides, error = await outcome_of(kind.ask, server.url)
    assert (text, len(asides), error) == (" ", 1, None)


async def refused(kind: Kind) -> None:
    async with kind.server(Script(status=503)) as server:
        outcome = await outcome_of(kind.ask, server.url)
    assert_fails(outcome, server, "", text="")
    assert outcome.error is not None
    assert outcome.error.retry


async def the_key_is_refused(kind: Kind) -> None:
    async with kind.server(Script(status=401)) as server:
        outcome = await outcome_of(kind.ask, server.url, api_key="a-key")
    assert_fails(outcome, server, ", the key was refused", text="")
    assert outcome.error is not None
    assert not outcome.error.retry


async def tried_again(kind: Kind) -> None:
    async with kind.server(Script(status=503), script(kind, *HALF)) as server:
        text, _, error = await outcome_of(kind.ask, server.url, max_retries=1)
    assert (text, error) == ("Half an answer", None)


async def error_within(kind: Kind) -> None:
    async with kind.server(half(kind, kind.error, kind.text("no"), end=End.CHUNK)) as server:
        assert_fails(await outcome_of(kind.ask, server.url), server, "failed while answering, ")


async def bare_end(kind: Kind) -> None:
    async with kind.server(half(kind, end=End.CHUNK)) as server:
        assert_fails(await outcome_of(kind.ask, server.url), server, "the answer ended before it was complete")


async def broken(kind: Kind) -> None:
    async with kind.server(half(kind, end=End.RESET)) as server:
        assert_fails(await outcome_of(kind.ask, server.url), server, "the connection broke")


async def stall(kind: Kind) -> None:
    async with kind.server(half(kind, end=End.HOLD)) as server:
        assert_fails(await outcome_of(kind.ask, server.url, stall_s=200 * MS), server, "nothing came for")
        await server.left.wait()


async def silence(kind: Kind) -> None:
    async with kind.server(Script(end=End.HOLD)) as server:
        assert_fails(await outcome_of(kind.ask, server.url, first_token_s=300 * MS), server, "no answer in time", text="")
        await server.left.wait()


async def nobody_there(kind: Kind) -> None:
    async with kind.server(Script()) as server:
        pass
    assert_fails(await outcome_of(kind.ask, server.url), server, "nothing listens there: start the server", text="")


async def leaving(kind: Kind) -> None:
    """Check that the server sees it: the test's own time limit is the assertion."""
    async with kind.server(half(kind, end=End.HOLD)) as server:
        items = kind.ask(PROMPT, model="m", base_url=server.url)
        assert str(await anext(items)).startswith("Half an")
        await items.aclose()
        await server.left.wait()


async def cancelling(kind: Kind) -> None:
    async with kind.server(half(kind, end=End.HOLD)) as server:
        taken = asyncio.create_task(outcome_of(kind.ask, server.url))
        await server.holding.wait()
        taken.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taken
        await server.left.wait()


CASES: list[Callable[[Kind], Awaitable[None]]] = [
    the_vendors_text,
    every_cut,
    tool_call,
    reasoning,
    length,
    no_text,
    refused,
    the_key_is_refused,
    tried_again,
    error_within,
    bare_end,
    broken,
    stall,
    silence,
    nobody_there,
    leaving,
    cancelling,
]
NAMES = {case.__name__.replace("_", " "): case for case in CASES}


@pytest.mark.parametrize(
    ("kind", "case"),
    [pytest.param(kind, case, id=f"{kind.name}-{name}") for kind in KINDS.values() for name, case in NAMES.items()],
)
async def test_conformance(
    kind: Kind, case: Callable[[Kind], Awaitable[None]], record_property: Callable[[str, object], None]
) -> None:
    name = case.__name__.replace("_", " ")
    record_property("llm", f"{kind.name} {name}")
    if why := kind.without.get(name):
        pytest.xfail(why)
    await case(kind)


def test_what_a_kind_cannot_is_a_case_with_a_reason() -> None:
    for kind in KINDS.values():
        assert kind.without.keys() <= NAMES.keys()
        assert all(kind.without.values())


def test_every_kind_has_a_row() -> None:
    assert {*KINDS, "echo"} == set(llms.KINDS)
