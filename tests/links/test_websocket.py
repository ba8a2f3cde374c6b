"""Handshakes over real sockets: granted, refused, unanswered; keys, proxies, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from llm2ws.audio import AudioFormat
from llm2ws.errors import ConfigError, ConnectFailed
from llm2ws.links.websocket import WebSocketLink, client_tls, open_websocket
from llm2ws.speech.dialect import Setup
from llm2ws.speech.dialects import DIALECTS
from llm2ws.speech.dialects.deepgram import Deepgram
from llm2ws.testing import Faults, FaultySpeech

FORMAT = AudioFormat(sample_rate_hz=8_000)


async def opened(url: str, key: str = "", *, tls: ssl.SSLContext | None = None, open_s: float = 5.0) -> WebSocketLink:
    return await open_websocket(Deepgram(Setup(url, "", FORMAT, key)), tls=tls, open_s=open_s, close_s=1.0)


async def refusal(url: str, key: str = "", *, tls: ssl.SSLContext | None = None, open_s: float = 5.0) -> ConnectFailed:
    with pytest.raises(ConnectFailed) as caught:
        await opened(url, key, tls=tls, open_s=open_s)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that says the same to all: its host and port, and what it was asked."""
    asked = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500, 503])
async def test_a_refused_handshake_says_what_to_do(status: int, canary: Callable[[], str]) -> None:
    async with FaultySpeech() as speech:
        speech.refusals.append(status)
        error = await refusal(speech.url, canary())
        assert error.status == status
        assert f"ws://127.0.0.1:{speech.port}/v1/speak: answered HTTP {status}" in error.what
        assert (error.retry_s is not None) == (status in (429, 500, 503))


async def test_a_wrong_key_is_named_as_such(canary: Callable[[], str]) -> None:
    async with FaultySpeech(key=canary()) as speech:
        error = await refusal(speech.url, canary())
        assert "DEEPGRAM_API_KEY" in error.hint
        assert (error.status, error.retry_s) == (401, None)


@pytest.mark.parametrize("name", DIALECTS)
async def test_a_redirect_is_not_followed_so_that_the_key_stays_here(name: str, canary: Callable[[], str]) -> None:
    redirect = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with answering(redirect) as (address, asked):
        setup = Setup(f"ws://{address}", "", FORMAT, canary())
        with pytest.raises(ConnectFailed, match="HTTP 307") as caught:
            await open_websocket(DIALECTS[name](setup), tls=None, open_s=5.0, close_s=1.0)
    assert "redirects are not followed" in caught.value.hint
    assert (caught.value.retry_s, len(asked)) == (None, 1)


async def test_where_nothing_listens() -> None:
    async with FaultySpeech() as speech:
        url = speech.url
    error = await refusal(url)
    assert "nothing listens there" in error.what
    assert error.retry_s is not None


async def test_a_handshake_that_is_never_answered_is_given_up() -> None:
    async with FaultySpeech() as speech:
        speech.faults = Faults(handshake_s=math.inf)
        assert "did not answer within 0.05 s" in (await refusal(speech.url, open_s=0.05)).what


async def test_an_open_that_is_cancelled_leaves_nothing() -> None:
    async with FaultySpeech() as speech:
        speech.faults = Faults(handshake_s=math.inf)
        task = asyncio.create_task(opened(speech.url))
        await speech.until(lambda s: s.handshakes == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_proxies_are_ignored_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with FaultySpeech() as speech:
        await (await opened(speech.url)).close()
        assert speech.connections == 1


async def test_proxies_are_used_for_vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (address, asked):
        monkeypatch.setenv("https_proxy", f"http://{address}")
        error = await refusal("wss://speech.example/", "not sent")
    assert asked[0].startswith(b"CONNECT speech.example:443 ")
    assert b"not sent" not in asked[0]
    assert "proxy" in str(error).lower()


@pytest.mark.parametrize("scheme", ["ftp", "socks5"])
async def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    scheme: str, monkeypatch: pytest.MonkeyPatch, canary: Callable[[], str]
) -> None:
    password = canary()
    monkeypatch.setenv("https_proxy", f"{scheme}://user:{password}@127.0.0.1:1")
    with pytest.raises(ConfigError, match="the proxy cannot be used") as caught:
        await opened("wss://speech.example/", "not sent")
    assert "HTTPS_PROXY" in caught.value.hint
    assert password not in "".join(traceback.format_exception(caught.value))


async def test_a_key_in_clear_text_to_another_machine_is_not_even_tried(canary: Callable[[], str]) -> None:
    with pytest.raises(ConfigError, match="in clear text"):
        await opened("ws://192.0.2.1:1/v1/speak", canary())


# --- certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_tls(authority: trustme.CA, host: str = "127.0.0.1", *, expired: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    not_after = datetime(2021, 1, 1, tzinfo=UTC) if expired else None
    not_before = datetime(2020, 1, 1, tzinfo=UTC) if expired else None
    authority.issue_cert(host, not_before=not_before, not_after=not_after).configure_cert(context)
    return context


async def test_a_private_authority_can_be_named(authority: trustme.CA, ca_file: str, canary: Callable[[], str]) -> None:
    key = canary()
    async with FaultySpeech(tls=server_tls(authority), key=key) as speech:
        await (await opened(speech.url, key, tls=client_tls(ca_file))).close()
        assert speech.connections == 1


async def test_each_fault_of_a_certificate_has_its_name(authority: trustme.CA, ca_file: str) -> None:
    named = client_tls(ca_file)
    for context, client, what in (
        (server_tls(authority), None, "unknown authority"),
        (server_tls(authority), client_tls(), "unknown authority"),
        (server_tls(authority, "elsewhere.example"), named, "for another host"),
        (server_tls(authority, expired=True), named, "expired"),
    ):
        async with FaultySpeech(tls=context) as speech:
            error = await refusal(speech.url, "not sent", tls=client)
            assert what in error.what
            assert error.retry_s is None
            assert speech.handshakes == 0


async def test_tls_where_there_is_none(ca_file: str) -> None:
    async with FaultySpeech() as speech:
        error = await refusal(speech.url.replace("ws:", "wss:"), tls=client_tls(ca_file))
        assert "no TLS there" in error.what or "hung up" in error.what  # as the reset comes before or after its answer
        assert "ws://" in error.hint


def test_a_file_that_names_no_authority(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.pem: No such file"):
        client_tls(str(tmp_path / "missing.pem"))
    bad = tmp_path / "bad.pem"
    bad.write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"bad\.pem: not a PEM certificate"):
        client_tls(str(bad))
