"""A speech endpoint that misbehaves on command, without any vendor's protocol: a WebSocket server, its connections, a voice.

A vendor is a `SpeechServer`, which answers handshakes, and a `Link`, which answers messages; `speech.py` is Deepgram's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar, assert_never

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event

from ..audio import AudioFormat
from ..speech.dialects import deepgram_server as wire
from .faults import Drop, Faults, How
from .network import reset
from .voice import Char, Coding, Renderer

__all__ = ["Answer", "Chunk", "Link", "Received", "SpeechServer", "Voice"]

# At DEBUG the library logs headers and messages: keys and text, which belong in no log.
_log = logging.getLogger("llm2ws.testing.websocket")
_log.setLevel(logging.INFO)

_M = TypeVar("_M")
MAX_MESSAGE_BYTES = 4_000_000
EARLY_S = 0.001  # a timer may come so much too early


class Received(NamedTuple, Generic[_M]):
    """A message of a client, when it came (seconds of the event loop), and on which connection (from 0)."""

    at: float
    connection: int
    message: _M


class Answer(NamedTuple):
    """How a handshake is refused."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = {}


class SpeechServer(ABC, Generic[_M]):
    """A speech endpoint at `url`, until the `async with` block is left. `_M` is what it reads messages of clients as.

    `pace`: how many times faster than real time audio comes, None: at once. `key`: what clients must present, None for nothing.
    Frames of audio have random sizes up to `max_frame_bytes`, odd ones too. `life_s`, `idle_s`: the age and the silence of the
    client at which it ends a connection, None for never.

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
        self.connections = 0  # opened, ever
        self.open = 0  # now
        self.frames = 0  # of audio, sent
        self.closed_with: list[wire.Violation] = []  # why it closed connections
        self.life_s: float | None = None
        self.idle_s: float | None = None
        self.ping_is_life = False  # a ping counts as a message of the client
        self.coding = coding
        self.pace = pace
        self.key = key
        self.max_frame_bytes = max_frame_bytes
        self.seed = seed
        self._tls = tls
        self._server: Server | None = None
        self._texts: list[tuple[int, str]] = []
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._bug: Exception | None = None

    # What a vendor fills in

    @abstractmethod
    def admit(self, request: Request) -> Answer | None:
        """None to grant a handshake: path, credential and query are right."""

    @abstractmethod
    def refusal(self, status: HTTPStatus) -> Answer:
        """A refusal with this status, as the vendor words it."""

    @abstractmethod
    def link(self, ws: ServerConnection, index: int) -> Link[_M]:
        """What serves a connection that was granted."""

    # Its life

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
            create_connection=_Noticing,
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
        assert self._server is not None, "not started"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}{self.path}"

    def texts(self, connection: int | None = None) -> list[str]:
        """What it was given to speak, on one connection or on all."""
        return [text for index, text in self._texts if connection in (None, index)]

    async def until(self, seen: Callable[[Self], bool]) -> None:
        """Wait until `seen` holds. It is asked after each message, each frame of audio, each connection's begin and end."""
        while not seen(self):
            self._news.clear()
            await self._news.wait()

    def noticed(self) -> None:
        """Something changed that `until` may wait for."""
        self._news.set()

    def took(self, connection: int, text: str) -> None:
        """A client gave this to be spoken."""
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
        self.noticed()
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
        try:
            link = self.link(ws, self.connections)
            self.connections += 1
            self.open += 1
            self.noticed()
            try:
                await link.run()
            finally:
                self.open -= 1
                self.noticed()
        except Exception as exc:
            self._bug = exc  # of the server: raised when it ends, so that no test passes over it
            raise


class _Noticing(ServerConnection):
    """Knows when the client has pinged."""

    pinged_at = -math.inf

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self.pinged_at = self.loop.time()
        super().process_event(event)


class Link(ABC, Generic[_M]):
    """One connection to an endpoint. What is sent goes through `send`, `tell` and `send_audio`, where drops happen."""

    def __init__(self, server: SpeechServer[_M], ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        self.ws = ws
        self.index = index
        self.format = fmt
        self.now = asyncio.get_running_loop().time
        self.random = Random(f"{server.seed} {index}")  # not a hash of a tuple: the same in every process
        self._base = server
        self._heard_at = self.now()  # the client's last message
        self._messages = self._frames = self._chars = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # What a vendor fills in

    @abstractmethod
    def read(self, message: str | bytes) -> _M:
        """A client's message, as it is kept in the log."""

    @abstractmethod
    async def receive(self, message: _M) -> None:
        """A client's message came."""

    async def greet(self) -> None:
        """What is sent right after the handshake."""

    async def too_old(self) -> None:
        """It has reached `life_s`."""
        await self.close(1000)

    async def idle(self) -> None:
        """The client has been silent for `idle_s`."""
        await self.close(1000)

    # What it may use

    def start(self, what: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run something until the connection ends."""
        task = self._group.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def took(self, text: str) -> None:
        """The client gave this to be spoken."""
        self._chars += len(text)
        self._base.took(self.index, text)

    async def send(self, message: str | bytes) -> None:
        if not await self._dropped(sending=True):
            await self.ws.send(message)
            self._messages += 1

    async def tell(self, message: str) -> None:
        """Send something that a client waits for, behind whatever noise there is to be."""
        for noise in self._base.faults.noise:
            await self.ws.send(noise)
        await self.send(message)

    async def send_audio(self, messages: list[str | bytes], audio: bytes) -> None:
        """Send a frame of audio, in the vendor's messages."""
        if await self._dropped(audio):
            return
        for message in messages:
            await self.send(message)
        self._frames += 1
        self._base.frames += 1
        self._base.noticed()

    async def close(self, code: int, reason: str = "") -> None:
        self._base.closed_with.append(wire.Violation(code, reason))
        await self.ws.close(code, reason)

    # How

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                for what in (self._read(), self._age(), self._watch()):
                    self.start(what)
                await self.ws.wait_closed()
                for task in self._tasks:
                    task.cancel()
        except* ConnectionClosed:
            pass

    async def _read(self) -> None:
        if await self._dropped():
            return
        await self.greet()
        async for raw in self.ws:
            self._heard_at = self.now()
            message = self.read(raw)
            self._base.log.append(Received(self._heard_at, self.index, message))
            self._base.noticed()
            await self.receive(message)
            if await self._dropped():
                return

    async def _age(self) -> None:
        if (life_s := self._base.life_s) is not None:
            await self._base.pause(life_s)
            await self.too_old()

    async def _watch(self) -> None:
        if (idle_s := self._base.idle_s) is None:
            return
        while (left_s := self._sign_of_life_at + idle_s - self.now()) > EARLY_S:
            await self._base.pause(left_s)
        await self.idle()

    @property
    def _sign_of_life_at(self) -> float:
        if self._base.ping_is_life and isinstance(self.ws, _Noticing):
            return max(self._heard_at, self.ws.pinged_at)
        return self._heard_at

    async def _dropped(self, audio: bytes = b"", *, sending: bool = False) -> bool:
        """Drop the connection if that is due; `audio` is what would have come next."""
        drop = self._base.drops[0] if self._base.drops else None
        match drop:
            case None:
                return False
            case Drop(at_frame=int(n)):
                due = bool(audio) and self._frames >= n
            case Drop(at_message=int(n)):
                due = sending and self._messages >= n
            case _:
                due = not sending and self._chars >= (drop.after_chars or 0)
        if not due:
            return False
        self._base.drops.popleft()
        match drop.how:
            case How.CLOSE:
                await self.ws.close(drop.code, drop.reason)
            case How.RESET:
                reset(self.ws.transport)
            case How.CUT:
                self.ws.transport.write(b"\x82\x7e\x10\x00" + audio[:1_000])  # announces 4,096 bytes
                self.ws.transport.close()
            case _:
                assert_never(drop.how)
        await self.ws.wait_closed()  # whoever would go on does not, on a connection that is gone
        return True


@dataclass(frozen=True, slots=True)
class Chunk:
    """Audio to be sent at once, `at_s` from the start of its voice's audio, and the characters that begin in it, with their
    times from that start."""

    data: bytes
    at_s: float
    chars: list[Char] = field(default_factory=list)


class Voice:
    """Says what it is given, in order and in a task of its own; of a connection, or of one of several contexts on it.

    `wrap`: the messages in which the vendor sends audio.
    """

    def __init__(self, link: Link[_M], wrap: Callable[[Chunk], list[str | bytes]] = lambda chunk: [chunk.data]) -> None:
        self._base = link._base  # noqa: SLF001 - its other half
        self._link = link
        self._wrap = wrap
        self._renderer = Renderer(self._base.coding, link.format.sample_rate_hz, link.random)
        self._queue: asyncio.Queue[str | Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._sent = 0  # bytes of audio
        self._due = 0.0
        self._task = link.start(self._speak(self._queue))

    @property
    def spoken_s(self) -> float:
        """Of audio sent so far."""
        return self._link.format.seconds(self._sent)

    def say(self, text: str) -> None:
        """Say this after all that was given before."""
        self._queue.put_nowait(text)

    def then(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do this when all that was given before has been said, such as `partial(link.tell, message)`."""
        self._queue.put_nowait(act)

    def stop(self) -> None:
        """Drop all that was given. It may be given more."""
        self._task.cancel()
        self._due = 0.0
        self._queue = asyncio.Queue()
        self._task = self._link.start(self._speak(self._queue))

    async def _speak(self, queue: asyncio.Queue[str | Callable[[], Awaitable[None]]]) -> None:
        while True:
            item = await queue.get()
            if isinstance(item, str):
                await self._base.pause(self._base.faults.first_byte_s)
                await self._say(item)
            else:
                await self._base.pause(self._base.faults.flushed_s)
                await item()

    async def _say(self, text: str) -> None:
        pcm, chars = self._renderer.timed(text)
        start_s, at, fmt = self.spoken_s, 0, self._link.format
        chars = [Char(char.text, start_s + char.start_s, start_s + char.end_s) for char in chars]
        while at < len(pcm):
            data = pcm[at : at + self._link.random.randint(1, self._base.max_frame_bytes)]
            at += len(data)
            until_s = start_s + fmt.seconds(at) if at < len(pcm) else math.inf
            begun = [char for char in chars if char.start_s < until_s]
            chars = chars[len(begun) :]
            await self._wait(fmt.seconds(len(data)))
            chunk = Chunk(data, self.spoken_s, begun)
            self._sent += len(data)
            await self._link.send_audio(self._wrap(chunk), data)

    async def _wait(self, seconds: float) -> None:
        """Until the time at which audio that lasts so long is due."""
        if (pace := self._base.pace) is not None:
            now = self._link.now()
            self._due = max(self._due, now)
            await self._base.pause(self._due - now)
            self._due += seconds / pace
