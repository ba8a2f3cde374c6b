"""Bodies that are no request: refused by name, and in time."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.conftest import Start
from tests.server.test_access import status


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": "m"', b"[" * 5_000, b'{"model": "\\ud800"}', b"\0"]
)
async def test_bodies_that_are_no_request(start: Start, body: bytes) -> None:
    async with start() as daemon:
        async with daemon.http.post("/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["type"]) == (400, "invalid_request_error")
            assert error["message"]
        assert await status(daemon, "/healthz") == 200


async def test_a_body_that_never_ends_is_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm2ws.server.body.BODY_S", 0.2)
    async with start() as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(head + b"Content-Length: 100\r\n\r\n{")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()
