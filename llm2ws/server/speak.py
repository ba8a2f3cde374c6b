"""Deepgram's Speak WebSocket, version 1, for its SDK and for every framework that has a Deepgram voice.

What a client sends up to a Flush, a Clear or its Close is a turn: cut, cleaned, and spoken within the endpoint's limits, while
the client is still sending. The turn's own Flushes are not passed on: a `Flushed` answers a Flush of the client, after all
audio of the text before it. https://developers.deepgram.com/reference/text-to-speech/speak-streaming
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import assert_never

from aiohttp import WSMsgType, hdrs, web

from ..errors import Llm2wsError, SlowConsumerError, SourceError, UnknownName
from ..sources.inlet import Inlet
from ..speech.dialects import deepgram_server as deepgram
from ..speech.dialects.deepgram_server import Refusal, SpeakRequest, Violation
from ..turn import Audio, Conversation, Notice
from .access import TokenBucket
from .api import Api, Route
from .client_turn import CLIENT_NOTICES, StopReason, speak_to_client
from .daemon import CLIENT, DAEMON, REQUEST_ID, SERVICE
from .problems import Problem, deepgram_error, draining_problem, logged_problem
from .sending import send_in_time

__all__ = ["API"]

PING_S = 20.0  # How often a ping shows proxies, and the kernel, that the connection is in use.
CLOSE_S = 2.0  # How long a client may take to answer a close frame.

_NORMAL = Violation(1000, "")
_GOING_AWAY = Violation(1001, "")
_NO_MESSAGE = Violation(1011, "NET-0001")

# What a client reads before its connection is closed, beside Deepgram's own code.
_WHY = {
    deepgram.BAD_MESSAGE: 'send JSON such as {"type": "Speak", "text": "Hello."}, or a type of Flush, Clear or Close alone',
    deepgram.BINARY_MESSAGE: "send messages as text, not as binary",
    deepgram.TEXT_TOO_LONG: f"the text of one Speak has more than {deepgram.MAX_SPEAK_CHARS} characters: send several",
}


class _Closing(Exception):
    """How the connection is to be closed, and why, as the client reads it."""

    def __init__(self, how: Violation, why: str = "") -> None:
        super().__init__(how)
        self.how = how
        self.why = why or _WHY.get(how, "")


@dataclass(slots=True)
class _Section:
    """The text up to a Flush, which is one turn.

    `waiting`: the text that comes before the turn begins; from then on text goes to the `inlet`. `chars`: the characters of the
    text, and one for the Flush: Flushes without text would queue without bound. `flushed`: the client expects a Flushed.
    """

    waiting: list[str] = field(default_factory=list)
    inlet: Inlet | None = None
    chars: int = 0
    flushed: bool = False


class _SpeakConnection:
    """One connection: a reader, which never waits for speech, and a speaker, which says one section after another."""

    def __init__(
        self, request: web.Request, ws: web.WebSocketResponse, conversation: Conversation, tasks: asyncio.TaskGroup
    ) -> None:
        self._request = request
        self._ws = ws
        self._conversation = conversation
        self._tasks = tasks
        self._draining = request.app[DAEMON].draining
        limits = request[CLIENT].limits
        self._max_chars = limits.text_chars
        self._max_message = min(limits.message_bytes, deepgram.MAX_MESSAGE_BYTES)
        self._per_s = limits.messages_per_s
        self._rate = TokenBucket(self._per_s, max(1.0, self._per_s))
        self._sections: asyncio.Queue[_Section | None] = asyncio.Queue()  # None: close then. Bounded by `_pending_chars`.
        self._open: _Section | None = None  # The last section, while it has no Flush.
        self._pending_chars = 0
        self._closing = False
        self._end = _NORMAL
        self._n_flushed = self._n_cleared = 0
        self._speaker = tasks.create_task(self._speak())

    async def run(self, metadata: str) -> None:
        """Serve the connection until the client has gone. Raises _Closing when it is to be closed."""
        await self._send(metadata)
        others = [self._tasks.create_task(self._drain()), self._tasks.create_task(self._ping())]
        await self._read()
        for task in (self._speaker, *others):
            task.cancel()

    # From the client

    async def _read(self) -> None:
        """Carry out the client's messages until it has gone."""
        now = asyncio.get_running_loop().time
        async for message in self._ws:
            if message.type is WSMsgType.ERROR:
                return  # The client broke the WebSocket protocol, and aiohttp has answered that.
            data = message.data
            if len(data) > self._max_message:
                raise _Closing(deepgram.MESSAGE_TOO_BIG, f"a message has more than {self._max_message} bytes: send several")
            self._rate.use(1, now())
            if (left := self._rate.left(now())) < 0:
                await asyncio.sleep(-left / self._per_s)  # Held back, rather than closed: nothing is lost.
            if not self._closing:
                await self._carry_out(deepgram.decode(data))

    async def _carry_out(
        self, command: deepgram.SpeakIn | deepgram.FlushIn | deepgram.ClearIn | deepgram.CloseIn | Violation
    ) -> None:
        match command:
            case deepgram.SpeakIn(text=text):
                if text:
                    await self._take(text)
            case deepgram.FlushIn():
                self._finish(flushed=True)
            case deepgram.ClearIn():
                await self._clear()
            case deepgram.CloseIn():
                self._closing = True
                self._finish(flushed=False)
                self._sections.put_nowait(None)
            case Violation():
                raise _Closing(command)
            case _:
                assert_never(command)

    async def _take(self, text: str) -> None:
        if self._open is None:
            self._open = self._add()
        self._count(self._open, len(text))
        if self._open.inlet is None:
            self._open.waiting.append(text)
        else:
            await self._open.inlet.put(text)

    def _add(self) -> _Section:
        section = _Section()
        self._sections.put_nowait(section)
        self._count(section, 1)
        return section

    def _count(self, section: _Section, chars: int) -> None:
        section.chars += chars
        self._pending_chars += chars
        if self._pending_chars > self._max_chars:
            raise _Closing(
                deepgram.TOO_MANY_CHARS,
                f"more than {self._max_chars} characters are not spoken up to their Flush: send less at once",
            )

    def _finish(self, *, flushed: bool) -> None:
        """End the open section: its text is complete."""
        section, self._open = self._open, None
        if section is None and flushed:
            section = self._add()
        if section is not None:
            section.flushed = flushed
            if section.inlet is None:
                section.waiting = ["".join(section.waiting)]  # One string takes less memory than many.
            else:
                section.inlet.end()
        self._leave()

    async def _clear(self) -> None:
        self._speaker.cancel()  # Which interrupts its turn.
        await asyncio.wait([self._speaker])
        if not self._speaker.cancelled():
            return  # It had just failed, which ends the connection.
        self._sections = asyncio.Queue()
        self._open, self._pending_chars = None, 0
        await self._send(deepgram.cleared(self._n_cleared))
        self._n_cleared += 1
        self._speaker = self._tasks.create_task(self._speak())
        self._leave()

    async def _ping(self) -> None:
        """Send pings. Pongs are not waited for: a player that holds back by not reading answers none."""
        while True:
            await asyncio.sleep(PING_S)
            await self._ws.ping()

    async def _drain(self) -> None:
        await self._draining.wait()
        if self._open is None:
            self._leave()

    def _leave(self) -> None:
        """Close the connection when everything has been spoken, if the daemon stops."""
        if self._draining.is_set() and not self._closing:
            self._closing, self._end = True, _GOING_AWAY
            self._sections.put_nowait(None)

    # To the client

    async def _speak(self) -> None:
        while (section := await self._sections.get()) is not None:
            if section.chars > 1:
                await self._say(section)
            self._pending_chars -= section.chars
            if section.flushed:
                await self._send(deepgram.flushed(self._n_flushed))
                self._n_flushed += 1
        raise _Closing(self._end, "the daemon stops: connect again" if self._end is _GOING_AWAY else "")

    async def _say(self, section: _Section) -> None:
        """Speak a section, from its first text to its last audio."""
        # The inlet has room for all that may be pending, so the reader never waits for it: a Clear is always seen.
        inlet = section.inlet = Inlet(self._max_chars)
        await inlet.put("".join(section.waiting))
        section.waiting.clear()
        if section is not self._open:
            inlet.end()
        try:
            async with (
                speak_to_client(self._request, self._conversation, inlet, face="speak") as client_turn,
                aclosing(client_turn.events()) as events,
            ):
                async for event in events:
                    if isinstance(event, Audio):
                        await self._send(event.data)
                    elif isinstance(event, Notice) and event.kind in CLIENT_NOTICES:
                        await self._send(deepgram.warning(event.kind.name, event.detail))
        except SourceError as exc:
            raise _Closing(
                _NO_MESSAGE, "no message came while text was not flushed: send a Flush after the last Speak"
            ) from exc
        except SlowConsumerError as exc:
            raise _Closing(deepgram.SEND_FAILED) from exc
        except Problem as exc:
            raise _Closing(deepgram.TOO_MANY_CHARS, exc.message) from exc
        except Llm2wsError as exc:
            raise _Closing(deepgram.INTERNAL_ERROR, logged_problem(exc).message) from exc
        if client_turn.stop_reason is StopReason.SHUTDOWN:
            raise _Closing(_GOING_AWAY, "the daemon stops: connect again")
        if client_turn.stop_reason is not None:
            raise _Closing(
                deepgram.TOO_MANY_CHARS, f"the {client_turn.stop_reason} of this client is reached: send less at once"
            )

    async def _send(self, message: str | bytes) -> None:
        try:
            await send_in_time(self._ws.send_str(message) if isinstance(message, str) else self._ws.send_bytes(message))
        except SlowConsumerError as exc:
            raise _Closing(deepgram.SEND_FAILED) from exc


def _conversation(request: web.Request, query: SpeakRequest) -> Conversation:
    voice = query.model if "model" in request.query else ""  # Without one it is the endpoint's own.
    try:
        return request[SERVICE].conversation(voice=voice, format=query.format, speed=query.speed, client=request[CLIENT].name)
    except UnknownName as exc:
        raise Problem(400, f"{deepgram.NO_SUCH_MODEL.message} {exc}", code=deepgram.NO_SUCH_MODEL.code) from None


async def _serve(request: web.Request) -> web.StreamResponse:
    query = deepgram.parse_query(request.query_string)
    if isinstance(query, Refusal):
        raise Problem(query.status, query.message, code=query.code)
    offered = [name.strip() for name in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    subprotocol = deepgram.chosen_subprotocol(offered)
    client = request[CLIENT]
    ws = web.WebSocketResponse(
        timeout=CLOSE_S,
        protocols=(subprotocol,) if subprotocol else (),
        compress=False,  # Audio does not compress, and a small compressed message may be endless.
        # Longer messages are refused by the library, with the same code but its own reason.
        max_msg_size=2 * min(client.limits.message_bytes, deepgram.MAX_MESSAGE_BYTES),
    )  # No heartbeat, which waits for pongs: see `_ping`. TCP finds clients that have vanished.
    if not ws.can_prepare(request):
        raise Problem(426, "this is a WebSocket: connect with ws:// or wss://", headers={"Upgrade": "websocket"})
    conversation = _conversation(request, query)
    client.check_speech()
    await conversation.warm()  # What the endpoint refuses is refused as a handshake, as Deepgram does it.
    if request.app[DAEMON].draining.is_set():
        raise draining_problem()  # A connection would be closed before its first message is read.
    request_id = request[REQUEST_ID]
    ws.headers["dg-request-id"] = request_id
    await ws.prepare(request)
    metadata = deepgram.metadata(
        request_id=request_id,
        model=query.model,
        version=_version(),
        model_uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"llm2ws:{query.model}")),
    )
    await _close(ws, await _run(request, ws, conversation, metadata))
    return ws


async def _run(request: web.Request, ws: web.WebSocketResponse, conversation: Conversation, metadata: str) -> _Closing:
    """Serve a connection, and return how it is to be closed, which may have happened already."""
    closing = _Closing(_NORMAL)
    try:
        async with asyncio.TaskGroup() as tasks:
            await _SpeakConnection(request, ws, conversation, tasks).run(metadata)
    except* _Closing as group:
        closing = next(exc for exc in group.exceptions if isinstance(exc, _Closing))
    except* ConnectionError:  # The client has gone.
        pass
    return closing


@cache
def _version() -> str:
    try:
        return version("llm2ws")
    except PackageNotFoundError:  # Run from its source.
        return "unknown"


async def _close(ws: web.WebSocketResponse, closing: _Closing) -> None:
    """Close the connection, in bounded time: to a client that does not read, the close frame is never sent."""
    try:
        async with asyncio.timeout(CLOSE_S):
            if closing.why and not ws.closed:
                await ws.send_str(deepgram.warning(closing.how.reason or "GOING_AWAY", closing.why))
            await ws.close(code=closing.how.code, message=closing.how.reason.encode())
    except (TimeoutError, ConnectionError):
        pass  # The connection ends with the handler.


API = Api([Route("GET", deepgram.PATH, _serve)], deepgram_error)
