"""What is no proper request: each has a status and says what to do, no traceback is logged, and the daemon serves on."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import uuid
from pathlib import Path
from typing import Any

import pytest

from llm2ws.settings.fields import ClientLimits, Server
from tests.server.conftest import Running, Start, says
from tests.server.test_access import BODY, status
from tests.server.test_chat import ASK, SPOKEN, TEXT
from tests.sources.replay import End

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def sent(daemon: Running, data: bytes, *, eof: bool = False) -> bytes:
    """What the daemon answers to these bytes, to the end of the connection or of the first answer's head and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        answer = b""
        async with asyncio.timeout(10):
            while part := await reader.read(65_536):
                answer += part
                head, found, body = answer.partition(b"\r\n\r\n")
                length = [
                    int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
                ]
                if found and length and len(body) >= length[0]:
                    break
        return answer
    finally:
        writer.transport.abort()


BAD = {
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "words": (b"HELLO\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 421),  # HTTP 0.9, which names no host
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n", 400),
    "a NUL in a header": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n", 400),
    "a header without a name": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n", 400),
    "a folded header": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
    "a space before the colon": (b"GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
    "a long line": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a long header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400),
    "many headers": (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "a length and chunks": (HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "a length that is no number": (HEAD + b"Content-Length: 2x\r\n\r\n{}", 400),
    "a huge length": (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
    "a bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 400),
    "an unknown encoding": (HEAD + b"Content-Encoding: zebra\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a broken gzip": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "no length": (HEAD + b"\r\n", 400),
    "no path": (b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "out of the root": (b"GET /static/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "out of the root, encoded": (b"GET /static/%2e%2e%2fapp.py HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "an unknown method": (b"BREW /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a method that is not served": (b"PATCH /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "another server's address": (b"GET http://example.com/healthz HTTP/1.1\r\nHost: example.com\r\n\r\n", 421),
    "a WebSocket where none is": (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        200,
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_bytes_that_are_no_request(start: Start, name: str, caplog: pytest.LogCaptureFixture) -> None:
    data, status = BAD[name]
    async with start() as daemon:
        answer = await sent(daemon, data)
        assert int(answer.split(b" ", 2)[1]) == status, answer[:300]
        assert answer.partition(b"\r\n\r\n")[2], "it says what is wrong"
        assert b"Traceback" not in answer
        async with daemon.http.get("/healthz") as alive:
            assert alive.status == 200
        assert daemon.llm.requests == []
    assert not [record for record in caplog.records if record.exc_info and record.name.startswith("llm2ws")]


async def test_a_client_that_leaves_before_its_answer(start: Start) -> None:
    body = json.dumps(SPOKEN).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with start(says("One", end=End.HOLD)) as daemon:
        for cut in (len(HEAD) - 5, len(HEAD) + 30, len(request) - 3, len(request)):
            _, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
            writer.write(request[:cut])
            await writer.drain()
            writer.transport.abort()
        async with daemon.http.get("/healthz") as alive:
            assert alive.status == 200
        await asyncio.wait_for(daemon.daemon.until_unused(), 10)
        assert not daemon.daemon.turns


async def test_many_idle_connections_and_then_none_left(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with start(TEXT) as daemon:
        port = int(daemon.url.rsplit(":", 1)[1])
        idle: list[asyncio.StreamWriter] = []
        used = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, hard))
        try:
            with pytest.raises(OSError):
                while True:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    idle.append(writer)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for writer in idle:
                writer.transport.abort()
        async with daemon.http.post("/v1/chat/completions", json={**ASK, "stream": True}) as answer:
            assert answer.status == 200
            assert b"[DONE]" in await answer.read()


async def test_requests_one_behind_another_on_one_connection(start: Start) -> None:
    async with start(server=Server(limits=ClientLimits(messages_per_s=1_000))) as daemon:
        one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
        writer.write(one * 500)
        seen = b""
        async with asyncio.timeout(10):
            while seen.count(b'{"status": "ok"}') < 500:
                seen += await reader.read(65_536)
        writer.transport.abort()


async def test_a_correlation_id_is_taken_and_given(start: Start) -> None:
    async with start() as daemon:
        async with daemon.http.get("/healthz", headers={"X-Request-Id": "abc.1-2_3"}) as answer:
            assert answer.headers["X-Request-Id"] == "abc.1-2_3"
        for bad in ("a b", "x" * 65, "a;b", ""):
            async with daemon.http.get("/healthz", headers={"X-Request-Id": bad}) as answer:
                given = answer.headers["X-Request-Id"]
                assert str(uuid.UUID(given)) == given  # as vendors' are


async def test_what_is_not_there(start: Start) -> None:
    async with start() as daemon:
        assert await status(daemon, "/nowhere") == 404
        async with daemon.http.get("/v1/chat/completions") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
            assert (await answer.json())["error"]["message"]


async def test_a_bug_is_one_line_and_the_daemon_serves_on(start: Start, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    async with start() as daemon:
        monkeypatch.setattr(daemon.daemon.service, "relays", lambda name: 1 / 0)
        async with daemon.http.post("/v1/chat/completions", json=BODY) as answer:
            assert answer.status == 500
            assert "log" in (await answer.json())["error"]["message"]
        errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert errors[0].startswith("a bug of llm2ws: ZeroDivisionError")
        assert await status(daemon, "/healthz") == 200


def keepalive_s(server: int, client: int) -> float | None:
    """Return when the kernel probes the client of a connection, by their ports; None where it does not."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, timer = (line.split()[i] for i in (1, 2, 5))
        if local.endswith(f":{server:04X}") and remote.endswith(f":{client:04X}"):
            kind, _, ticks = timer.partition(":")
            return int(ticks, 16) / os.sysconf("SC_CLK_TCK") if kind == "02" else None
    raise AssertionError("there is no such connection")


@pytest.mark.parametrize("path", ["/v1/speak", "/v1/realtime"])
async def test_the_kernel_looks_for_clients_that_have_vanished(start: Start, path: str) -> None:
    async with start() as daemon, daemon.http.ws_connect(path) as ws:
        await ws.receive()
        probe_s = keepalive_s(int(daemon.url.rpartition(":")[2]), ws.get_extra_info("sockname")[1])
        assert probe_s is not None
        assert probe_s <= 30
