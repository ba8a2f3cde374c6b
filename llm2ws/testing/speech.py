"""Deepgram Speak v1 that misbehaves on command."""

from __future__ import annotations

import ssl
from functools import partial
from http import HTTPStatus
from typing import assert_never
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from ..audio import AudioFormat, Encoding
from ..speech.dialects import deepgram_server as wire
from ..speech.dialects.deepgram_server import ClearIn, CloseIn, FlushIn, Limits, Meter, Refusal, SpeakIn, Violation
from .server import Answer, Link, SpeechServer, Voice
from .voice import Coding

__all__ = ["FaultySpeech"]

_In = SpeakIn | FlushIn | ClearIn | CloseIn | Violation


class FaultySpeech(SpeechServer[_In]):
    """A speech endpoint at `url`, until the `async with` block is left: Deepgram Speak v1, linear16, audio only on Flush.

    `limits` are enforced as Deepgram does it. `pace`: how many times faster than real time audio comes, None: at once.
    `key`: what clients must present, None for nothing. Frames of audio have random sizes up to `max_frame_bytes`, odd ones too.

    What goes wrong: `faults`; `drops`, the dropped connections in the order in which they happen; `refusals`, the HTTP statuses
    with which the next handshakes are answered; `refuse_flushes`, how many of the next Flushes are refused.
    What was seen: `log`; `until` waits for it.
    """

    path = wire.PATH

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
        super().__init__(coding=coding, pace=pace, key=key, tls=tls, max_frame_bytes=max_frame_bytes, seed=seed)
        self.refuse_flushes = 0
        self.limits = limits
        self.life_s = limits.session_s

    def count(self, kind: type[SpeakIn | FlushIn | ClearIn | CloseIn]) -> int:
        """How many messages of this kind came."""
        return sum(isinstance(entry.message, kind) for entry in self.log)

    def admit(self, request: Request) -> Answer | None:
        """None to grant a handshake."""
        parts = urlsplit(request.path)
        if parts.path != wire.PATH:
            return _answer(Refusal(404, "NOT_FOUND", f"There is only {wire.PATH} here."))
        if self.key is not None and wire.credential(request.headers.get("Authorization"), []) != self.key:
            return _answer(wire.INVALID_AUTH)
        wanted = wire.parse_query(parts.query)
        if isinstance(wanted, Refusal):
            return _answer(wanted)
        if wanted.format.encoding is not Encoding.LINEAR16:
            return _answer(Refusal(400, "INVALID_QUERY_PARAMETER", "Unsupported audio format: encoding must be linear16"))
        return None

    def refusal(self, status: HTTPStatus) -> Answer:
        """A refusal with this status."""
        return _answer(Refusal(status, status.name, status.phrase))

    def link(self, ws: ServerConnection, index: int) -> Link[_In]:
        """What serves a connection."""
        assert ws.request is not None
        wanted = wire.parse_query(urlsplit(ws.request.path).query)
        assert not isinstance(wanted, Refusal)
        return _Link(self, ws, index, wanted.format)


def _answer(refusal: Refusal) -> Answer:
    request_id = "00000000-0000-4000-8000-000000000000"
    return Answer(refusal.status, refusal.body(request_id), refusal.headers(request_id))


class _Link(Link[_In]):
    """One connection: text is gathered until its Flush."""

    def __init__(self, server: FaultySpeech, ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        super().__init__(server, ws, index, fmt)
        self._server = server
        self._meter = Meter(server.limits)
        self._text = ""  # not flushed
        self._voidable = self._sequence = 0  # groups without an answer, answers

    def read(self, message: str | bytes) -> _In:
        return wire.decode(message)

    async def greet(self) -> None:
        self._voice = Voice(self)
        await self.send(wire.metadata(request_id=str(self.ws.id), model="test", version="1", model_uuid=str(self.ws.id)))

    async def too_old(self) -> None:
        await self.close(*wire.SESSION_TOO_LONG)

    async def receive(self, message: _In) -> None:
        match message:
            case SpeakIn(text=text):
                self.took(text)
                self._text += text
                if not self._meter.speak(len(text), now=self.now()):
                    await self.close(*wire.TOO_MANY_CHARS)
            case FlushIn():
                await self._flush()
            case ClearIn():
                await self._clear()
            case CloseIn():
                if self._text:
                    await self._flush()
                self._voice.then(partial(self.close, 1000))
            case Violation():
                await self.close(*message)
            case _:
                assert_never(message)

    async def _flush(self) -> None:
        if self._server.refuse_flushes > 0 or not self._meter.flush(now=self.now()):
            self._server.refuse_flushes = max(0, self._server.refuse_flushes - 1)
            await self.send(self._server.faults.warning)
            return
        self._voidable += 1
        self._voice.say(self._text)
        self._voice.then(self._flushed)
        self._text = ""

    async def _flushed(self) -> None:
        self._voidable -= 1
        await self.tell(wire.flushed(self._next()))

    async def _clear(self) -> None:
        faults = self._server.faults
        await self._server.pause(faults.audio_after_clear_s)
        self._voice.stop()
        void, self._voidable, self._text = self._voidable, 0, ""
        await self._server.pause(faults.cleared_s)
        await self.tell(wire.cleared(self._next()))
        for _ in range(void if faults.stale_flushed else 0):
            await self.send(wire.flushed(self._next()))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1
