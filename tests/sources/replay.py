"""A server that answers over HTTP with exactly the bytes it was told, and notices who leaves."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

from llm2ws import Aside
from tests.support import ROOT

__all__ = ["DATA", "SSE", "WHOLE", "Answer", "End", "Reply", "Request", "Server", "json_reply", "read", "replay", "stream"]

DATA = ROOT / "tests" / "data" / "llm"
# What the recorded streams of most servers say.
WHOLE = "Why? Let’s see: it costs $3.50, Dr.\xa0Müller. 日本語。 🎉\n\nDone."

SSE = {"Content-Type": "text/event-stream; charset=utf-8"}


class End(Enum):
    """What comes after the body."""

    CHUNK = auto()  # the last chunk; the connection is kept
    EOF = auto()  # the end of the connection, which is the end of a body without length
    CUT = auto()  # the end of the connection, where more chunks were promised
    RESET = auto()
    HOLD = auto()  # nothing, until the client leaves


@dataclass(frozen=True, slots=True)
class Reply:
    """`pieces` are written one after another. `raw`: instead of a whole HTTP response."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: SSE)
    end: End = End.CHUNK
    raw: bytes | None = None


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    body: Any
    connection: int


class Server:
    """`replies` are given in turn, the last one for ever."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.requests: list[Request] = []
        self.left = asyncio.Event()  # a client left in the middle of an answer
        self.holding = asyncio.Event()
        self.url = ""
        self._replies = list(replies)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        task = asyncio.create_task(self._serve(reader, writer, self._connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        try:
            while await self._answer(reader, writer, number):
                pass
        except ConnectionError:
            self.left.set()
        except asyncio.IncompleteReadError:  # the client has closed a connection that it did not need any more
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append(Request(head[0].split()[1], headers, json.loads(body) if body else None, number))
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if reply.raw is not None:
            writer.write(reply.raw)
        else:
            await _write(writer, reply)
        match reply.end:
            case End.CHUNK:
                writer.write(b"0\r\n\r\n")
                return True
            case End.HOLD:
                self.holding.set()
                await reader.read(1)  # gives b"" when the client leaves
                self.left.set()
            case End.RESET:
                writer.transport.abort()
            case End.EOF | End.CUT:
                pass
        return False

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _write(writer: asyncio.StreamWriter, reply: Reply) -> None:
    framing = {"Connection": "close"} if reply.end is End.EOF else {"Transfer-Encoding": "chunked"}
    headers = [f"{name}: {value}" for name, value in {**framing, **reply.headers}.items()]
    writer.write("\r\n".join([f"HTTP/1.1 {reply.status} Word", *headers, "", ""]).encode())
    for piece in filter(None, reply.pieces):  # an empty chunk would be the last
        writer.write(piece if reply.end is End.EOF else b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()


@asynccontextmanager
async def replay(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve on a free port; `server.url` is the origin."""
    server = Server(replies)
    listener = await asyncio.start_server(server.connected, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        await server.close()


def stream(name: str) -> bytes:
    """One of the recorded streams; without a suffix, of server-sent events."""
    return Path(DATA / (name if "." in name else f"{name}.sse")).read_bytes()


def json_reply(status: int, body: object, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply([json.dumps(body).encode()], status, {"Content-Type": "application/json", **named})


class Answer(NamedTuple):
    text: str
    reason: object
    usage: Any
    asides: list[Aside]  # without the last


async def read(items: AsyncIterable[str | Aside]) -> Answer:
    """Text, and what the last item says. That it is an Aside("finish") is part of the contract."""
    taken = [item async for item in items if item != ""]  # signs of life
    last = taken.pop()
    assert isinstance(last, Aside)
    assert last.kind == "finish"
    text = "".join(item for item in taken if isinstance(item, str))
    return Answer(text, last.data["reason"], last.data["usage"], [item for item in taken if isinstance(item, Aside)])
