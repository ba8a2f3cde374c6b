"""Cartesia's `/tts/websocket`, after the vendor's asyncapi document, pages and SDK.

What the documents leave open is done in the way that is harder for a client: a context that lapses does so without a word, and
the times of a word come after its audio.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from llm2ws.audio import AudioFormat
from llm2ws.testing.connection import EndpointConnection, SpeechQueue, TimedChunk
from llm2ws.testing.endpoint import Answer, FaultyEndpoint
from llm2ws.testing.voice import Char, Coding

__all__ = ["CartesiaServer"]

CONTEXT_S = 1.0  # a context lapses so long after its last audio
IDLE_S = 300.0
RATES_HZ = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)
CHANGING = ("transcript", "continue", "flush", "duration", "cancel")  # all else stays the same within a context

_Message = dict[str, Any]


class CartesiaServer(FaultyEndpoint[_Message]):
    """The endpoint at `url`. `concurrency`: how many contexts may be active at once, None for any number."""

    path = "/tts/websocket"

    def __init__(self, *, coding: Coding = Coding(), concurrency: int | None = None, **options: Any) -> None:
        super().__init__(coding=coding, **options)
        self.idle_s = IDLE_S
        self.concurrency = concurrency
        self.active = 0  # contexts, over all connections
        self.contexts = 0  # ever

    def admit(self, request: Request) -> Answer | None:
        """None to grant a handshake."""
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        if parts.path != self.path:
            return self.refusal(HTTPStatus.NOT_FOUND)
        if not (request.headers.get("Cartesia-Version") or query.get("cartesia_version")):
            return _answer(HTTPStatus.BAD_REQUEST, "missing_version", "Give the header Cartesia-Version.")
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.key is not None and self.key not in (request.headers.get("X-API-Key"), bearer):
            return _answer(HTTPStatus.UNAUTHORIZED, "unauthorized", "The API key is not valid.")
        return None

    def refusal(self, status: HTTPStatus) -> Answer:
        """A refusal with this status."""
        return _answer(status, status.name.lower(), status.phrase)

    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        """Serve a connection until it is closed."""
        await _Connection(self, ws, index, AudioFormat()).run()


def _answer(status: HTTPStatus, code: str, message: str) -> Answer:
    return Answer(status, json.dumps({"error_code": code, "title": status.phrase, "message": message, "request_id": "r"}))


@dataclass
class _Context:
    name: str
    voice: SpeechQueue
    same: _Message  # what each of its messages has to say again
    buffer: str = ""
    buffering: int = 0  # the newest of the delays that may run out
    unspoken: int = 0  # transcripts
    flush_id: int = 0
    audio_at: float = 0.0  # when the last audio went out
    ending: bool = False  # no more text comes
    letters: list[Char] = field(default_factory=list)  # of a word that is being said


class _Connection(EndpointConnection[_Message]):
    def __init__(self, server: CartesiaServer, ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        super().__init__(server, ws, index, fmt)
        self._server = server
        self._contexts: dict[str, _Context] = {}
        self._closed: set[str] = set()

    def parse(self, message: str | bytes) -> _Message:
        """A client's message."""
        data = json.loads(message)
        assert isinstance(data, dict)
        return data

    async def on_idle(self) -> None:
        """No message for five minutes."""
        await self.close(1000, "connection idle timeout")

    async def receive(self, message: _Message) -> None:
        """A client's message came."""
        name = message.get("context_id")
        if not isinstance(name, str):
            await self._fail(None, 400, "Invalid request", "context_id is missing")
            return
        context = self._contexts.get(name)
        if message.get("cancel"):
            if context is not None:
                self.start(self._cancel(context))
            return
        wrong = _wrong_with(message)
        if wrong:
            await self._fail(name, 400, "Invalid request", wrong)
        elif name in self._closed:
            await self._fail(name, 400, "Context has closed", "Start another context.")
        elif context is None and self._server.concurrency is not None and self._server.active >= self._server.concurrency:
            await self._fail(name, 429, "Too many concurrent requests", "Over your plan's limit.", code="concurrency_limited")
        elif context is not None and context.same != _same(message):
            await self._fail(name, 400, "Invalid request", "only transcript and continue may change within a context")
        else:
            await self._generate(context or self._open(name, message), message)

    def _open(self, name: str, message: _Message) -> _Context:
        self.format = AudioFormat(sample_rate_hz=message["output_format"]["sample_rate"])
        context = _Context(name, SpeechQueue(self, lambda chunk: self._wrap(context, chunk)), _same(message))
        self._contexts[name] = context
        self._server.active += 1
        self._server.contexts += 1
        return context

    async def _generate(self, context: _Context, message: _Message) -> None:
        text = message["transcript"]
        if text and self._server.failures > 0:
            self._server.failures -= 1
            self._end(context)
            await self._fail(context.name, 500, "Internal server error", "Please try again.")
            return
        if text:
            self.record_text(text)
            context.buffer += text
        delay_ms = message.get("max_buffer_delay_ms", 3_000)
        ending = not message.get("continue", False)
        if ending or message.get("flush") or delay_ms == 0:
            self._speak(context)
        else:
            context.buffering += 1
            self.start(self._speak_later(context, context.buffering, delay_ms / 1_000))
        if ending:
            context.ending = True
            context.voice.then(lambda: self._done(context))

    async def _speak_later(self, context: _Context, which: int, delay_s: float) -> None:
        await self._server.pause(delay_s)
        if context.buffering == which:
            self._speak(context)

    def _speak(self, context: _Context) -> None:
        context.buffering += 1
        if context.buffer:
            context.unspoken += 1
            context.voice.say(context.buffer)
            context.voice.then(lambda: self._spoken(context))
            context.buffer = ""

    async def _spoken(self, context: _Context) -> None:
        """One transcript has been said: the context lapses if no other comes soon."""
        context.unspoken -= 1
        context.flush_id += 1
        context.audio_at = self.now()
        for message in self._words(context):
            await self.send(message)
        await self.send(self._event(context, "flush_done", flush_done=True, flush_id=context.flush_id))
        self.start(self._lapse(context, context.audio_at))

    async def _lapse(self, context: _Context, audio_at: float) -> None:
        await self._server.pause(CONTEXT_S)
        if context.audio_at == audio_at and not context.unspoken and not context.ending:
            self._end(context)

    async def _done(self, context: _Context) -> None:
        self._end(context)
        await self.send_reply(self._event(context, "done", done=True))

    async def _cancel(self, context: _Context) -> None:
        """What is being generated goes on for a while, and nobody says when it is over."""
        await self._server.pause(self._server.faults.audio_after_clear_s)
        context.voice.stop()
        self._end(context)

    def _end(self, context: _Context) -> None:
        if self._contexts.pop(context.name, None):
            self._closed.add(context.name)
            self._server.active -= 1
            self._server.notify()

    def _wrap(self, context: _Context, chunk: TimedChunk) -> list[str | bytes]:
        chunk_message = self._event(context, "chunk", data=base64.b64encode(chunk.data).decode(), step_time=1.0)
        context.letters += chunk.chars
        last = max((n for n, char in enumerate(context.letters) if char.text.isspace()), default=-1)
        letters, context.letters = context.letters[: last + 1], context.letters[last + 1 :]
        return [chunk_message, *self._timestamps(context, letters)]

    def _words(self, context: _Context) -> list[str]:
        """What is not told yet."""
        letters, context.letters = context.letters, []
        return self._timestamps(context, letters)

    def _timestamps(self, context: _Context, letters: list[Char]) -> list[str]:
        words: list[tuple[str, float, float]] = []
        apart = True
        for char in letters:
            if char.text.isspace():
                apart = True
            elif apart:
                words.append(char)
                apart = False
            else:
                words[-1] = (words[-1][0] + char.text, words[-1][1], char.end_s)
        if not words or not context.same.get("add_timestamps"):
            return []
        texts, starts, ends = zip(*words, strict=True)
        return [self._event(context, "timestamps", word_timestamps={"words": texts, "start": starts, "end": ends})]

    def _event(self, context: _Context, kind: str, **fields: object) -> str:
        return json.dumps({"type": kind, "context_id": context.name, "status_code": 206, "done": False} | fields)

    async def _fail(self, name: str | None, status: int, title: str, message: str, code: str | None = None) -> None:
        error = {"type": "error", "done": True, "status_code": status, "title": title, "message": message}
        error |= {"error_code": code, "request_id": "r"} | ({"context_id": name} if name is not None else {})
        await self.send(json.dumps(error))


def _same(message: _Message) -> _Message:
    return {name: value for name, value in message.items() if name not in CHANGING}


def _wrong_with(message: _Message) -> str:
    """What is wrong with a request, "" for nothing."""
    missing = [name for name in ("model_id", "transcript", "voice", "output_format") if name not in message]
    if missing:
        return f"{missing[0]} is missing"
    output_format = message["output_format"]
    if output_format.get("container") != "raw" or output_format.get("sample_rate") not in RATES_HZ:
        return "output_format is not one of ours"
    if output_format.get("encoding") != "pcm_s16le":
        return "this server speaks pcm_s16le only"
    if not 0 <= message.get("max_buffer_delay_ms", 3_000) <= 5_000:
        return "max_buffer_delay_ms must be from 0 to 5000"
    return "" if message["transcript"] or "continue" in message else "transcript is empty"
