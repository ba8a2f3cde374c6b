"""One client's connection to a `FaultyEndpoint`, and the audio that is sent on it."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Generic, TypeVar, assert_never

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..audio import AudioFormat
from ..speech.dialects import deepgram_server as wire
from .endpoint import FaultyEndpoint, PingRecorder, Received
from .faults import Drop, How
from .network import reset
from .voice import Char, Renderer

__all__ = ["EndpointConnection", "SpeechQueue", "TimedChunk"]

_M = TypeVar("_M")
EARLY_S = 0.001  # a timer may fire so many seconds too early


class EndpointConnection(ABC, Generic[_M]):
    """One connection to an endpoint. `send`, `send_reply` and `send_audio` are where it is dropped, if that is due."""

    def __init__(self, endpoint: FaultyEndpoint[_M], ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        self.endpoint = endpoint
        self.ws = ws
        self.index = index
        self.format = fmt
        self.now = asyncio.get_running_loop().time
        self.random = Random(f"{endpoint.seed} {index}")  # not a hash of a tuple: the same in every process
        self._received_at = self.now()  # when the client's last message came
        self._n_messages = self._n_frames = self._n_chars = 0
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    # What a vendor fills in

    @abstractmethod
    def parse(self, message: str | bytes) -> _M:
        """Return a client's message in the form that is kept in the log."""

    @abstractmethod
    async def receive(self, message: _M) -> None:
        """Handle a client's message."""

    async def on_open(self) -> None:
        """Send what follows the handshake at once."""

    async def on_max_age(self) -> None:
        """End the connection, which is `max_age_s` old."""
        await self.close(1000)

    async def on_idle(self) -> None:
        """End the connection, whose client has been silent for `idle_s`."""
        await self.close(1000)

    # What a vendor may use

    def start(self, what: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run a coroutine until it or the connection ends."""
        task = self._group.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def record_text(self, text: str) -> None:
        """Record a text that the client sent to be spoken."""
        self._n_chars += len(text)
        self.endpoint.record_text(self.index, text)

    async def send(self, message: str | bytes) -> None:
        """Send a message, unless the connection is to be dropped before it."""
        if not await self._dropped(sending=True):
            await self.ws.send(message)
            self._n_messages += 1

    async def send_reply(self, message: str) -> None:
        """Send a message that a client waits for, after the noise that the faults ask for."""
        for noise in self.endpoint.faults.noise:
            await self.ws.send(noise)
        await self.send(message)

    async def send_audio(self, messages: list[str | bytes], audio: bytes) -> None:
        """Send a frame of audio, in the vendor's messages."""
        if await self._dropped(audio):
            return
        for message in messages:
            await self.send(message)
        self._n_frames += 1
        self.endpoint.frames += 1
        self.endpoint.notify()

    async def close(self, code: int, reason: str = "") -> None:
        """Close the connection, and record why."""
        self.endpoint.closed_with.append(wire.Violation(code, reason))
        await self.ws.close(code, reason)

    async def run(self) -> None:
        """Serve the client until the connection is closed."""
        try:
            async with self._group:
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
        await self.on_open()
        async for raw in self.ws:
            self._received_at = self.now()
            message = self.parse(raw)
            self.endpoint.log.append(Received(self._received_at, self.index, message))
            self.endpoint.notify()
            await self.receive(message)
            if await self._dropped():
                return

    async def _age(self) -> None:
        if (max_age_s := self.endpoint.max_age_s) is not None:
            await self.endpoint.pause(max_age_s)
            await self.on_max_age()

    async def _watch(self) -> None:
        if (idle_s := self.endpoint.idle_s) is None:
            return
        while (left_s := self._silent_since + idle_s - self.now()) > EARLY_S:
            await self.endpoint.pause(left_s)
        await self.on_idle()

    @property
    def _silent_since(self) -> float:
        if self.endpoint.pings_count and isinstance(self.ws, PingRecorder):
            return max(self._received_at, self.ws.pinged_at)
        return self._received_at

    async def _dropped(self, audio: bytes = b"", *, sending: bool = False) -> bool:
        """Drop the connection if that is due, and return whether it was. `audio` is what would have been sent next."""
        drop = self.endpoint.drops[0] if self.endpoint.drops else None
        match drop:
            case None:
                return False
            case Drop(at_frame=int(n)):
                due = bool(audio) and self._n_frames >= n
            case Drop(at_message=int(n)):
                due = sending and self._n_messages >= n
            case _:
                due = not sending and self._n_chars >= (drop.after_chars or 0)
        if not due:
            return False
        self.endpoint.drops.popleft()
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
class TimedChunk:
    """Audio to be sent at once, with the characters that begin in it.

    `at_s` and the times of the characters count from the start of all audio of the queue, in seconds.
    """

    data: bytes
    at_s: float
    chars: list[Char] = field(default_factory=list)


class SpeechQueue:
    """The texts of a connection, or of one of several contexts on it, spoken one after the other in a task of their own.

    `wrap` returns the messages in which the vendor sends a chunk of audio.
    """

    def __init__(
        self,
        connection: EndpointConnection[_M],
        wrap: Callable[[TimedChunk], list[str | bytes]] = lambda chunk: [chunk.data],
    ) -> None:
        self._endpoint = connection.endpoint
        self._connection = connection
        self._wrap = wrap
        self._renderer = Renderer(self._endpoint.coding, connection.format.sample_rate_hz, connection.random)
        self._queue: asyncio.Queue[str | Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._n_bytes = 0  # bytes of audio that were sent
        self._due = 0.0  # when the next audio is due, in seconds of the event loop
        self._task: asyncio.Task[None] | None = None  # None while nothing was given

    @property
    def spoken_s(self) -> float:
        """Seconds of audio that were sent so far."""
        return self._connection.format.seconds(self._n_bytes)

    def say(self, text: str) -> None:
        """Speak a text after all that was given before."""
        self._put(text)

    def then(self, act: Callable[[], Awaitable[None]]) -> None:
        """Call and await `act`, such as `partial(send_reply, message)`, once all that was given before has been spoken."""
        self._put(act)

    def stop(self) -> None:
        """Drop all that was given. More may be given afterwards."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._due = 0.0
        self._queue = asyncio.Queue()

    def _put(self, item: str | Callable[[], Awaitable[None]]) -> None:
        if self._task is None:
            self._task = self._connection.start(self._speak(self._queue))
        self._queue.put_nowait(item)

    async def _speak(self, queue: asyncio.Queue[str | Callable[[], Awaitable[None]]]) -> None:
        while True:
            item = await queue.get()
            if isinstance(item, str):
                await self._endpoint.pause(self._endpoint.faults.first_byte_s)
                await self._say(item)
            else:
                await self._endpoint.pause(self._endpoint.faults.flushed_s)
                await item()

    async def _say(self, text: str) -> None:
        pcm, chars = self._renderer.timed(text)
        start_s, at, fmt = self.spoken_s, 0, self._connection.format
        chars = [Char(char.text, start_s + char.start_s, start_s + char.end_s) for char in chars]
        while at < len(pcm):
            data = pcm[at : at + self._connection.random.randint(1, self._endpoint.max_frame_bytes)]
            at += len(data)
            until_s = start_s + fmt.seconds(at) if at < len(pcm) else math.inf
            begun = [char for char in chars if char.start_s < until_s]
            chars = chars[len(begun) :]
            await self._wait(fmt.seconds(len(data)))
            chunk = TimedChunk(data, self.spoken_s, begun)
            self._n_bytes += len(data)
            await self._connection.send_audio(self._wrap(chunk), data)

    async def _wait(self, seconds: float) -> None:
        """Wait until audio that lasts so long is due."""
        if (pace := self._endpoint.pace) is not None:
            now = self._connection.now()
            self._due = max(self._due, now)
            await self._endpoint.pause(self._due - now)
            self._due += seconds / pace
