"""The daemon under load: conversations with speech on one core, beside a bare forwarder; the load is on the other core."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

TOKENS_PER_S, SECONDS, WARM_S = 50.0, 12.0, 4.0
FRAME_S = 0.1  # of audio in a message
RATE = 24_000
SECONDS_PER_CHAR = 0.065
SENTENCE = "The sky looks blue since the air scatters short waves much more than long ones. "
TOKENS = [SENTENCE[i : i + 4] for i in range(0, len(SENTENCE), 4)]
CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
now = time.monotonic


def _chunk_of(text: str) -> tuple[bytes, bytes]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    head, tail = json.dumps({**CHUNK, "sent": 0, "choices": [choice]}, separators=(",", ":")).encode().split(b'"sent":0')
    return b"data: " + head, tail + b"\n\n"


# Tokens as OpenAI writes them; between the two parts of each goes a field with the time at which it was sent.
CHUNKS = [_chunk_of(text) for text in TOKENS]


# --- the load: an LLM's server, a speech endpoint, clients; as light as they can be -----------------------------------------


class Llm(asyncio.Protocol):
    """Writes `TOKENS_PER_S` until its client leaves."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.timer: asyncio.TimerHandle | None = None
        self.n = 0
        self.seen = b""

    def data_received(self, data: bytes) -> None:
        self.seen += data
        head, found, body = self.seen.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0
        )
        if found and len(body) >= length:
            self.seen = b""
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.due = now()
            self.tick()

    def tick(self) -> None:
        head, tail = CHUNKS[self.n % len(CHUNKS)]
        data = b'%b"sent":%.6f%b' % (head, now(), tail)
        self.n += 1
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.due += 1 / TOKENS_PER_S
        self.timer = asyncio.get_running_loop().call_later(max(0.0, self.due - now()), self.tick)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()


def frame(payload: bytes, opcode: int) -> bytes:
    """A WebSocket message of a server."""
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
    return bytes([0x80 | opcode]) + length + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """The whole messages of a client in `buffer`, which are taken out."""
    while len(buffer) >= 6:
        size, at = buffer[1] & 0x7F, 2
        if size == 126:
            size, at = struct.unpack(">H", buffer[2:4])[0], 4
        if len(buffer) < at + 4 + size:
            return
        mask = (buffer[at : at + 4] * (size // 4 + 1))[:size]
        raw = buffer[at + 4 : at + 4 + size]
        text = (int.from_bytes(raw, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
        opcode = buffer[0] & 0xF
        del buffer[: at + 4 + size]
        yield opcode, text


class Speech(asyncio.Protocol):
    """Deepgram Speak v1: audio at real-time pace, each frame with the time at which it was sent at its start."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.timer: asyncio.TimerHandle | None = None
        self.buffer, self.open, self.chars = bytearray(), False, 0
        self.groups: deque[int] = deque()  # frames that each still has
        self.flushed = 0

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            if b"\r\n\r\n" not in self.buffer:
                return
            head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
            key = next(
                line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
            )
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            self.transport.write(upgrade + accept + b"\r\n\r\n")
            self.transport.write(frame(b'{"type":"Metadata","request_id":"r","model_name":"m"}', 1))
            self.buffer, self.open = bytearray(rest), True
        for opcode, text in frames(self.buffer):
            if opcode == 8:
                self.transport.close()
            elif opcode == 9:
                self.transport.write(frame(text, 10))
            elif opcode == 1:
                self.message(json.loads(text))

    def message(self, message: dict[str, str]) -> None:
        match message["type"]:
            case "Speak":
                self.chars += len(message["text"])
            case "Flush":
                self.groups.append(max(1, round(self.chars * SECONDS_PER_CHAR / FRAME_S)))
                self.chars = 0
                if self.timer is None:
                    self.due = now()
                    self.tick()
            case "Close":
                self.transport.write(frame(struct.pack(">H", 1000), 8))
            case "Clear":
                self.groups.clear()
                self.chars = 0
                self.transport.write(frame(b'{"type":"Cleared","sequence_id":0}', 1))

    def tick(self) -> None:
        self.timer = None
        if not self.groups:
            return
        self.groups[0] -= 1
        pcm = struct.pack("<d", now()) + bytes(round(FRAME_S * RATE) * 2 - 8)
        out = frame(pcm, 2)
        if not self.groups[0]:
            self.groups.popleft()
            out += frame(b'{"type":"Flushed","sequence_id":%d}' % self.flushed, 1)
            self.flushed += 1
        self.transport.write(out)
        self.due += FRAME_S
        self.timer = asyncio.get_running_loop().call_later(max(0.0, self.due - now()), self.tick)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()


class Seen(NamedTuple):
    """What the clients measured, in seconds."""

    tokens: list[float]  # from the LLM to the client
    audio: list[float]  # from the speech endpoint to the client


class Chat(asyncio.Protocol):
    """A client that reads a streamed answer and keeps the delays."""

    def __init__(self, seen: Seen, from_s: float) -> None:
        self.seen, self.from_s, self.rest = seen, from_s, b""
        self.lost = asyncio.get_running_loop().create_future()
        self.pcm = 0  # bytes of a frame that have come

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        asked = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}, "stream": True}
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Go on."}], **asked}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
        self.transport.write(f"{head}{len(body)}\r\n\r\n".encode() + body)

    def data_received(self, data: bytes) -> None:
        at = now()
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        for line in lines:
            if not line.startswith(b"data: {"):
                continue
            if (found := line.find(b'"sent":')) >= 0:
                if at > self.from_s:
                    self.seen.tokens.append(at - float(line[found + 7 : line.index(b",", found)]))
            elif (found := line.find(b'"data":"')) >= 0:
                start, end = found + 8, line.index(b'"', found + 8)
                if not self.pcm and at > self.from_s:
                    self.seen.audio.append(at - struct.unpack_from("<d", base64.b64decode(line[start : start + 12]))[0])
                # The frames of the endpoint are passed on in pieces of any size; only the first bytes are looked at.
                self.pcm = (self.pcm + (end - start) // 4 * 3 - line.count(b"=", end - 2, end)) % (round(FRAME_S * RATE) * 2)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class Speak(asyncio.Protocol):
    """A client of Deepgram's Speak: a token a message, a Flush after each sentence; it keeps the delays of the audio."""

    def __init__(self, seen: Seen, from_s: float) -> None:
        self.seen, self.from_s = seen, from_s
        self.lost = asyncio.get_running_loop().create_future()
        self.buffer, self.open, self.n = bytearray(), False, 0
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        head = "GET /v1/speak HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        self.transport.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            if (end := self.buffer.find(b"\r\n\r\n")) < 0:
                return
            del self.buffer[: end + 4]
            self.open, self.due = True, now()
            self.tick()
        at = now()
        while len(self.buffer) >= 4:
            size, start = self.buffer[1], 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self.buffer[2:start], "big")
            if len(self.buffer) < start + size:
                return
            # An endpoint's frame that comes in two has its time in the first: the rest is silence, and reads as none.
            if self.buffer[0] & 0xF == 2 and size >= 8 and at > self.from_s:
                sent = struct.unpack_from("<d", self.buffer, start)[0]
                if sent:
                    self.seen.audio.append(at - sent)
            del self.buffer[: start + size]

    def tick(self) -> None:
        token = TOKENS[self.n % len(TOKENS)]
        messages = [b'{"type":"Speak","text":"%b"}' % token.encode()]
        self.n += 1
        if self.n % len(TOKENS) == 0:
            messages.append(b'{"type":"Flush"}')
        # A mask of zeros leaves the text as it is.
        self.transport.write(b"".join(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text for text in messages))
        if now() > self.from_s:
            self.seen.tokens.append(0.0)
        self.due += 1 / TOKENS_PER_S
        self.timer = asyncio.get_running_loop().call_later(max(0.0, self.due - now()), self.tick)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)


# --- the bare forwarder: what any Python process in between costs ------------------------------------------------------------


async def forward(llm: str, speech: str) -> None:
    """Each token to the client and to the endpoint as it is, a Flush at each sentence end, audio to the client as base64."""
    from aiohttp import ClientSession, TCPConnector, WSMsgType, web

    async def completions(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with (
            session.ws_connect(f"{speech}/v1/speak", compress=0) as socket,
            session.post(f"{llm}/v1/chat/completions", json={}) as answer,
        ):

            async def hear() -> None:
                async for message in socket:
                    if message.type is WSMsgType.BINARY:
                        data = base64.b64encode(message.data)
                        await response.write(
                            b'data: {"choices":[{"index":0,"delta":{"audio":{"data":"%b"}},"finish_reason":null}]}\n\n' % data
                        )

            hearing = asyncio.create_task(hear())
            try:
                while data := await answer.content.readany():
                    await response.write(data)
                    for event in data.split(b"\n\n"):
                        if event.startswith(b"data: {"):
                            text = json.loads(event[6:])["choices"][0]["delta"]["content"]
                            await socket.send_str(json.dumps({"type": "Speak", "text": text}))
                            if text.rstrip().endswith("."):
                                await socket.send_str('{"type": "Flush"}')
            finally:
                hearing.cancel()
        return response

    async def speak(request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse(compress=False)
        await client.prepare(request)
        async with session.ws_connect(f"{speech}/v1/speak", compress=0) as socket:

            async def hear() -> None:
                async for message in socket:
                    if message.type is WSMsgType.BINARY:
                        await client.send_bytes(message.data)
                    else:
                        await client.send_str(message.data)

            hearing = asyncio.create_task(hear())
            try:
                async for message in client:
                    await socket.send_str(message.data)
            finally:
                hearing.cancel()
        return client

    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", completions), web.get("/v1/speak", speak)])
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(f"listening on http://127.0.0.1:{runner.addresses[0][1]}", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


# --- measuring --------------------------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """Of a process and all its threads."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def share(values: list[float], of: float) -> float:
    """A quantile in milliseconds."""
    return sorted(values)[min(len(values) - 1, int(of * len(values)))] * 1000 if values else float("nan")


async def level(kind: type[Chat | Speak], port: int, pid: int, n: int, seconds: float) -> str:
    """`n` conversations at once, as a line of the table."""
    loop = asyncio.get_running_loop()
    before_kb, began = memory_kb(pid), now()
    seen = Seen([], [])
    clients: list[Chat | Speak] = []
    for i in range(n):
        client = kind(seen, began + WARM_S)
        await loop.create_connection(partial(_same, client), "127.0.0.1", port)
        clients.append(client)
        await asyncio.sleep(max(0.0, began + 2.0 * i / n - now()))
    await asyncio.sleep(max(0.0, began + WARM_S - now()))
    cpu, load = cpu_s(pid), cpu_s(os.getpid())
    await asyncio.sleep(seconds)
    used, load, kb = cpu_s(pid) - cpu, cpu_s(os.getpid()) - load, (memory_kb(pid) - before_kb) / n
    alive = sum(not client.lost.done() for client in clients)
    for client in clients:
        client.transport.abort()
    tokens, audio = seen.tokens, seen.audio
    spoken_s = len(audio) * FRAME_S / n / seconds
    return (
        f"{n:6} {alive:6} {share(tokens, 0.5):9.1f} {share(tokens, 0.99):9.1f} {share(audio, 0.5):9.1f}"
        f" {share(audio, 0.99):9.1f} {spoken_s:9.2f} {used / seconds * 100:7.0f} {load / seconds * 100:7.0f}"
        f" {used / max(1, len(tokens)) * 1e6:9.0f} {kb:9.0f}"
    )


def _same(client: Chat | Speak) -> Chat | Speak:
    return client


HEAD = f"{'':6} {'':6} {'token, ms':>19} {'audio, ms':>19} {'audio':>9} {'CPU':>7} {'load':>7} {'CPU us':>9} {'KB a con-':>9}\n"
HEAD += f"{'n':>6} {'alive':>6} {'p50':>9} {'p99':>9} {'p50':>9} {'p99':>9}"
HEAD += f" {'s/s':>9} {'%':>7} {'%':>7} {'a token':>9} {'versation':>9}"


FACES: dict[str, type[Chat | Speak]] = {"chat": Chat, "speak": Speak}


async def measure(face: str, systems: list[str], levels: list[int], seconds: float, cpus: list[int]) -> None:
    loop = asyncio.get_running_loop()
    llm = await loop.create_server(Llm, "127.0.0.1", 0, backlog=1024)
    speech = await loop.create_server(Speech, "127.0.0.1", 0, backlog=1024)
    ports = [server.sockets[0].getsockname()[1] for server in (llm, speech)]
    with tempfile.TemporaryDirectory() as folder:
        for system in systems:
            for n in levels:
                process = start(system, ports, Path(folder), cpus)
                assert process.stderr is not None
                try:
                    line = b""
                    while b"listening on" not in line:
                        line = await loop.run_in_executor(None, process.stderr.readline)
                        if not line:
                            raise SystemExit(f"{system} did not start")
                    if n == levels[0]:
                        print(f"\n{system}\n{HEAD}", flush=True)
                    port = int(line.split(b"://", 1)[1].split(b":")[1].split(b"/")[0].split(b'"')[0])
                    print(await level(FACES[face], port, process.pid, n, seconds), flush=True)
                finally:
                    process.send_signal(signal.SIGTERM)
                    began = now()
                    await loop.run_in_executor(None, process.wait, 30)
                    if now() - began > 5:
                        print(f"it took {now() - began:.1f} s to end", flush=True)


def start(system: str, ports: list[int], folder: Path, cpus: list[int]) -> subprocess.Popen[bytes]:
    """A process on the second core, if there is one."""
    if system == "forwarder":
        command = [sys.executable, "-P", __file__, "--forward", f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"]
    else:
        config = folder / "llm2ws.toml"
        config.write_text(
            f'log = "error"\n[llm.m]\nkind = "openai"\nbase_url = "http://127.0.0.1:{ports[0]}/v1"\nmodel = "m"\n'
            f'[speech.s]\ndialect = "deepgram"\nurl = "ws://127.0.0.1:{ports[1]}"\n'
            "[speech.s.limits]\nchars_per_window = 1000000\nflushes_per_window = 10000\n"
            "[server]\ndrain_s = 0.1\n[server.limits]\nconversations = 100000\nmessages_per_s = 100000\n"
        )
        command = [sys.executable, "-P", "-m", "llm2ws", "serve", "--listen", "127.0.0.1:0", "--config", str(config)]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", default="forwarder,llm2ws")
    parser.add_argument("--face", choices=["chat", "speak"], default="chat", help="what the clients speak")
    parser.add_argument("--levels", default="1,50,200", help="conversations at once")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--forward", nargs=2, metavar=("LLM", "SPEECH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if args.forward:
            with contextlib.suppress(KeyboardInterrupt):
                runner.run(forward(*args.forward))
            return
        cpus = sorted(os.sched_getaffinity(0))
        print(f"{TOKENS_PER_S:g} tokens/s, audio at real-time pace, {args.seconds:g} s; cores {cpus[:1]} and {cpus[-1:]}")
        systems = args.systems.split(",")
        # The load stays on the first core; what is measured gets the other one alone.
        start_affinity = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus[:1])
        try:
            runner.run(measure(args.face, systems, [int(n) for n in args.levels.split(",")], args.seconds, cpus[-1:]))
        finally:
            os.sched_setaffinity(0, start_affinity)


if __name__ == "__main__":
    main()
