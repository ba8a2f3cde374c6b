"""A speech endpoint with Deepgram's protocol, Speak v1, that misbehaves on command."""

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
from ..speech.dialects.deepgram_server import ClearIn, CloseIn, FlushIn, Meter, Refusal, ServerLimits, SpeakIn, Violation
from .connection import EndpointConnection, SpeechQueue
from .endpoint import Answer, FaultyEndpoint
from .voice import Coding

__all__ = ["FaultySpeech"]

_In = SpeakIn | FlushIn | ClearIn | CloseIn | Violation


class FaultySpeech(FaultyEndpoint[_In]):
    """A speech endpoint at `url`, until the `async with` block is left: Deepgram Speak v1, linear16, audio only on Flush.

    `limits` are enforced as Deepgram does it. `pace`: how many times faster than real time audio is sent, None: at once.
    `key`: what clients must present, None for nothing. Frames of audio have random sizes up to `max_frame_bytes`, also odd
    ones.

    What goes wrong: `faults`; `drops`, the dropped connections in the order in which they happen; `refusals`, the HTTP statuses
    with which the next handshakes are answered; `refuse_flushes`, how many of the next Flushes are refused.
    What was seen: `log`; `until` waits for it.
    """

    path = wire.PATH

    def __init__(
        self,
        *,
        coding: Coding = Coding(),
        limits: ServerLimits = wire.DEEPGRAM_LIMITS,
        pace: float | None = None,
        key: str | None = None,
        tls: ssl.SSLContext | None = None,
        max_frame_bytes: int = 3_840,
        seed: int = 0,
    ) -> None:
        super().__init__(coding=coding, pace=pace, key=key, tls=tls, max_frame_bytes=max_frame_bytes, seed=seed)
        self.refuse_flushes = 0
        self.limits = limits
        self.max_age_s = limits.session_s

    def count(self, kind: type[SpeakIn | FlushIn | ClearIn | CloseIn]) -> int:
        """Return how many messages of this kind were received."""
        return sum(isinstance(entry.message, kind) for entry in self.log)

    def admit(self, request: Request) -> Answer | None:
        """Return None to grant a handshake, else the refusal in Deepgram's words."""
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
        """Return a refusal with this status."""
        return _answer(Refusal(status, status.name, status.phrase))

    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        """Serve a connection whose handshake was granted until it is closed."""
        assert ws.request is not None
        wanted = wire.parse_query(urlsplit(ws.request.path).query)
        assert not isinstance(wanted, Refusal)
        await _DeepgramConnection(self, ws, index, wanted.format).run()


def _answer(refusal: Refusal) -> Answer:
    request_id = "00000000-0000-4000-8000-000000000000"
    return Answer(refusal.status, refusal.body(request_id), refusal.headers(request_id))


class _DeepgramConnection(EndpointConnection[_In]):
    """One connection, whose texts are collected until they are flushed."""

    def __init__(self, server: FaultySpeech, ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        super().__init__(server, ws, index, fmt)
        self._server = server
        self._meter = Meter(server.limits)
        self._speech = SpeechQueue(self)
        self._text = ""  # not flushed yet
        self._n_unanswered = 0  # Flushes without an answer, which a Clear makes void
        self._n_answers = 0  # Flushed and Cleared that were sent

    def parse(self, message: str | bytes) -> _In:
        return wire.decode(message)

    async def on_open(self) -> None:
        await self.send(wire.metadata(request_id=str(self.ws.id), model="test", version="1", model_uuid=str(self.ws.id)))

    async def on_max_age(self) -> None:
        await self.close(*wire.SESSION_TOO_LONG)

    async def receive(self, message: _In) -> None:
        match message:
            case SpeakIn(text=text):
                self.record_text(text)
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
                self._speech.then(partial(self.close, 1000))
            case Violation():
                await self.close(*message)
            case _:
                assert_never(message)

    async def _flush(self) -> None:
        if self._server.refuse_flushes > 0 or not self._meter.flush(now=self.now()):
            self._server.refuse_flushes = max(0, self._server.refuse_flushes - 1)
            await self.send(self._server.faults.warning)
            return
        self._n_unanswered += 1
        self._speech.say(self._text)
        self._speech.then(self._flushed)
        self._text = ""

    async def _flushed(self) -> None:
        self._n_unanswered -= 1
        await self.send_reply(wire.flushed(self._next_sequence_id()))

    async def _clear(self) -> None:
        faults = self._server.faults
        await self._server.pause(faults.audio_after_clear_s)
        self._speech.stop()
        n_void, self._n_unanswered, self._text = self._n_unanswered, 0, ""
        await self._server.pause(faults.cleared_s)
        await self.send_reply(wire.cleared(self._next_sequence_id()))
        for _ in range(n_void if faults.stale_flushed else 0):
            await self.send(wire.flushed(self._next_sequence_id()))

    def _next_sequence_id(self) -> int:
        self._n_answers += 1
        return self._n_answers - 1
