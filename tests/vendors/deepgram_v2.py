"""Deepgram's Speak WebSocket, version 2 (Flux), from the server's side, after its AsyncAPI description of July 2026."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request

from llm2ws.audio import AudioFormat, Encoding
from llm2ws.speech.dialects import deepgram_server as v1
from llm2ws.testing.connection import EndpointConnection, SpeechQueue
from llm2ws.testing.endpoint import Answer, FaultyEndpoint

__all__ = ["DeepgramV2Server"]

_RATES_HZ = {
    "linear16": ("8000", "16000", "24000", "32000", "44100", "48000"),
    "mulaw": ("8000", "16000"),
    "alaw": ("8000", "16000"),
}
_PARAMETERS = {"model", "encoding", "sample_rate", "mip_opt_out", "tag", "speed", "expressivity"}
_ERRORS = {  # what closes a connection: its error code is sent before, and is the reason of the close frame
    "MESSAGE-0000": (1003, "The message type is not supported."),
    "DATA-0000": (1008, "The message was not recognised."),
    "BIG-0000": (1009, "The message is too large."),
    "NET-0000": (1011, "Internal error."),
    "NET-0003": (1011, "The session has reached its time limit."),
    "NET-0004": (1011, "No message was received in time."),
}

Message = dict[str, Any]


class DeepgramV2Server(FaultyEndpoint[Message]):
    """One active turn, and any number behind it; linear16."""

    path = "/v2/speak"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.max_age_s = 3_600.0
        self.idle_s = 60.0
        self.pings_count = True

    def admit(self, request: Request) -> Answer | None:
        parts = urlsplit(request.path)
        if parts.path != self.path:
            return self.refusal(HTTPStatus.NOT_FOUND)
        if self.key is not None and v1.credential(request.headers.get("Authorization"), []) != self.key:
            return _answer(v1.INVALID_AUTH)
        return _wrong_query(dict(parse_qsl(parts.query)))

    def refusal(self, status: HTTPStatus) -> Answer:
        return _answer(v1.Refusal(status, status.name, status.phrase))

    async def serve_client(self, ws: ServerConnection, index: int) -> None:
        assert ws.request is not None
        rate = dict(parse_qsl(urlsplit(ws.request.path).query)).get("sample_rate", "24000")
        await _Connection(self, ws, index, AudioFormat(Encoding.LINEAR16, int(rate))).run()


def _answer(refusal: v1.Refusal) -> Answer:
    return Answer(refusal.status, refusal.body("r"), refusal.headers("r"))


def _wrong_query(given: dict[str, str]) -> Answer | None:
    """Unknown parameters are rejected, as are those that only the batch API has."""
    encoding = given.get("encoding", "linear16")
    wrong = ""
    if strange := given.keys() - _PARAMETERS:
        wrong = f"unknown field `{min(strange)}`"
    elif not given.get("model", "").startswith("flux-"):
        wrong = "model: a flux model is required"
    elif given.get("sample_rate", "24000") not in _RATES_HZ.get(encoding, ()):
        wrong = "sample_rate: not available for this encoding"
    elif encoding != "linear16":
        wrong = "encoding: this server speaks linear16 only"
    elif not 0.5 <= float(given.get("speed", "1")) <= 1.5:
        return _answer(v1.Refusal(400, "SPEED_OUT_OF_RANGE", "speed must be from 0.5 to 1.5"))
    return _answer(v1.Refusal(400, "INVALID_QUERY_PARAMETER", wrong)) if wrong else None


@dataclass(slots=True)
class _Turn:
    speech_id: str
    text: str = ""
    flushed: bool = False
    said: int = 0  # characters of `text` given to the voice
    audio_ms: float = 0.0


@dataclass(slots=True)
class _Position:
    """In the audio of the session, in ms: what was produced, rebased by interruptions; and where the last one was."""

    at: float = 0.0
    interrupted: float = -1.0
    ever: bool = field(default=False)


class _Connection(EndpointConnection[Message]):
    def __init__(self, server: DeepgramV2Server, ws: ServerConnection, index: int, fmt: AudioFormat) -> None:
        super().__init__(server, ws, index, fmt)
        self._server = server
        self._turns: deque[_Turn] = deque()  # the active one first
        self._numbers = 0
        self._position = _Position()
        self._chars_in = 0
        self._interrupting = False

    def parse(self, message: str | bytes) -> Message:
        if isinstance(message, bytes):
            return {"type": b""}
        try:
            data = json.loads(message)
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    async def on_open(self) -> None:
        self._voice = SpeechQueue(self)
        model = {"model_name": "flux-test-en", "model_version": "1", "model_uuids": ["u"]}
        await self.send(json.dumps({"type": "Connected", "request_id": str(self.ws.id), **model}))

    async def on_max_age(self) -> None:
        await self._fail("NET-0003")

    async def on_idle(self) -> None:
        await self._fail("NET-0004")

    async def receive(self, message: Message) -> None:
        match message:
            case {"type": "Speak", "text": str(text)}:
                await self._speak(text)
            case {"type": "Flush"}:
                await self._flush()
            case {"type": "Interrupt", "playback_offset": {"type": "time_ms", "value": int(ms)}}:
                await self._interrupt(ms)
            case {"type": "Interrupt"} if "playback_offset" not in message:
                await self._interrupt(None)
            case {"type": "Configure", "speed": float() | int()}:
                await self.send(json.dumps({"type": "ConfigureSuccess", "applied": {"speed": message["speed"]}}))
            case {"type": "Close"}:
                if self._turns:
                    await self._flush()
                self._voice.then(self._goodbye)
            case {"type": b""}:
                await self._fail("MESSAGE-0000")
            case _:
                await self._fail("DATA-0000")

    async def _fail(self, code: str) -> None:
        close_code, description = _ERRORS[code]
        await self.ws.send(json.dumps({"type": "Error", "code": code, "description": description}))
        await self.close(close_code, code)

    async def _warn(self, code: str) -> None:
        await self.send(json.dumps({"type": "Warning", "code": code, "description": "As the documents say."}))

    async def _speak(self, text: str) -> None:
        self.record_text(text)
        self._chars_in += len(text)
        if not self._turns or self._turns[-1].flushed:
            self._numbers += 1
            self._turns.append(_Turn(f"dg_sp_{self._numbers:012x}"))
            self._voice.then(partial(self._begin, self._turns[-1]))
        turn = self._turns[-1]
        turn.text += text
        # Chunks do not drive synthesis: whole sentences do, and the end of the turn.
        end = max(map(turn.text.rfind, (". ", "! ", "? "))) + 1
        if end > turn.said:
            self._say(turn, end)

    def _say(self, turn: _Turn, end: int) -> None:
        self._voice.say(turn.text[turn.said : end])
        turn.said = end

    async def _begin(self, turn: _Turn) -> None:
        if self._server.failures > 0:
            self._server.failures -= 1
            await self._fail("NET-0000")
            return
        await self.send(json.dumps({"type": "SpeechStarted", "speech_id": turn.speech_id}))

    async def _flush(self) -> None:
        if not self._turns or self._turns[-1].flushed:
            await self._warn("NO_ACTIVE_SPEECH")
            return
        turn = self._turns[-1]
        turn.flushed = True
        flushed = json.dumps({"type": "Flushed", "speech_id": turn.speech_id})
        if self.random.random() < 0.5:
            await self.send(flushed)  # an ack: audio follows
            self._say(turn, len(turn.text))
            self._voice.then(partial(self._end, turn))
        else:
            self._say(turn, len(turn.text))
            self._voice.then(partial(self._end, turn, flushed))  # seen to trail SpeechMetadata

    async def _end(self, turn: _Turn, *after: str) -> None:
        if not any(map(str.isalnum, turn.text)):
            await self._warn("NO_SYNTHESIZABLE_TEXT")
        self._turns.popleft()
        self._position.at += turn.audio_ms
        await self.send_reply(json.dumps({"type": "SpeechMetadata", **self._billing(turn)}))
        for message in after:
            await self.send(message)

    def _billing(self, turn: _Turn) -> Message:
        controls = dict.fromkeys(("pronunciations_applied", "breaks_applied", "pronunciation_warnings"), 0)
        counts = dict.fromkeys(("input_character_count", "billable_character_count"), len(turn.text))
        return {"speech_id": turn.speech_id, "audio_duration_ms": round(turn.audio_ms), **counts, "controls_applied": controls}

    async def send_audio(self, messages: list[str | bytes], audio: bytes) -> None:
        self._position.ever = True
        self._turns[0].audio_ms += 1_000 * self.format.seconds(len(audio))
        await super().send_audio(messages, audio)

    async def _interrupt(self, ms: int | None) -> None:
        if self._interrupting:
            await self._warn("INTERRUPT_IN_PROGRESS")
        elif not self._position.ever:
            await self._warn("NO_AUDIO_GENERATED")
        elif not self._turns:
            await self._warn("NO_ACTIVE_SPEECH")
        elif ms is not None and ms <= self._position.interrupted:
            await self._warn("INVALID_INTERRUPT_OFFSET")
        else:
            self._interrupting = True
            self.start(self._stop(ms))  # messages go on being read

    async def _stop(self, ms: int | None) -> None:
        faults = self._server.faults
        await self._server.pause(faults.audio_after_clear_s)
        self._interrupting = False
        if not self._turns:
            return  # it has ended meanwhile
        self._voice.stop()
        turn = self._turns[0]
        self._turns.clear()
        generated = self._position.at + turn.audio_ms
        told = {}
        if ms is not None:
            share = min(1.0, max(0.0, (ms - self._position.at) / turn.audio_ms)) if turn.audio_ms else 0.0
            cut = round(share * turn.said)
            told = {"text_spoken": turn.text[:cut], "text_remaining": turn.text[cut:]}
        self._position.at = self._position.interrupted = generated if ms is None else ms
        played = {"audio_played_ms": round(self._position.at)}
        await self._server.pause(faults.cleared_s)
        await self.send_reply(json.dumps({"type": "SpeechInterrupted", **played, **told, "metadata": self._billing(turn)}))

    async def _goodbye(self) -> None:
        counts = dict.fromkeys(("total_input_character_count", "total_billable_character_count"), self._chars_in)
        total = {"total_audio_duration_ms": round(self._position.at), **counts}
        await self.send(json.dumps({"type": "SessionMetadata", **total}))
        await self.close(1000)
