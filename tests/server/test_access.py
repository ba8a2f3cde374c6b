"""Who may ask, from where, and how much."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llm2ws.errors import ConfigError
from llm2ws.server.access import KEY_CHARS, Access, TokenBucket
from llm2ws.settings.fields import ClientLimits, Key, Secret, Server
from tests.server.conftest import Running, Start, says
from tests.server.test_chat import SPOKEN, TEXT, heard, sdk
from tests.sources.replay import End
from tests.support import assert_no_canary

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}


async def status(daemon: Running, path: str = "/v1/models", method: str = "GET", **options: Any) -> int:
    async with daemon.http.request(method, path, **options) as answer:
        await answer.read()
        return answer.status


def with_keys(*keys: str, **limits: float) -> Server:
    entries = tuple(Key(name=f"client-{i}", key=Secret(key), limits=limits) for i, key in enumerate(keys))
    return Server(keys=entries)


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (Server(listen="0.0.0.0:0"), "without a key"),
        (Server(listen="[::]:0"), "without a key"),
        (Server(listen="192.0.2.1:80"), "without a key"),
        (Server(listen="8765"), "not an address"),
        (Server(listen="127.0.0.1:x"), "not an address"),
        (Server(listen="127.0.0.1:70000"), "not an address"),
        (Server(hosts=("https://voice.example.com",)), "not the name of a host"),
        (Server(hosts=("voice.example.com:443",)), "not the name of a host"),
        (Server(hosts=("",)), "not the name of a host"),
        (Server(origins=("app.example.com",)), "not an origin"),
        (Server(origins=("https://app.example.com/page",)), "not an origin"),
        (Server(origins=("*",)), "not an origin"),
        (Server(keys=(Key(name="a", key=Secret("short")),)), f"less than {KEY_CHARS} characters"),
        (Server(keys=(Key(name="a", key=Secret("k" * 20)), Key(name="a", key=Secret("l" * 20)))), "two have one name"),
        (Server(keys=(Key(name="a", key=Secret("k" * 20)), Key(name="b", key=Secret("k" * 20)))), "two have one key"),
        (Server(keys=(Key(name="a", key=Secret("k" * 20), limits={"conversations": 0}),)), "a"),
        (Server(keys=(Key(name="a", key=Secret("k" * 20), limits={"conversation": 1}),)), "'a': .* unknown field conversation"),
        (Server(keys=(Key(name="a", key=Secret("k" * 20), limits={"messages_per_s": math.inf}),)), "'a': .*messages_per_s"),
    ],
)
def test_settings_under_which_strangers_could_ask(server: Server, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Access(server)


def test_insecure_has_to_be_said() -> None:
    Access(Server(listen="0.0.0.0:0", insecure=True))
    Access(Server(listen="[::1]:0", hosts=("::1", "192.0.2.1", "voice_1.example.com"), origins=("https://[::1]:8000/",)))


async def test_every_form_in_which_a_key_is_sent(start: Start, canary: Callable[[], str]) -> None:
    keys = [canary(), canary()]
    forms = [
        {"Authorization": f"Bearer {keys[0]}"},
        {"Authorization": f"Token {keys[1]}"},
        {"Authorization": f"token {keys[0]}"},
        {"Sec-WebSocket-Protocol": f"token, {keys[0]}"},
        {"Sec-WebSocket-Protocol": f"bearer, {keys[1]}"},
        {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{keys[0]}"},
    ]
    wrong = [
        {},
        {"Authorization": f"Bearer {keys[0]}x"},
        {"Authorization": f"Basic {keys[0]}"},
        {"Authorization": keys[0]},
        {"Authorization": "Bearer "},
        {"Sec-WebSocket-Protocol": f"token, {keys[0][:-1]}"},
        {"Sec-WebSocket-Protocol": keys[0]},
    ]
    async with start(server=with_keys(*keys)) as daemon:
        assert [await status(daemon, headers=form) for form in forms] == [200] * len(forms)
        assert [await status(daemon, headers=form) for form in wrong] == [401] * len(wrong)
        assert await status(daemon, f"/v1/models?key={keys[0]}") == 401
        assert [await status(daemon, path) for path in ("/healthz", "/readyz", "/metrics", "/nowhere")] == [200, 200, 401, 401]
        async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="client key"):
                await client.models.list()


async def answer_to(daemon: Running, request: str) -> bytes:
    """The head of what comes to these lines, b"" where the connection is closed instead."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rpartition(":")[2]))
    try:
        writer.write(f"{request}\r\n\r\n".encode())
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("path", ["/v1/speak", "/v1/realtime", "/chat", "/v1/models", "/nowhere"])
async def test_no_form_of_a_key_is_logged(start: Start, canary: Callable[[], str], path: str) -> None:
    """The fixture `canary` fails the test if a key is in any line that is logged, of whichever library, at any level."""
    key = canary()
    offers = (
        f"openai-insecure-api-key.{key}",
        f"realtime, openai-insecure-api-key.{key}",
        f"openai-insecure-api-key.{key}, realtime",
        f"token, {key}",
        f"TOKEN, {key}",
        f"{key}, token",
        f"token, {key}, other",
        f"token {key}",
        f"other.{key}",
        key,
    )
    begun = 0
    async with start(server=with_keys(key, messages_per_s=1_000)) as daemon:
        for offer in offers:
            for more in ("", f"\r\nAuthorization: Bearer {key}", f"\r\nCookie: a b={key}; {key}\r\nX-Api-Key: {key}"):
                request = f"GET {path}?key={key} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                request += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                answer = await answer_to(daemon, f"{request}Sec-WebSocket-Protocol: {offer}{more}")
                assert answer.startswith(b"HTTP/1.1 ")
                assert_no_canary(answer, "an answer")
                begun += answer.startswith(b"HTTP/1.1 101 ")
    assert bool(begun) == (path in ("/v1/speak", "/v1/realtime"))


async def test_what_is_no_http_is_not_logged(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    async with start(server=with_keys(key)) as daemon:
        for request in (
            f"{key} / HTTP/1.1",
            f"GET /{key} HTTP/{key}",
            f"GET / HTTP/1.1\r\nAuthorization: Bearer {key}\r\nBroken header {key}",
            f"GET / HTTP/1.1\r\nContent-Length: {key}",
            f"GET / HTTP/1.1\r\nTransfer-Encoding: {key}",
            f"GET / HTTP/1.1\r\nAuthorization: Bearer {key}\0",
            f"GET /v1/speak?{key} HTTP/1.1\r\nHost: localhost\r\nUpgrade: {key}\r\nConnection: {key}",
            f"GET /v1/models HTTP/1.1\r\nHost: {key}",
        ):
            await answer_to(daemon, request)


async def test_wrong_keys_are_limited_and_right_ones_are_not(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    async with start(server=with_keys(key)) as daemon:
        wrong = [await status(daemon, headers={"Authorization": "Bearer wrong"}) for _ in range(25)]
        assert (wrong[0], wrong[-1]) == (401, 429)
        assert await status(daemon, headers={"Authorization": f"Bearer {key}"}) == 200


HOSTS = [
    ("localhost", 200),
    ("localhost:1234", 200),
    ("127.0.0.1", 200),
    ("127.8.8.8:80", 200),
    ("[::1]:80", 200),
    ("voice.example.com", 200),
    ("VOICE.example.com:443", 200),
    ("evil.example.com", 421),
    ("127.0.0.1.evil.example.com", 421),
    ("192.168.1.5", 421),
    ("localhost@evil.example.com", 421),
    ("[::1", 421),
    ("", 421),
]


@pytest.mark.parametrize(("host", "expected"), HOSTS)
async def test_hosts(start: Start, host: str, expected: int) -> None:
    async with start(server=Server(hosts=("voice.example.com",))) as daemon:
        assert await status(daemon, headers={"Host": host}) == expected


CROSS = [
    ({}, 200),
    ({"Origin": "https://app.example.com"}, 200),
    ({"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}, 200),
    ({"Origin": "SAME", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Origin": "https://evil.example.com"}, 403),
    ({"Origin": "http://app.example.com"}, 403),
    ({"Origin": "https://app.example.com.evil.com"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost:1"}, 403),
    ({"Origin": "http://[::1"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
]


@pytest.mark.parametrize(("headers", "expected"), CROSS)
async def test_pages_of_others(start: Start, headers: dict[str, str], expected: int) -> None:
    async with start(TEXT, server=Server(origins=("https://app.example.com",))) as daemon:
        headers = {name: daemon.url if value == "SAME" else value for name, value in headers.items()}
        async with daemon.http.post("/v1/chat/completions", json=BODY, headers=headers) as answer:
            await answer.read()
            assert answer.status == expected
            allowed = expected == 200 and "app.example.com" in headers.get("Origin", "")
            assert answer.headers.get("Access-Control-Allow-Origin") == (headers["Origin"] if allowed else None)


async def test_preflight(start: Start) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    async with start(server=replace(with_keys("k" * 20), origins=("https://app.example.com",))) as daemon:
        good = {"Origin": "https://app.example.com", **asks}
        async with daemon.http.options("/v1/chat/completions", headers=good) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
        assert await status(daemon, "/v1/chat/completions", "OPTIONS", headers={"Origin": "https://x.example", **asks}) == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_other_bodies_than_json(start: Start, kind: str) -> None:
    async with start() as daemon:
        assert await status(daemon, "/v1/chat/completions", "POST", data=b"{}", headers={"Content-Type": kind}) == 415


async def test_how_much_a_client_may_use(start: Start, canary: Callable[[], str]) -> None:
    key = canary()
    headers = {"Authorization": f"Bearer {key}"}
    async with start(server=with_keys(key, body_bytes=1_000)) as daemon:
        big = {**BODY, "user": "x" * 2_000}
        assert await status(daemon, "/v1/chat/completions", "POST", json=big, headers=headers) == 413

        async def parts() -> Any:
            for _ in range(40):
                yield b" " * 100

        typed = {**headers, "Content-Type": "application/json"}
        assert await status(daemon, "/v1/chat/completions", "POST", data=parts(), headers=typed) == 413
    async with start(server=with_keys(key, messages_per_s=2)) as daemon:
        seen = [await status(daemon, headers=headers) for _ in range(4)]
        assert (seen[:2], seen[-1]) == ([200, 200], 429)
        assert await status(daemon, "/healthz") == 200


async def test_conversations_at_once(start: Start) -> None:
    server = Server(limits=ClientLimits(conversations=1))
    async with start(says("One. Two", end=End.HOLD), server=server) as daemon:
        asked = {**BODY, "stream": True}
        async with daemon.http.post("/v1/chat/completions", json=asked) as answer:
            await answer.content.readany()
            assert await status(daemon) == 429
        await daemon.llm.left.wait()
        await daemon.daemon.until_unused()
        assert await status(daemon) == 200


@pytest.mark.parametrize("limit", [{"text_chars": 40}, {"turn_speech_s": 0.05}, {"hour_speech_s": 0.05}])
async def test_an_answer_that_is_too_long_ends_there(start: Start, limit: dict[str, Any]) -> None:
    server = Server(limits=ClientLimits(**limit))
    async with start(says(TEXT * 3, end=End.HOLD), server=server) as daemon, sdk(daemon) as client:
        _, _, audio, taken = await heard(await client.chat.completions.create(**SPOKEN, stream=True))
        assert taken[-1].choices[0].finish_reason == "length"
        await daemon.llm.left.wait()  # its request is closed: nothing is paid for that nobody hears
        metrics = daemon.daemon.metrics.exposition().decode()
        outcome = "text limit" if "text_chars" in limit else "speech limit"
        assert f'llm2ws_turns_total{{face="chat",outcome="{outcome}"}} 1.0' in metrics
        if "hour_speech_s" in limit:
            with pytest.raises(openai.RateLimitError, match="used up"):
                await client.chat.completions.create(**SPOKEN, stream=True)
    assert audio


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 5)), max_size=50), st.floats(0.1, 10), st.floats(1, 10))
def test_a_rate_never_gives_more_than_it_has(asks: list[tuple[float, float]], per_s: float, burst: float) -> None:
    rate, now, given_out = TokenBucket(per_s, burst), 0.0, 0.0
    for gap_s, n in asks:
        now += gap_s
        if rate.take(n, now):
            given_out += n
        assert given_out <= burst + per_s * now + 1e-6
