"""The server of a speech endpoint that misbehaves on command, without any vendor's protocol.

A vendor is a `FaultyEndpoint`, which answers handshakes, and an `EndpointConnection` (in `connection.py`), which answers
messages. `speech.py` is Deepgram's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event

from ..speech.dialects import deepgram_server as wire
from .faults import Drop, Faults
from .voice import Coding

__all__ = ["Answer", "FaultyEndpoint", "PingRecorder", "Received"]

# At DEBUG the library logs headers and messages: keys and text, which belong in no log.
_log = logging.getLogger("llm2ws.testing.websocket")
_log.setLevel(logging.INFO)

_M = TypeVar("_M")
MAX_MESSAGE_BYTES = 4_000_000


class Received(NamedTuple, Generic[_M]):
    """A message of a client, when it came (seconds of the event loop), and on which connection (from 0)."""

    at: float
    connection: int
    message: _M


class Answer(NamedTuple):
    """The HTTP response that refuses a handshake."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = {}


class PingRecorder(ServerConnection):
    """A client's WebSocket. `pinged_at`: when the last ping came, in seconds of the event loop; -inf before the first."""

    pinged_at = -math.inf

    def process_event(self, event: Event) -> None:
        """Record the time of a ping, then handle the frame as the library does."""
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self.pinged_at = self.loop.time()
        super().process_event(event)


class FaultyEndpoint(ABC, Generic[_M]):
    """A speech endpoint at `url`, until the `async with` block is left. `_M` is the type of a parsed message of a client.

    `pace`: how many times faster than real time audio is sent, None: at once. `key`: what clients must present, None for
    nothing. Frames of audio have random sizes up to `max_frame_bytes`, odd sizes too. `max_age_s`, `idle_s`: the age, and
    the silence of the client, at which the endpoint ends a connection, None for never.

    What goes wrong: `faults`; `drops`, the dropped connections in the order in which they happen; `refusals`, the HTTP statuses
    with which the next handshakes are answered; `failures`, how many of the next turns end in a passing error of the vendor's.
    What was seen: `log`, `closed_with`; `until` waits for it.
    """

    path = "/"

    def __init__(
        self,
        *,
        coding: Coding = Coding(),
        pace: float | None = None,
        key: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_frame_bytes: int = 3_840,
        seed: int = 0,
    ) -> None:
        self.faults = Faults()
        self.drops: deque[Drop] = deque()
        self.refusals: deque[int] = deque()
        self.failures = 0
        self.log: list[Received[_M]] = []
        self.handshakes = 0  # requests, granted or not
        self.connections = 0  # opened since the start
        self.open = 0  # connections that are open now
        self.frames = 0  # frames of audio that were sent
        self.closed_with: list[wire.Violation] = []  # why the endpoint closed connections
        self.max_age_s: float | None = None
        self.idle_s: float | None = None
        self.pings_count = False  # whether a ping ends the silence of a client
        self.coding = coding
        self.pace = pace
        self.key = key
        self.max_frame_bytes = max_frame_bytes
        self.seed = seed
        self._tls = tls
        self._server: Server | None = None
        self._texts: list[tuple[int, str]] = []
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._bug: Exception | None = None

    # What a vendor fills in

    @abstractmethod
    def admit(self, request: Request) -> Answer | None:
        """Return None to grant a handshake whose path, credential and query are right, else the refusal."""

    @abstractmethod
    def refusal(self, status: HTTPStatus) -> Answer:
        """Return a refusal with this status, as the vendor words it."""

    @abstractmethod
    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        """Serve a connection whose handshake was granted until it is closed. `index`: its number, from 0."""

    # Start and end

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            ssl=self._tls,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            process_request=self._admit,
            ping_interval=None,
            close_timeout=0.5,
            create_connection=PingRecorder,
            logger=_log,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._stopping.set()
        for ws in list(self._server.all_connections - self._server.connections):
            ws.transport.abort()  # still in its handshake
        self._server.close()
        await self._server.wait_closed()
        if self._bug is not None and error is None:
            raise self._bug

    @property
    def port(self) -> int:
        """The TCP port, on 127.0.0.1."""
        assert self._server is not None, "not started"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """The URL that a client connects to."""
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}{self.path}"

    def texts(self, connection: int | None = None) -> list[str]:
        """Return the texts that clients sent to be spoken, in order, on one connection or, for None, on all."""
        return [text for index, text in self._texts if connection in (None, index)]

    async def until(self, condition: Callable[[Self], bool]) -> None:
        """Wait until `condition` holds. It is asked after each message, frame of audio, and begin or end of a connection."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    def notify(self) -> None:
        """Wake those who wait in `until`: something changed."""
        self._changed.set()

    def record_text(self, connection: int, text: str) -> None:
        """Record a text that a client sent to be spoken."""
        self._texts.append((connection, text))

    async def pause(self, seconds: float) -> None:
        """Let time pass, but not beyond the end of the endpoint."""
        if self._stopping.is_set():
            await asyncio.sleep(0)  # whoever waits in a loop must not keep out what ends it
        elif seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self._stopping.wait()

    async def _admit(self, ws: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        self.notify()
        await self.pause(self.faults.handshake_s)
        answer = self.refusal(HTTPStatus(self.refusals.popleft())) if self.refusals else self.admit(request)
        if answer is None:
            return None
        response = ws.respond(HTTPStatus(answer.status), answer.body)
        for name, value in answer.headers.items():
            response.headers.pop(name, None)
            response.headers[name] = value
        return response

    async def _handle(self, ws: ServerConnection) -> None:
        index = self.connections
        self.connections += 1
        self.open += 1
        self.notify()
        try:
            await self.serve_client(ws, index)
        except Exception as exc:
            self._bug = exc  # of the server: raised when it ends, so that no test passes over it
            raise
        finally:
            self.open -= 1
            self.notify()
