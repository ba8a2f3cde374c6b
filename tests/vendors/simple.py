"""A socket such as several vendors have it: JSON both ways, audio in base64, text spoken as it comes, one turn at a time."""

from __future__ import annotations

import base64
import json
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from llm2ws.audio import AudioFormat
from llm2ws.testing.connection import EndpointConnection, SpeechQueue, TimedChunk
from llm2ws.testing.endpoint import Answer, FaultyEndpoint

__all__ = ["SimpleServer"]

IDLE_S = 60.0
CHARS = 500  # in one message
RATES_HZ = ("8000", "24000")

_Message = dict[str, Any]


class SimpleServer(FaultyEndpoint[_Message]):
    """The endpoint at `url`."""

    path = "/v1/tts"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.idle_s = IDLE_S
        self.max_age_s = 1_800.0

    def admit(self, request: Request) -> Answer | None:
        """None to grant a handshake."""
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path != self.path:
            return self.refusal(HTTPStatus.NOT_FOUND)
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return self.refusal(HTTPStatus.UNAUTHORIZED)
        right = query.get("voice") and query.get("codec") == "pcm" and query.get("sample_rate") in RATES_HZ
        return None if right else self.refusal(HTTPStatus.BAD_REQUEST)

    def refusal(self, status: HTTPStatus) -> Answer:
        """A refusal with this status."""
        return Answer(status, json.dumps({"error": {"message": status.phrase}}))

    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        """Serve a connection until it is closed."""
        assert ws.request is not None
        rate = parse_qs(urlsplit(ws.request.path).query)["sample_rate"][0]
        await _Connection(self, ws, index, AudioFormat(sample_rate_hz=int(rate))).run()


class _Connection(EndpointConnection[_Message]):
    def __init__(self, server: SimpleServer, ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        super().__init__(server, ws, index, fmt)
        self._server = server

    def parse(self, message: str | bytes) -> _Message:
        """A client's message."""
        data = json.loads(message)
        assert isinstance(data, dict)
        return data

    async def on_open(self) -> None:
        """It says that it is there."""
        self._voice = SpeechQueue(self, _wrap)
        await self.send(json.dumps({"type": "session.created"}))

    async def receive(self, message: _Message) -> None:
        """A client's message came."""
        match message:
            case {"type": "text.delta", "delta": str(text)} if len(text) <= CHARS:
                self.record_text(text)
                if self._server.failures > 0:
                    self._server.failures -= 1
                    await self._fail("busy")
                self._voice.say(text)
            case {"type": "text.done"}:
                self._voice.then(partial(self.send_reply, json.dumps({"type": "audio.done"})))
            case {"type": "text.clear"}:
                self.start(self._clear())
            case {"type": "ping"}:
                await self.send(json.dumps({"type": "pong"}))
            case _:
                await self._fail("not understood")
                await self.close(1008, "not understood")

    async def _clear(self) -> None:
        """It says so even when there was nothing left to stop."""
        await self._server.pause(self._server.faults.audio_after_clear_s)
        self._voice.stop()
        await self._server.pause(self._server.faults.cleared_s)
        await self.send_reply(json.dumps({"type": "audio.clear"}))

    async def _fail(self, why: str) -> None:
        await self.send(json.dumps({"type": "error", "error": {"message": why}}))


def _wrap(chunk: TimedChunk) -> list[str | bytes]:
    return [json.dumps({"type": "audio.delta", "delta": {"audio": base64.b64encode(chunk.data).decode()}})]
