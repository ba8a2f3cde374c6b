"""ElevenLabs' `multi-stream-input` and `stream-input`, after the vendor's asyncapi document and pages.

What the documents leave open is done in the way that is harder for a client: fields are spelt now one way, now the other (as on
the live service), a context that is closed without a flush drops what waits, and whatever names an unknown context opens one.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from llm2ws.audio import AudioFormat
from llm2ws.testing.connection import EndpointConnection, SpeechQueue, TimedChunk
from llm2ws.testing.endpoint import Answer, FaultyEndpoint

__all__ = ["CONTEXTS", "ElevenLabsServer"]

CONTEXTS = 5  # at once on a connection
SCHEDULE = (120, 160, 250, 290)  # characters that have to wait before they are spoken, without auto_mode
ONCE = ("voice_settings", "generation_config", "pronunciation_dictionary_locators")  # in a context's first message only
_PATH = re.compile(r"/v1/text-to-speech/[^/]+/(multi-stream-input|stream-input)")
_PCM = re.compile(r"pcm_(8000|16000|22050|24000|44100|48000)")

_Message = dict[str, Any]


class ElevenLabsServer(FaultyEndpoint[_Message]):
    """The endpoint at `url`, which a client completes by a path that names the voice."""

    path = ""
    contexts_most = 0  # at once on a connection, ever

    def admit(self, request: Request) -> Answer | None:
        """None to grant a handshake."""
        parts = urlsplit(request.path)
        if not _PATH.fullmatch(parts.path):
            return self.refusal(HTTPStatus.NOT_FOUND)
        query = parse_qs(parts.query)
        if self.key is not None and request.headers.get("xi-api-key") != self.key:
            return _answer(HTTPStatus.UNAUTHORIZED, "invalid_api_key", "Invalid API key")
        if not _PCM.fullmatch(query.get("output_format", ["mp3_44100_128"])[0]):
            return _answer(HTTPStatus.BAD_REQUEST, "invalid_output_format", "This server speaks PCM only.")
        return None

    def refusal(self, status: HTTPStatus) -> Answer:
        """A refusal with this status."""
        return _answer(status, status.name.lower(), status.phrase)

    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        """Serve a connection until it is closed."""
        assert ws.request is not None
        parts = urlsplit(ws.request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        await _Connection(self, ws, index, query, multi=parts.path.endswith("/multi-stream-input")).run()


def _answer(status: int, slug: str, message: str) -> Answer:
    return Answer(status, json.dumps({"detail": {"status": slug, "message": message}}))


@dataclass
class _Context:
    name: str
    voice: SpeechQueue
    heard_at: float
    buffer: str = ""  # without auto_mode: text that waits to be more
    generations: int = 0
    flushed: bool = True  # nothing came since the last flush
    closing: bool = False
    spellings: tuple[str, str, str] = field(default=("contextId", "isFinal", "charDurationsMs"))


class _Connection(EndpointConnection[_Message]):
    def __init__(
        self, server: ElevenLabsServer, ws: ServerConnection, index: int, query: Mapping[str, str], *, multi: bool
    ) -> None:
        rate = int(query["output_format"].removeprefix("pcm_"))
        super().__init__(server, ws, index, AudioFormat(sample_rate_hz=rate))
        self._server = server
        self._multi = multi
        self._auto = query.get("auto_mode") == "true"
        self._aligned = query.get("sync_alignment") == "true"
        self._patience_s = min(180.0, float(query.get("inactivity_timeout", "20")))
        self._contexts: dict[str, _Context] = {}
        self._kept_at = self.now()  # when a message without a context came last

    def parse(self, message: str | bytes) -> _Message:
        """A client's message."""
        data = json.loads(message)
        assert isinstance(data, dict)
        return data

    async def on_open(self) -> None:
        """Nothing is said; the clock for silent clients begins."""
        self.start(self._watch_contexts())

    async def receive(self, message: _Message) -> None:
        """A client's message came."""
        if message.get("close_socket"):
            for context in list(self._contexts.values()):
                self._flush(context)
                self._end(context)
            self.start(self._close_when_done())
            return
        name = str(message.get("context_id") or message.get("contextId") or "")
        if not name and self._multi and message.get("text") == "":
            self._kept_at = self.now()
            return
        known = self._contexts.get(name)
        if known is None:
            if message.get("close_context"):
                return
            if len(self._contexts) >= CONTEXTS:
                limit = f"Maximum simultaneous contexts per WebSocket connection exceeded ({CONTEXTS})."
                await self._fail("max_active_conversations", limit)
                return
        elif any(message.get(once) is not None for once in ONCE):
            await self._fail("invalid_message", "voice settings can only be set in the first message of a context")
            return
        context = known or self._open(name)
        context.heard_at = self.now()
        await self._do(context, message)

    def _open(self, name: str) -> _Context:
        spellings = (
            self.random.choice(("contextId", "context_id")),
            self.random.choice(("isFinal", "is_final")),
            self.random.choice(("charDurationsMs", "charsDurationsMs")),
        )
        context = _Context(name, SpeechQueue(self, lambda chunk: [self._wrap(context, chunk)]), self.now(), spellings=spellings)
        self._contexts[name] = context
        self._server.contexts_most = max(self._server.contexts_most, len(self._contexts))
        return context

    async def _do(self, context: _Context, message: _Message) -> None:
        text = message.get("text") or ""
        if text.strip() and not context.closing:
            if self._server.failures > 0:
                self._server.failures -= 1
                await self._fail("system_busy", "The system is busy, please try again.")
                return
            self.record_text(text)
            context.flushed = False
            context.buffer += text
            due = 1 if self._auto else SCHEDULE[min(context.generations, len(SCHEDULE) - 1)]
            if len(context.buffer) >= due:
                self._generate(context)
        if message.get("flush"):
            self._flush(context)
        if message.get("close_context") or (not self._multi and message.get("text") == ""):
            if not self._multi:
                self._flush(context)
            self._end(context)
            if not self._multi:
                self.start(self._close_when_done())

    def _generate(self, context: _Context) -> None:
        if context.buffer:
            context.voice.say(context.buffer)
            context.generations += 1
            context.buffer = ""

    def _flush(self, context: _Context) -> None:
        self._generate(context)
        context.flushed = True

    def _end(self, context: _Context) -> None:
        """Close a context: what was flushed is spoken, else it stops. If it is closing already, that goes on."""
        if not context.closing:
            context.closing = True
            if context.flushed:
                context.voice.then(lambda: self._final(context))
            else:
                self.start(self._cancel(context))

    async def _cancel(self, context: _Context) -> None:
        faults = self._server.faults
        await self._server.pause(faults.audio_after_clear_s)
        context.voice.stop()
        await self._server.pause(faults.cleared_s)
        await self._final(context)

    async def _final(self, context: _Context) -> None:
        del self._contexts[context.name]
        named, final, _ = context.spellings
        await self.send_reply(json.dumps({"audio": None, final: True, named: context.name}))
        self._server.notify()

    def _wrap(self, context: _Context, chunk: TimedChunk) -> str:
        named, final, durations = context.spellings
        message: _Message = {"audio": base64.b64encode(chunk.data).decode(), final: None, named: context.name}
        if self._aligned:
            alignment = {
                "chars": [char.text for char in chunk.chars],
                "charStartTimesMs": [round((char.start_s - chunk.at_s) * 1_000) for char in chunk.chars],
                durations: [round((char.end_s - char.start_s) * 1_000) for char in chunk.chars],
            }
            message |= {"alignment": alignment, "normalizedAlignment": alignment}
        return json.dumps(message)

    async def _fail(self, slug: str, words: str) -> None:
        await self.send(json.dumps({"message": words, "error": slug, "code": 1008}))
        await self.close(1008, words)

    async def _close_when_done(self) -> None:
        await self._server.until(lambda _: not self._contexts)
        await self.close(1000)

    async def _watch_contexts(self) -> None:
        """A context that nothing comes for, or a connection without any, ends it all."""
        while True:
            waiting = [context.heard_at for context in self._contexts.values() if not context.closing]
            since = min(waiting) if waiting else max(self._kept_at, self._received_at)
            left_s = since + self._patience_s - self.now()
            if left_s <= 0:
                break
            await self._server.pause(left_s)
        await self._fail("input_timeout_exceeded", f"Have not received a new text input within {self._patience_s:g} seconds.")
