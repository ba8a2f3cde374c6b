"""For tests, yours and ours: a scripted LLM, a speech endpoint that misbehaves on command, a network that does.

All of it is real: an async generator, a WebSocket server that speaks Deepgram Speak v1 and enforces its limits, a TCP proxy.
What the endpoint says can be read back: `decode` turns its audio into the text again, so that a test sees which words arrived,
in which order and how often.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from random import Random
from types import TracebackType
from typing import NamedTuple, Self, TypeVar, assert_never
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from .audio import AudioFormat, Encoding
from .speech import deepgram_server as wire
from .speech.deepgram_server import ClearIn, CloseIn, FlushIn, Limits, Meter, Refusal, SpeakIn, Violation

__all__ = [
    "Coding",
    "Drop",
    "Faults",
    "FaultyNetwork",
    "FaultySpeech",
    "How",
    "Received",
    "Renderer",
    "decode",
    "script",
    "tokens",
]

# At DEBUG the library logs headers and messages: keys and text, which belong in no log.
_log = logging.getLogger(f"{__name__}.websocket")
_log.setLevel(logging.INFO)


# A scripted LLM

_Item = TypeVar("_Item")


def tokens(text: str) -> list[str]:
    """Text in pieces of the size of a model's tokens, which fall within words and carry the space before them."""
    return re.findall(r"\s*\S{1,4}|\s+", text)


async def script(
    *steps: _Item | float | BaseException, on_close: Callable[[], object] | None = None
) -> AsyncGenerator[_Item, None]:
    """A source that does what it is told, step by step.

    A number is a pause in seconds (`math.inf`: for ever), an exception is raised, everything else is given as it is.
    `on_close` is called when the source is over, however it came to that.
    """
    try:
        for step in steps:
            match step:
                case int() | float():
                    await _pause(step)
                case BaseException():
                    raise step
                case _:
                    yield step
    finally:
        if on_close is not None:
            on_close()


# Audio that tells its text


@dataclass(frozen=True, slots=True)
class Coding:
    """How text becomes 16-bit samples.

    A character is `char_samples` samples whose value is its code point, with the sign changing from one to the next within a
    word, so that "ll" is not one long l. White space is zeros: `sentence_pause_s` after . ! or ?, else `word_pause_s`. Code
    points from 0x7FFF on are all spoken as 0x7FFF.
    The speech under one Flush begins with up to `lead_in_s` of zeros, and each word is drawn out or shortened by the share
    `stretch`, or left as it is: both at random, so that a repeat is never quite the same. With a `stretch` of 0 it is, but for
    its lead-in.
    """

    char_samples: int = 24
    word_pause_s: float = 0.06
    sentence_pause_s: float = 0.25
    lead_in_s: float = 0.2
    stretch: float = 0.0


class Renderer:
    """Says what one connection is given. `random` is where its variations come from."""

    def __init__(self, coding: Coding, sample_rate_hz: int, random: Random) -> None:
        self._coding = coding
        self._rate = sample_rate_hz
        self._random = random
        self._sign = 1
        self._last = " "

    def say(self, text: str) -> bytes:
        """The audio of the text under one Flush. It goes on where the one before ended, even within a word."""
        coding, pcm = self._coding, bytearray()
        if self._last.isspace():
            pcm += self._zeros(self._random.uniform(0, coding.lead_in_s))
            self._sign = 1
        for part in re.findall(r"\s+|\S+", text):
            if part.isspace():
                pcm += self._zeros(coding.sentence_pause_s if self._last in ".!?" else coding.word_pause_s)
                self._sign = 1
            else:
                n = round(coding.char_samples * (1 + self._random.choice((-1, 0, 1)) * coding.stretch))
                for char in part:
                    pcm += struct.pack("<h", self._sign * min(ord(char), 0x7FFF)) * max(1, n)
                    self._sign = -self._sign
            self._last = part[-1]
        return bytes(pcm)

    def _zeros(self, seconds: float) -> bytes:
        return bytes(2 * max(1, round(seconds * self._rate)))


def decode(pcm: bytes) -> str:
    """The text that `Coding` put into audio, each white space one space. Raises ValueError for half a sample."""
    if len(pcm) % 2:
        raise ValueError("half a sample at the end")
    runs = itertools.groupby(struct.unpack(f"<{len(pcm) // 2}h", pcm))
    return " ".join("".join(chr(abs(value)) if value else " " for value, _ in runs).split())


# A speech endpoint that misbehaves on command


class How(StrEnum):
    """How a connection is dropped."""

    CLOSE = "close"  # a close frame with code and reason
    RESET = "reset"  # TCP reset
    CUT = "cut"  # half a frame, then the end of the TCP stream


@dataclass(frozen=True, slots=True)
class Drop:
    """One dropped connection: before its frame of audio number `at_frame` (from 0), once it has been sent `after_chars`
    characters, or, when both are None, right after the handshake."""

    how: How = How.RESET
    code: int = 1011
    reason: str = "NET-0000"
    at_frame: int | None = None
    after_chars: int | None = None


@dataclass(frozen=True, slots=True)
class Faults:
    """What else goes wrong. Times are in seconds; `math.inf`: never. It may be exchanged while connections are open."""

    handshake_s: float = 0.0  # before a handshake is answered
    first_byte_s: float = 0.0  # from Flush to its first audio
    flushed_s: float = 0.0  # from the last audio to Flushed
    cleared_s: float = 0.0  # from Clear to Cleared
    audio_after_clear_s: float = 0.0  # for how long audio goes on after Clear
    stale_flushed: bool = False  # after Cleared, each Flush that it made void is answered
    warning: str = wire.EXCESSIVE_FLUSH  # how a Flush is refused
    noise: tuple[str | bytes, ...] = ()  # messages without meaning, before each Flushed and Cleared


class Received(NamedTuple):
    """A message of a client, when it came (seconds of the event loop), and on which connection (from 0)."""

    at: float
    connection: int
    message: SpeakIn | FlushIn | ClearIn | CloseIn | Violation


class FaultySpeech:
    """A speech endpoint at `url`, until the `async with` block is left: Deepgram Speak v1, linear16, audio only on Flush.

    `limits` are enforced as Deepgram does it. `pace`: how many times faster than real time audio comes, None: at once.
    `key`: what clients must present, None for nothing. Frames of audio have random sizes up to `max_frame_bytes`, odd ones too.

    What goes wrong: `faults`; `drops`, the dropped connections in the order in which they happen; `refusals`, the HTTP statuses
    with which the next handshakes are answered; `refuse_flushes`, how many of the next Flushes are refused.
    What was seen: `log`; `until` waits for it.
    """

    def __init__(
        self,
        *,
        coding: Coding = Coding(),
        limits: Limits = wire.DEEPGRAM_LIMITS,
        pace: float | None = None,
        key: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_frame_bytes: int = 3_840,
        seed: int = 0,
    ) -> None:
        self.faults = Faults()
        self.drops: deque[Drop] = deque()
        self.refusals: deque[int] = deque()
        self.refuse_flushes = 0
        self.log: list[Received] = []
        self.handshakes = 0  # requests, granted or not
        self.connections = 0  # opened, ever
        self.open = 0  # now
        self.frames = 0  # of audio, sent
        self.closed_with: list[Violation] = []  # why it closed connections
        self.coding = coding
        self.limits = limits
        self.pace = pace
        self.key = key
        self.max_frame_bytes = max_frame_bytes
        self.seed = seed
        self._tls = tls
        self._server: Server | None = None
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            "127.0.0.1",
            0,
            ssl=self._tls,
            compression=None,
            max_size=2 * wire.MAX_MESSAGE_BYTES,
            process_request=self._admit,
            ping_interval=None,
            close_timeout=0.5,
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

    @property
    def port(self) -> int:
        assert self._server is not None, "not started"
        return int(next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'wss' if self._tls else 'ws'}://127.0.0.1:{self.port}{wire.PATH}"

    def texts(self, connection: int | None = None) -> list[str]:
        """What it was given to speak, on one connection or on all."""
        return [
            entry.message.text
            for entry in self.log
            if isinstance(entry.message, SpeakIn) and connection in (None, entry.connection)
        ]

    def count(self, kind: type[SpeakIn | FlushIn | ClearIn | CloseIn]) -> int:
        """How many messages of this kind came."""
        return sum(isinstance(entry.message, kind) for entry in self.log)

    async def until(self, seen: Callable[[Self], bool]) -> None:
        """Wait until `seen` holds. It is asked after each message, each frame of audio, each connection's begin and end."""
        while not seen(self):
            self._news.clear()
            await self._news.wait()

    def noticed(self) -> None:
        """Something changed that `until` may wait for."""
        self._news.set()

    async def pause(self, seconds: float) -> None:
        """Let time pass, but not beyond the end of the endpoint."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if seconds == math.inf else seconds):
                    await self._stopping.wait()

    async def _admit(self, ws: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        self.noticed()
        await self.pause(self.faults.handshake_s)
        refusal = self._refusal(request)
        if refusal is None:
            return None
        response = ws.respond(HTTPStatus(refusal.status), refusal.body(str(ws.id)))
        for name, value in refusal.headers(str(ws.id)).items():
            response.headers.pop(name, None)
            response.headers[name] = value
        return response

    def _refusal(self, request: Request) -> Refusal | None:
        if self.refusals:
            status = HTTPStatus(self.refusals.popleft())
            return Refusal(status, status.name, status.phrase)
        if urlsplit(request.path).path != wire.PATH:
            return Refusal(404, "NOT_FOUND", f"There is only {wire.PATH} here.")
        if self.key is not None and wire.credential(request.headers.get("Authorization"), []) != self.key:
            return wire.INVALID_AUTH
        wanted = wire.parse_query(urlsplit(request.path).query)
        if isinstance(wanted, Refusal):
            return wanted
        if wanted.format.encoding is not Encoding.LINEAR16:
            return Refusal(400, "INVALID_QUERY_PARAMETER", "Unsupported audio format: encoding must be linear16")
        return None

    async def _handle(self, ws: ServerConnection) -> None:
        assert ws.request is not None
        wanted = wire.parse_query(urlsplit(ws.request.path).query)
        assert not isinstance(wanted, Refusal)
        link = _Link(self, ws, self.connections, wanted.format)
        self.connections += 1
        self.open += 1
        self.noticed()
        try:
            await link.run()
        finally:
            self.open -= 1
            self.noticed()


class _Link:
    """One connection to the endpoint: a reader, and a speaker that says the flushed groups one after another."""

    def __init__(self, server: FaultySpeech, ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        self._server = server
        self._ws = ws
        self._index = index
        self._format = fmt
        self._random = Random(f"{server.seed} {index}")  # not a hash of a tuple: the same in every process
        self._renderer = Renderer(server.coding, fmt.sample_rate_hz, self._random)
        self._meter = Meter(server.limits)
        self._now = asyncio.get_running_loop().time
        self._text = ""  # not flushed
        self._groups: asyncio.Queue[str | None] = asyncio.Queue()  # flushed; None: close then
        self._voidable = 0  # groups without an answer
        self._frames = self._chars = self._sequence = 0
        self._due = 0.0

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._speaker = group.create_task(self._speak())
                others = [group.create_task(self._read()), group.create_task(self._age())]
                await self._ws.wait_closed()
                for task in (self._speaker, *others):
                    task.cancel()
        except* ConnectionClosed:
            pass

    async def _age(self) -> None:
        if (life_s := self._server.limits.session_s) is not None:
            await self._server.pause(life_s)
            await self._close(wire.SESSION_TOO_LONG)

    async def _close(self, how: Violation) -> None:
        self._server.closed_with.append(how)
        await self._ws.close(how.code, how.reason)

    async def _read(self) -> None:
        if await self._dropped():
            return None
        await self._ws.send(wire.metadata(request_id=str(self._ws.id), model="test", version="1", model_uuid=str(self._ws.id)))
        async for message in self._ws:
            command = wire.decode(message)
            self._server.log.append(Received(self._now(), self._index, command))
            self._server.noticed()
            match command:
                case SpeakIn(text=text):
                    self._text += text
                    self._chars += len(text)
                    if not self._meter.speak(len(text), now=self._now()):
                        return await self._close(wire.TOO_MANY_CHARS)
                    if await self._dropped():
                        return None
                case FlushIn():
                    await self._flush()
                case ClearIn():
                    await self._clear()
                case CloseIn():
                    if self._text:
                        await self._flush()
                    self._groups.put_nowait(None)
                case Violation():
                    return await self._close(command)
                case _:
                    assert_never(command)
        return None

    async def _flush(self) -> None:
        if self._server.refuse_flushes > 0 or not self._meter.flush(now=self._now()):
            self._server.refuse_flushes = max(0, self._server.refuse_flushes - 1)
            await self._ws.send(self._server.faults.warning)
            return
        self._voidable += 1
        self._groups.put_nowait(self._text)
        self._text = ""

    async def _clear(self) -> None:
        faults = self._server.faults
        await self._server.pause(faults.audio_after_clear_s)
        self._speaker.cancel()
        void, self._voidable, self._text, self._due = self._voidable, 0, "", 0.0
        self._groups = asyncio.Queue()
        self._speaker = self._group.create_task(self._speak())
        await self._server.pause(faults.cleared_s)
        await self._answer(wire.cleared(self._next()))
        for _ in range(void if faults.stale_flushed else 0):
            await self._ws.send(wire.flushed(self._next()))

    async def _speak(self) -> None:
        while (text := await self._groups.get()) is not None:
            await self._server.pause(self._server.faults.first_byte_s)
            pcm, at = self._renderer.say(text), 0
            while at < len(pcm):
                if await self._dropped(pcm[at:]):
                    return
                size = self._random.randint(1, self._server.max_frame_bytes)
                await self._send_audio(pcm[at : at + size])
                at += size
            await self._server.pause(self._server.faults.flushed_s)
            self._voidable -= 1
            await self._answer(wire.flushed(self._next()))
        await self._close(Violation(1000, ""))

    async def _send_audio(self, data: bytes) -> None:
        if (pace := self._server.pace) is not None:
            now = self._now()
            self._due = max(self._due, now)
            await self._server.pause(self._due - now)
            self._due += self._format.seconds(len(data)) / pace
        await self._ws.send(data)
        self._frames += 1
        self._server.frames += 1
        self._server.noticed()

    async def _answer(self, message: str) -> None:
        for noise in self._server.faults.noise:
            await self._ws.send(noise)
        await self._ws.send(message)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    async def _dropped(self, audio: bytes = b"") -> bool:
        """Drop the connection if that is due; `audio` is what would have come next."""
        drop = self._server.drops[0] if self._server.drops else None
        if drop is None:
            return False
        due = (
            self._frames >= drop.at_frame and bool(audio)
            if drop.at_frame is not None
            else self._chars >= (drop.after_chars or 0)
        )
        if not due:
            return False
        self._server.drops.popleft()
        match drop.how:
            case How.CLOSE:
                await self._ws.close(drop.code, drop.reason)
            case How.RESET:
                _reset(self._ws.transport)
            case How.CUT:
                self._ws.transport.write(b"\x82\x7e\x10\x00" + audio[:1_000])  # announces 4,096 bytes
                self._ws.transport.close()
            case _:
                assert_never(drop.how)
        return True


# A network that misbehaves


class FaultyNetwork:
    """A TCP proxy at `port` in front of a port of this machine, until the `async with` block is left.

    `delay_s` holds back what is under way, `rate` is in bytes a second (None: any). `cut_after`: so many more bytes go to the
    client, then every connection ends; None: never. They may be changed at any time and hold for all connections, `rate` and
    `cut_after` for what goes to the client.
    """

    def __init__(self, port: int, *, delay_s: float = 0.0, rate: float | None = None) -> None:
        self.delay_s = delay_s
        self.rate = rate
        self.cut_after: int | None = None
        self.connections = 0  # ever
        self._to = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    def swallow(self) -> None:
        """A black hole: the connections stay open and nothing arrives any more. Later ones are not affected."""
        self._swallowed |= self._writers

    def reset(self) -> None:
        """Break all connections with a TCP reset."""
        for writer in self._writers:
            _reset(writer.transport)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._group.create_task(self._join(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ends = [writer]
        self._writers.add(writer)
        try:
            there, to = await asyncio.open_connection("127.0.0.1", self._to)
            ends.append(to)
            self._writers.add(to)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, to, down=False))
                pumps.create_task(self._pump(there, writer, down=True))
        except OSError:
            pass  # nobody listens there
        finally:
            for end in ends:
                end.transport.abort()
                self._writers.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        """Carry bytes one way until their sender is gone; then the other way ends too."""
        now = asyncio.get_running_loop().time
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._carry(queue, writer, down=down))
            try:
                while data := await reader.read(65_536):
                    await queue.put((now() + self.delay_s, data))
            except OSError:
                pass  # reset
            await queue.put((0.0, b""))
        writer.close()

    async def _carry(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, down: bool) -> None:
        now = asyncio.get_running_loop().time
        broken = False
        while (item := await queue.get())[1]:
            due, data = item
            await asyncio.sleep(max(0.0, due - now()))
            if broken or writer in self._swallowed:
                continue
            if down and self.cut_after is not None:
                data = data[: self.cut_after]
                self.cut_after -= len(data)
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                broken = True  # its other way notices too, and ends both
            if down and self.cut_after == 0:
                self.cut_after = None
                for each in self._writers:
                    each.close()
            if down and self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)


async def _pause(seconds: float) -> None:
    if seconds == math.inf:
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(seconds)


def _reset(transport: asyncio.BaseTransport) -> None:
    """End a TCP connection with RST, so that what is under way is lost."""
    assert isinstance(transport, asyncio.WriteTransport)
    if (sock := transport.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
