"""Chat Completions passed on: what is put in, what comes back, and every way in which nothing does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from llm2ws.errors import ConfigError, LocalProtocolError, SourceError
from llm2ws.sources.model import ModelSettings, resolve
from llm2ws.sources.openai import VENDOR, OpenAIChat, defaults
from llm2ws.sources.relay import Relay, post_to_first
from tests.sources.replay import SSE, End, Reply, Server, json_reply, replay, stream
from tests.support import MS

FIELDS = {"model": "asked", "messages": [{"role": "user", "content": "Why?"}], "seed": 7, "tools": []}


def raw(fields: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(fields), type=dict[str, msgspec.Raw])


async def answered(server: Server, *, fields: dict[str, Any] = FIELDS, **settings: Any) -> tuple[int, bytes]:
    relay = Relay(ModelSettings(base_url=f"{server.url}/v1", model="m-1", **settings))
    async with relay, relay.post(raw(fields)) as response, aclosing(relay.reads(response)) as reads:
        return response.status, b"".join([data async for data in reads])


async def test_the_bytes_are_the_servers_and_the_request_is_the_clients(canary: Callable[[], str]) -> None:
    key = canary()
    async with replay(Reply([stream("openai")])) as server:
        assert await answered(server, api_key=key) == (200, stream("openai"))
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {**FIELDS, "model": "m-1"}
    assert request.headers["authorization"] == f"Bearer {key}"
    assert request.headers["accept-encoding"] == "identity"


async def test_settings_are_what_a_client_leaves_open() -> None:
    options: Any = {"system": 'Be "brief".', "temperature": 0.5, "max_tokens": 9}
    async with replay(Reply([b"data: [DONE]\n\n"])) as server:
        await answered(server, **options)
        await answered(server, fields={**FIELDS, "temperature": 1, "max_completion_tokens": 3, "messages": []}, **options)
    first, second = (request.body for request in server.requests)
    assert (first["temperature"], first["max_tokens"]) == (0.5, 9)
    assert first["messages"] == [{"role": "system", "content": 'Be "brief".'}, *FIELDS["messages"]]  # type: ignore[misc]
    assert (second["temperature"], second["max_completion_tokens"]) == (1, 3)
    assert "max_tokens" not in second
    assert second["messages"] == [{"role": "system", "content": 'Be "brief".'}]


async def test_settings_are_those_with_which_the_daemon_itself_asks() -> None:
    options: Any = {"base_url": "", "model": "m-1", "system": "Be brief.", "template": "{system} {prompt}!", "temperature": 0}
    options |= {"max_tokens": 9, "stop": ["THE END"], "extra": {"seed": 8, "top_k": 5, "stream_options": {}}}
    async with replay(Reply([b"data: [DONE]\n\n"])) as server:
        options["base_url"] = f"{server.url}/v1"
        async with OpenAIChat(ModelSettings(**options)) as chat:
            assert [item async for item in chat.answer(FIELDS["messages"])]  # type: ignore[arg-type]
        async with Relay(ModelSettings(**options)) as relay, relay.post(raw(FIELDS)):
            pass
    asked, relayed = (request.body for request in server.requests)
    assert relayed.pop("tools") == []
    assert (asked.pop("stream"), asked.pop("stream_options")) == (True, {})  # which is for the client to say
    assert asked.pop("seed") == 8
    assert relayed.pop("seed") == 7  # the client's
    assert relayed == asked
    assert relayed["messages"] == [{"role": "user", "content": "Be brief. Why?!"}]


def test_openai_is_told_the_limit_by_the_name_that_it_takes(canary: Callable[[], str]) -> None:
    settings = ModelSettings(api_key=canary(), max_tokens=50)
    assert defaults(resolve(settings, VENDOR), settings) == {"max_completion_tokens": 50}


async def test_a_template_and_messages_that_cannot_be_read() -> None:
    relay = Relay(ModelSettings(base_url="http://127.0.0.1:1", model="m-1", template="{prompt}"))
    async with relay:
        with pytest.raises(SourceError, match="cannot be read"):
            async with relay.post({"messages": msgspec.Raw(b'[{"content": "\\ud800"}]')}):
                pass


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_a_refusal_is_passed_on(status: int) -> None:
    async with replay(json_reply(status, {"error": {"message": "no"}})) as server:
        assert await answered(server) == (status, b'{"error": {"message": "no"}}')
    assert len(server.requests) == 1  # the client tries again, if anybody does


async def test_redirects_are_not_followed() -> None:
    async with replay(Reply([], 302, {"Location": "http://127.0.0.1:1/"})) as server:
        assert (await answered(server))[0] == 302


@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_an_answer_that_breaks_off(end: End) -> None:
    async with replay(Reply([b"data: {}\n\n"], 200, SSE, end)) as server:
        with pytest.raises(SourceError, match="the connection broke"):
            await answered(server)


async def test_an_answer_that_stops_coming() -> None:
    async with replay(Reply([b"data: {}\n\n"], 200, SSE, End.HOLD)) as server:
        with pytest.raises(SourceError, match="nothing came for"):
            await answered(server, stall_s=100 * MS)
        await server.left.wait()


async def test_the_time_that_the_listener_takes_is_not_the_servers() -> None:
    async with replay(Reply([b"data: {}\n\n" * 100_000])) as server:
        relay = Relay(ModelSettings(base_url=server.url, model="m-1", stall_s=100 * MS))
        async with relay, relay.post(raw(FIELDS)) as response, aclosing(relay.reads(response)) as reads:
            taken = len(await anext(reads))
            await asyncio.sleep(300 * MS)
            assert taken + sum([len(data) async for data in reads]) == 1_000_000


@pytest.mark.parametrize(
    "pieces",
    [[b": ping\n\n"], [b": pi", b"ng\n\n: ", b"p\n"], [b"\n"], []],
    ids=["comment", "in pieces", "empty line", "nothing"],
)
async def test_what_keeps_a_connection_open_is_no_first_token(pieces: list[bytes]) -> None:
    # With it taken for one, there would be an hour's time.
    async with replay(Reply(pieces, 200, SSE, End.HOLD)) as server:
        with pytest.raises(SourceError, match="no answer in time"):
            await answered(server, first_token_s=100 * MS, stall_s=3600)


async def test_a_server_that_does_not_answer() -> None:
    async with replay(Reply(raw=b"", end=End.HOLD)) as server:
        with pytest.raises(SourceError, match="no answer in time"):
            await answered(server, first_token_s=100 * MS)


async def test_a_server_that_is_not_there() -> None:
    async with replay(Reply()) as server:
        pass
    with pytest.raises(SourceError, match="nothing listens there"):
        await answered(server)


async def test_a_kept_connection_that_has_just_ended_is_no_error() -> None:
    once = Reply([b"data: [DONE]\n\n"])
    async with replay(once, Reply(raw=b"", end=End.EOF), once) as server:
        relay = Relay(ModelSettings(base_url=server.url, model="m-1"))
        async with relay:
            for _ in range(2):
                async with relay.post(raw(FIELDS)) as response:
                    assert await response.read() == b"data: [DONE]\n\n"
    assert len(server.requests) == 3


async def test_leaving_closes_the_request() -> None:
    async with replay(Reply([b"data: {}\n\n"], 200, SSE, End.HOLD)) as server:
        relay = Relay(ModelSettings(base_url=server.url, model="m-1"))
        async with relay, relay.post(raw(FIELDS)) as response, aclosing(relay.reads(response)) as reads:
            assert await anext(reads) == b"data: {}\n\n"
        await server.left.wait()


async def test_a_server_that_repeats_its_key_is_noticed(canary: Callable[[], str]) -> None:
    key = canary()
    relay = Relay(ModelSettings(base_url="http://127.0.0.1:1", model="m-1", api_key=key))
    assert relay.holds_key(f"bad key {key}!".encode())
    assert not relay.holds_key(b"bad key")
    assert not Relay(ModelSettings(base_url="http://127.0.0.1:1", model="m-1")).holds_key(b"")


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_an_answer_that_repeats_the_key_ends_before_it(canary: Callable[[], str], size: int) -> None:
    key = canary()
    body = f'data: {{"n": "{key[:-1]}"}}\n\ndata: {{"error": "bad key {key}!"}}\n\n'.encode()
    taken = b""
    async with replay(Reply([body[at : at + size] for at in range(0, len(body), size)])) as server:
        relay = Relay(ModelSettings(base_url=server.url, model="m-1", api_key=key))
        async with relay, relay.post(raw(FIELDS)) as response, aclosing(relay.reads(response)) as reads:
            with pytest.raises(SourceError, match="repeats its key"):
                async for data in reads:
                    taken += data
    assert body.startswith(taken)
    assert len(taken) <= body.index(f"bad key {key}".encode()) + len("bad key ")


@pytest.mark.parametrize(("key", "passes"), [("ollama", True), ("ollama-but-secret", False)])
async def test_a_word_instead_of_a_key_stands_in_answers(key: str, passes: bool) -> None:
    chunk = json.dumps({"system_fingerprint": f"fp_{key}", "choices": [{"delta": {"content": f"error: {key}"}}]}).encode()
    pieces = [b"data: " + chunk + b"\n\n", b"data: [DONE] and " + key[:3].encode()]
    async with replay(Reply(pieces), Reply([b'data: {"error": "' + key.encode() + b'"}\n\n'])) as server:
        if passes:
            assert await answered(server, api_key=key) == (200, b"".join(pieces))
        for _ in range(2 - passes):
            with pytest.raises(SourceError, match="repeats its key"):
                await answered(server, api_key=key)


async def test_it_says_what_is_wrong_before_anything_is_sent(canary: Callable[[], str]) -> None:
    with pytest.raises(ConfigError, match="clear text"):
        Relay(ModelSettings(base_url="http://example.com/v1", model="m", api_key=canary()))
    relay = Relay(ModelSettings(base_url="http://127.0.0.1:1", model="m"))
    with pytest.raises(LocalProtocolError, match="not entered"):
        async with relay.post(raw(FIELDS)):
            pass


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_no_proxy_for_this_machine(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with replay(Reply([b"data: [DONE]\n\n"])) as server:
        assert await answered(server) == (200, b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("first", "status", "goes_on"),
    [
        (json_reply(503, {}), 200, True),
        (json_reply(429, {}), 200, True),
        (Reply(raw=b"", end=End.RESET), 200, True),
        (json_reply(400, {}), 400, False),  # it would be refused there too
        (json_reply(401, {}), 401, False),  # and this is a mistake to be seen
        (Reply([b"data: 1\n\n"], 200, SSE), 200, False),
    ],
    ids=["503", "429", "reset", "400", "401", "200"],
)
async def test_the_next_one_is_asked_for_what_may_succeed_there(first: Reply, status: int, goes_on: bool) -> None:
    async with replay(first) as one, replay(Reply([b"data: 2\n\n"])) as two:
        relays = [Relay(ModelSettings(base_url=f"{server.url}/v1", model=server.url[-5:])) for server in (one, two)]
        async with relays[0], relays[1], post_to_first(relays, raw(FIELDS)) as (relay, answer):
            assert (answer.status, relay is relays[1]) == (status, goes_on)
        assert [request.body["model"] for request in two.requests] == [two.url[-5:]] * goes_on


async def test_the_answer_of_the_last_one_is_given_whatever_it_is() -> None:
    async with replay(json_reply(503, {})) as one, replay(json_reply(500, {"error": {}})) as two:
        relays = [Relay(ModelSettings(base_url=f"{server.url}/v1", model="m")) for server in (one, two)]
        async with relays[0], relays[1], post_to_first(relays, raw(FIELDS)) as (_, answer):
            assert (answer.status, await answer.read()) == (500, b'{"error": {}}')
        nowhere = Relay(ModelSettings(base_url="http://127.0.0.1:1/v1", model="m"))
        async with relays[0], nowhere:
            with pytest.raises(SourceError, match="nothing listens there"):
                async with post_to_first([relays[0], nowhere], raw(FIELDS)):
                    pass


async def test_what_fails_while_an_answer_is_read_is_not_asked_again() -> None:
    async with replay(Reply([b"data: 1\n\n"], 200, SSE, End.CUT)) as one, replay(Reply([b"data: 2\n\n"])) as two:
        relays = [Relay(ModelSettings(base_url=f"{server.url}/v1", model="m")) for server in (one, two)]
        async with relays[0], relays[1]:
            with pytest.raises(SourceError, match="broke"):
                async with post_to_first(relays, raw(FIELDS)) as (relay, answer), aclosing(relay.reads(answer)) as reads:
                    async for _ in reads:
                        pass
        assert two.requests == []
