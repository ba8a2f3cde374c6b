"""A crowd, and whoever means harm: the daemon serves on, and lets go what it does not serve."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import resource
import signal
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from llm2ws.settings.fields import ClientLimits, Server
from llm2ws.testing import FaultySpeech, decode
from tests.server.conftest import CODING, Start
from tests.server.processes import Process, process
from tests.server.test_chat import ASK, SPOKEN, TEXT, heard, sdk
from tests.server.test_relay import audio_of, parsed, text_of
from tests.server.test_soak import used_by
from tests.support import MS, ROOT

BODIES: dict[str, Any] = {
    "/v1/chat/completions": {**SPOKEN, "stream": True},
    "/v1/audio/speech": {"input": TEXT, "response_format": "pcm"},
    "/chat": {"prompt": "Why?"},
}
WEBSOCKETS = ("/v1/speak", "/v1/realtime")
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
)


def opened(url: str, sent: bytes = b"") -> socket.socket:
    one = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    one.sendall(sent)
    return one


async def speaks(daemon: Process) -> None:
    """It serves on: a whole answer, spoken."""
    async with sdk(daemon) as client:
        _, transcript, audio, _ = await heard(await client.chat.completions.create(**SPOKEN, stream=True))
    assert decode(audio) == transcript.strip() == TEXT


@contextmanager
def descriptors(pid: int, wanted: int) -> Iterator[None]:
    """A process may have so many. Root may raise the limit that others may not."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (wanted, max(wanted, before[1])))
    except (PermissionError, ValueError):
        pytest.skip(f"needs: {wanted} descriptors")
    yield
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


# --- many connections -------------------------------------------------------------------------------------------------------

IDLE = [b"", b"POST /chat HTTP/1.1\r\nHost: local", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_ten_thousand_idle_sockets(tmp_path: Path) -> None:
    """Some say nothing, some half of a request, some are kept after one."""
    async with process(tmp_path) as daemon:
        await speaks(daemon)
        memory_kb, used, _ = used_by(daemon.pid)
        with descriptors(0, 10_500), descriptors(daemon.pid, 10_500):
            idle = [opened(daemon.url, IDLE[n % 3]) for n in range(10_000)]
            try:
                await speaks(daemon)
                memory_then_kb, used_then, _ = used_by(daemon.pid)
            finally:
                for one in idle:
                    one.close()
            assert used_then >= 10_000
            assert memory_then_kb - memory_kb < 10_000 * 30
        async with asyncio.timeout(30):
            while used_by(daemon.pid).descriptors > used + 20:
                await speaks(daemon)
        daemon.signal(signal.SIGTERM)
        assert await daemon.code() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_no_descriptors_are_left(tmp_path: Path, loop: str) -> None:
    """Who talks already is heard to the end, and who comes when there are some again is served."""
    (tmp_path / "uvloop.py").write_text("raise ImportError")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"} if loop == "asyncio" else {}
    speech = FaultySpeech(coding=CODING, pace=2.0)
    async with process(tmp_path, speech=speech, env=env) as daemon, sdk(daemon) as client:
        answer = await client.chat.completions.create(**SPOKEN, stream=True)
        await anext(aiter(answer))
        with descriptors(daemon.pid, used_by(daemon.pid).descriptors + 50):
            idle = [opened(daemon.url) for _ in range(300)]
            _, transcript, _, _ = await heard(answer)
            assert transcript.strip() == TEXT
            if loop == "asyncio":
                await daemon.line("raise ulimit -n")
            for one in idle:
                one.close()
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(openai.APIConnectionError):
                    await speaks(daemon)
                    break
        daemon.signal(signal.SIGTERM)
        assert await daemon.code() == 0


# --- what is larger than it looks -------------------------------------------------------------------------------------------


async def test_a_compressed_body_is_not_unpacked_beyond_the_limit(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(b'{"input": "' + b" " * 200_000_000) + packer.flush()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with process(tmp_path) as daemon, aiohttp.ClientSession(daemon.url) as http:
        before_kb = used_by(daemon.pid).memory_kb
        for path in BODIES:
            async with http.post(path, data=io.BytesIO(bomb), headers=headers) as answer:
                assert answer.status == 413
                assert "send less" in (await answer.json())["error"]["message"]
        assert used_by(daemon.pid, peak=True).memory_kb < before_kb + 50_000
        await speaks(daemon)


def frame(data: bytes, *, first: int = 0x81, length: int | None = None) -> bytes:
    """Of a WebSocket's client, masked with zeros. `first`: end, compression and opcode. `length`: what it says of it."""
    return bytes([first, 0x80 | 127]) + (len(data) if length is None else length).to_bytes(8, "big") + bytes(4) + data


PACKED = zlib.compressobj(wbits=-15)
BOMB = PACKED.compress(b" " * 50_000_000) + PACKED.flush(zlib.Z_SYNC_FLUSH)[:-4]


@pytest.mark.parametrize("path", WEBSOCKETS)
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BOMB, first=0xC1), 1002),  # for compression is not agreed on, though it was offered
        (frame(b"", length=2**40), 1009),
        (frame(b" " * 600, first=0x01) + frame(b" " * 600, first=0x80), 1009),
    ],
    ids=["compressed", "length", "in parts"],
)
async def test_messages_that_are_larger_than_they_look(start: Start, path: str, sent: bytes, code: int) -> None:
    async with start(TEXT, server=Server(limits=ClientLimits(message_bytes=1_000))) as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(daemon.url.rsplit(":", 1)[1]))
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n{offer}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert b"permessage-deflate" not in head
        writer.write(sent)
        async with asyncio.timeout(10):
            assert closed_with(await reader.read()) == code
        writer.transport.abort()
        async with daemon.http.get("/healthz") as alive:
            assert alive.status == 200
        await daemon.daemon.until_unused()


def closed_with(data: bytes) -> int:
    """The code of the close frame, which is the last of a server's frames."""
    opcode = length = at = 0
    while at < len(data) and opcode != 0x88:
        opcode, length, at = data[at], data[at + 1] & 0x7F, at + 2
        if length == 126:
            length, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        at += length
    assert opcode == 0x88
    return int.from_bytes(data[at - length : at - length + 2], "big")


# --- the end ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*BODIES, "/v1/models"])
async def test_a_request_while_it_drains_is_told(start: Start, path: str) -> None:
    """On a connection that was open already: new ones are not taken."""
    async with start(TEXT) as daemon:
        async with daemon.http.get("/healthz"):
            pass
        daemon.daemon.draining.set()
        method, body = ("POST", BODIES[path]) if path in BODIES else ("GET", None)
        async with daemon.http.request(method, path, json=body) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"], answer.headers["Retry-After"]) == (503, "draining", "1")
        assert daemon.llm.requests == []


@pytest.mark.parametrize("path", WEBSOCKETS)
async def test_a_handshake_while_it_drains_is_refused(start: Start, path: str) -> None:
    async with start(TEXT) as daemon:
        daemon.daemon.draining.set()
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await daemon.http.ws_connect(path)


async def over_chat(http: aiohttp.ClientSession) -> str:
    async with http.post("/v1/chat/completions", json={**ASK, "stream": True}) as answer:
        lines = [json.loads(line[6:]) for line in (await answer.text()).split("\n\n") if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for line in lines for choice in line["choices"])


async def over_spoken_chat(http: aiohttp.ClientSession) -> str:
    async with http.post("/v1/chat/completions", json={**SPOKEN, "stream": True}) as answer:
        lines = [json.loads(line[6:]) for line in (await answer.text()).split("\n\n") if line.startswith("data: {")]
    audios = [choice["delta"].get("audio", {}).get("data", "") for line in lines for choice in line["choices"]]
    return decode(b"".join(base64.b64decode(audio) for audio in audios))


async def over_speech(http: aiohttp.ClientSession) -> str:
    async with http.post("/v1/audio/speech", json=BODIES["/v1/audio/speech"]) as answer:
        return decode(await answer.read())


async def over_relay(http: aiohttp.ClientSession) -> str:
    async with http.post("/chat?audio=1", json=BODIES["/chat"]) as answer:
        events = parsed(await answer.text())
    assert (text_of(events), events[-1][1]["outcome"]) == (TEXT, "done")
    return decode(audio_of(events))


async def over_speak(http: aiohttp.ClientSession) -> str:
    audio = b""
    async with http.ws_connect("/v1/speak") as ws:
        await ws.send_json({"type": "Speak", "text": TEXT})
        await ws.send_json({"type": "Flush"})
        async for message in ws:
            audio += message.data if message.type is aiohttp.WSMsgType.BINARY else b""
    assert ws.close_code == 1001
    return decode(audio)


async def over_realtime(http: aiohttp.ClientSession) -> str:
    content = [{"type": "input_text", "text": "Why?"}]
    async with http.ws_connect("/v1/realtime") as ws:
        await ws.send_json(
            {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}
        )
        await ws.send_json({"type": "response.create"})
        parts = []
        async for message in ws:
            event = json.loads(message.data)
            parts += [base64.b64decode(event["delta"])] if event["type"] == "response.output_audio.delta" else []
    assert ws.close_code == 1001
    return decode(b"".join(parts))


FACES = (over_chat, over_spoken_chat, over_speech, over_relay, over_speak, over_realtime)


async def test_sigterm_while_all_faces_are_in_use(tmp_path: Path) -> None:
    """Every turn that was begun is heard to its end, whatever it is asked in, and the daemon ends well."""
    speech = FaultySpeech(coding=CODING, pace=0.3)  # so slow that few have ended when the last one begins
    async with process(tmp_path, speech=speech) as daemon, aiohttp.ClientSession(daemon.url) as http:
        talking = [asyncio.create_task(face(http)) for face in FACES * 4]
        async with asyncio.timeout(60_000 * MS):
            await asyncio.gather(*talking[:: len(FACES)])  # those that are only read
            # Counted where they are spoken: a client that has connected, and whose text is on its way, has not begun.
            await speech.until(lambda speech: sum(text.startswith(TEXT[:7]) for text in speech.texts()) == 20)
        daemon.signal(signal.SIGTERM)
        assert await asyncio.gather(*talking) == [TEXT] * len(talking)
        assert await daemon.code() == 0
