"""Deepgram's Speak WebSocket, version 1, for its SDK and for every framework that has a Deepgram voice.

What a client sends up to a Flush, a Clear or its Close is a turn: cut, cleaned, and spoken within the endpoint's limits, while
the client is still sending. Flushes that the turn makes for that are not shown: a `Flushed` answers a Flush of the client,
after all audio of the text before it. https://developers.deepgram.com/reference/text-to-speech/speak-streaming
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
from .access import Rate
from .client_turn import TOLD, Stopped, speaking
from .daemon import CLIENT, DAEMON, REQUEST_ID, SERVICE, Face, Problem, deepgram_error, drained, problem_of
from .sending import taken

__all__ = ["FACE"]

CLOSE_S = 2.0  # how long a client may take to answer a close frame

_NORMAL = Violation(1000, "")
_GOING_AWAY = Violation(1001, "")
_NO_MESSAGE = Violation(1011, "NET-0001")

# What a client is told before its connection is closed, beside Deepgram's own code.
_WHY = {
    deepgram.BAD_MESSAGE: 'send JSON such as {"type": "Speak", "text": "Hello."}, or a type of Flush, Clear or Close alone',
    deepgram.BINARY_MESSAGE: "send messages as text, not as binary",
    deepgram.TEXT_TOO_LONG: f"the text of one Speak has more than {deepgram.MAX_SPEAK_CHARS} characters: send several",
}


class _Ended(Exception):
    """The connection is to be closed: how, and what the client is told of it."""

    def __init__(self, how: Violation, why: str = "") -> None:
        super().__init__(how)
        self.how = how
        self.why = why or _WHY.get(how, "")


@dataclass(slots=True)
class _Part:
    """What came up to a Flush. `chars`: of text, and one for the Flush, or Flushes of nothing would queue without bound.

    `waiting`: text that came before its turn; once that has begun, text goes to the `inlet`. `flushed`: the client is owed a
    Flushed.
    """

    waiting: list[str] = field(default_factory=list)
    inlet: Inlet | None = None
    chars: int = 0
    flushed: bool = False


class _Client:
    """One connection: a reader, which never waits for speech, and a speaker that says one part after another."""

    def __init__(self, request: web.Request, ws: web.WebSocketResponse, conversation: Conversation) -> None:
        self._request = request
        self._ws = ws
        self._conversation = conversation
        self._draining = request.app[DAEMON].draining
        limits = request[CLIENT].limits
        self._max_chars = limits.text_chars
        self._max_message = min(limits.message_bytes, deepgram.MAX_MESSAGE_BYTES)
        self._per_s = limits.messages_per_s
        self._rate = Rate(self._per_s, max(1.0, self._per_s))
        self._parts: asyncio.Queue[_Part | None] = asyncio.Queue()  # None: close then; bounded by `_pending_chars`
        self._open: _Part | None = None  # the last one, while it has no Flush
        self._pending_chars = 0
        self._closing = False
        self._end = _NORMAL
        self._n_flushed = self._n_cleared = 0

    async def run(self, metadata: str) -> _Ended:
        """Serve the connection. Gives how it is to be closed, which may have happened already."""
        ended = _Ended(_NORMAL)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._send(metadata)
                self._speaker = group.create_task(self._speak())
                drain = group.create_task(self._drain())
                await self._read()
                self._speaker.cancel()
                drain.cancel()
        except* _Ended as group_of:
            ended = next(exc for exc in group_of.exceptions if isinstance(exc, _Ended))
        except* ConnectionError:  # the client has gone
            pass
        return ended

    # From the client

    async def _read(self) -> None:
        """Carry out what the client sends, until it has gone."""
        now = asyncio.get_running_loop().time
        async for message in self._ws:
            if message.type is WSMsgType.ERROR:
                return  # it broke the WebSocket protocol, and has been told
            data = message.data
            if len(data) > self._max_message:
                raise _Ended(deepgram.MESSAGE_TOO_BIG, f"a message has more than {self._max_message} bytes: send several")
            self._rate.use(1, now())
            if (left := self._rate.left(now())) < 0:
                await asyncio.sleep(-left / self._per_s)  # held back, rather than closed: nothing is lost
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
                self._parts.put_nowait(None)
            case Violation():
                raise _Ended(command)
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

    def _add(self) -> _Part:
        part = _Part()
        self._parts.put_nowait(part)
        self._count(part, 1)
        return part

    def _count(self, part: _Part, chars: int) -> None:
        part.chars += chars
        self._pending_chars += chars
        if self._pending_chars > self._max_chars:
            raise _Ended(
                deepgram.TOO_MANY_CHARS,
                f"more than {self._max_chars} characters are not spoken up to their Flush: send less at once",
            )

    def _finish(self, *, flushed: bool) -> None:
        """The text up to here is complete."""
        part, self._open = self._open, None
        if part is None and flushed:
            part = self._add()
        if part is not None:
            part.flushed = flushed
            if part.inlet is None:
                part.waiting = ["".join(part.waiting)]  # a fast client has many parts waiting
            else:
                part.inlet.end()
        self._leave()

    async def _clear(self) -> None:
        self._speaker.cancel()  # which interrupts its turn
        await asyncio.wait([self._speaker])
        if not self._speaker.cancelled():
            return  # it had just failed, which ends the connection
        self._parts = asyncio.Queue()
        self._open, self._pending_chars = None, 0
        await self._send(deepgram.cleared(self._n_cleared))
        self._n_cleared += 1
        self._speaker = self._group.create_task(self._speak())
        self._leave()

    async def _drain(self) -> None:
        await self._draining.wait()
        if self._open is None:
            self._leave()

    def _leave(self) -> None:
        """Close when all has been said, if the daemon stops."""
        if self._draining.is_set() and not self._closing:
            self._closing, self._end = True, _GOING_AWAY
            self._parts.put_nowait(None)

    # To the client

    async def _speak(self) -> None:
        while (part := await self._parts.get()) is not None:
            if part.chars > 1:
                await self._say(part)
            self._pending_chars -= part.chars
            if part.flushed:
                await self._send(deepgram.flushed(self._n_flushed))
                self._n_flushed += 1
        raise _Ended(self._end, "the daemon stops: connect again" if self._end is _GOING_AWAY else "")

    async def _say(self, part: _Part) -> None:
        """A turn, from its first text to its last audio."""
        # The inlet has room for all that may be pending, so the reader never waits for it: a Clear is always seen.
        inlet = part.inlet = Inlet(self._max_chars)
        await inlet.put("".join(part.waiting))
        part.waiting.clear()
        if part is not self._open:
            inlet.end()
        try:
            async with (
                speaking(self._request, self._conversation, inlet, face="speak") as one,
                aclosing(one.events()) as events,
            ):
                async for event in events:
                    if isinstance(event, Audio):
                        await self._send(event.data)
                    elif isinstance(event, Notice) and event.kind in TOLD:
                        await self._send(deepgram.warning(event.kind.name, event.detail))
        except SourceError as exc:
            raise _Ended(_NO_MESSAGE, "no message came while text was not flushed: send a Flush after the last Speak") from exc
        except SlowConsumerError as exc:
            raise _Ended(deepgram.SEND_FAILED) from exc
        except Problem as exc:
            raise _Ended(deepgram.TOO_MANY_CHARS, exc.message) from exc
        except Llm2wsError as exc:
            raise _Ended(deepgram.INTERNAL_ERROR, problem_of(exc).message) from exc
        if one.stopped is Stopped.SHUTDOWN:
            raise _Ended(_GOING_AWAY, "the daemon stops: connect again")
        if one.stopped is not None:
            raise _Ended(deepgram.TOO_MANY_CHARS, f"the {one.stopped} of this client is reached: send less at once")

    async def _send(self, message: str | bytes) -> None:
        try:
            await taken(self._ws.send_str(message) if isinstance(message, str) else self._ws.send_bytes(message))
        except SlowConsumerError as exc:
            raise _Ended(deepgram.SEND_FAILED) from exc


def _conversation(request: web.Request, wanted: SpeakRequest) -> Conversation:
    voice = wanted.model if "model" in request.query else ""  # without one it is the endpoint's own
    try:
        return request[SERVICE].conversation(voice=voice, format=wanted.format, speed=wanted.speed)
    except UnknownName as exc:
        raise Problem(400, f"{deepgram.NO_SUCH_MODEL.message} {exc}", code=deepgram.NO_SUCH_MODEL.code) from None


async def _serve(request: web.Request) -> web.StreamResponse:
    wanted = deepgram.parse_query(request.query_string)
    if isinstance(wanted, Refusal):
        raise Problem(wanted.status, wanted.message, code=wanted.code)
    offered = [name.strip() for name in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",")]
    subprotocol = deepgram.chosen_subprotocol(offered)
    client = request[CLIENT]
    ws = web.WebSocketResponse(
        timeout=CLOSE_S,
        protocols=(subprotocol,) if subprotocol else (),
        compress=False,  # audio does not, and what a client compresses may be endless
        # Longer messages are refused by the library, with the same code but its own reason.
        max_msg_size=2 * min(client.limits.message_bytes, deepgram.MAX_MESSAGE_BYTES),
    )  # no heartbeat: a player that holds back by not reading answers none. Lost clients are found by TCP
    if not ws.can_prepare(request):
        raise Problem(426, "this is a WebSocket: connect with ws:// or wss://", headers={"Upgrade": "websocket"})
    conversation = _conversation(request, wanted)
    client.check_speech()
    await conversation.warm()  # what the endpoint refuses is refused as a handshake, as Deepgram does it
    if request.app[DAEMON].draining.is_set():
        raise drained()  # the client may ask another daemon; a connection would be closed before its first message is read
    request_id = request[REQUEST_ID]
    ws.headers["dg-request-id"] = request_id
    await ws.prepare(request)
    metadata = deepgram.metadata(
        request_id=request_id,
        model=wanted.model,
        version=_version(),
        model_uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"llm2ws:{wanted.model}")),
    )
    ended = await _Client(request, ws, conversation).run(metadata)
    await _close(ws, ended)
    return ws


@cache
def _version() -> str:
    try:
        return version("llm2ws")
    except PackageNotFoundError:  # run from its source
        return "unknown"


async def _close(ws: web.WebSocketResponse, ended: _Ended) -> None:
    """Close, in bounded time: behind a client that does not read, the close frame waits for ever."""
    try:
        async with asyncio.timeout(CLOSE_S):
            if ended.why and not ws.closed:
                await ws.send_str(deepgram.warning(ended.how.reason or "GOING_AWAY", ended.why))
            await ws.close(code=ended.how.code, message=ended.how.reason.encode())
    except (TimeoutError, ConnectionError):
        pass  # the connection ends with the handler


FACE = Face([web.get(deepgram.PATH, _serve)], deepgram_error)
