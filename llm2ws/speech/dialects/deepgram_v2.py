"""Deepgram Speak, WebSocket v2 (Flux): turn based, fed with a model's tokens as they are.

From the vendor's asyncapi document of 2026-07 and its Python SDK 7.17. Its server has one active
turn: text opens it, Flush ends it, and it is over with `SpeechMetadata`; `Flushed` is no end,
audio may follow. `Interrupt` is newer than the rest: a server that does not know it closes the
connection, which stops the turn as well. The speed is set in the handshake, so `Configure` is not
sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import msgspec

from ...audio import Encoding
from ...text.fragments import Policy
from ..dialect import Limits, Traits
from ..messages import (
    AudioChunk,
    Begin,
    Cancel,
    Cancelled,
    CancelRefused,
    Close,
    Command,
    End,
    Ended,
    Event,
    Failed,
    Flush,
    KeepAlive,
    Opened,
    Scope,
    Speak,
    Unknown,
    Warned,
)
from .deepgram import CLOSE_REASONS, Deepgram
from .reading import LARGEST, read_object, read_text

__all__ = ["SAMPLE_RATES_HZ", "URL", "VOICE", "VOICES", "DeepgramV2"]

URL = "wss://api.deepgram.com/v2/speak"
VOICE = "flux-alexis-en"
VOICES: dict[str, str] = {}  # OpenAI's names: too few of this vendor's voices are known

SAMPLE_RATES_HZ = {
    Encoding.LINEAR16: (8_000, 16_000, 24_000, 32_000, 44_100, 48_000),
    Encoding.MULAW: (8_000, 16_000),
    Encoding.ALAW: (8_000, 16_000),
}

_FLUSH, _INTERRUPT, _CLOSE = (f'{{"type":"{kind}"}}' for kind in ("Flush", "Interrupt", "Close"))
_REASONS = CLOSE_REASONS | {
    "DATA-0002": ("the endpoint refused a control within the text", "look at [text.replace]", None),
    "NET-0004": ("the connection was idle for too long", "try again", 0.0),
}
# Warnings that an Interrupt was ignored: the turn goes on.
_IGNORED = ("NO_AUDIO_GENERATED", "INVALID_INTERRUPT_OFFSET")


@dataclass(frozen=True, slots=True)
class DeepgramV2(Deepgram):
    """Deepgram Speak v2 for one Setup: the same handshake, other messages.

    Nothing but the order of the turns names them.
    """

    name = "deepgram-v2"
    policy = Policy.TOKEN
    limits = Limits(chars_per_speak=2_000, life_s=3_600.0)
    traits = Traits(
        audio_waits_for_flush=False,
        ends_with_flush_ack=False,
        played_since_opened=True,
        ping_s=20.0,  # 60 s without a message end the connection; pings count as such
    )
    usual = (URL, VOICE)
    rates_hz = SAMPLE_RATES_HZ
    reasons = _REASONS

    def encode(self, command: Command) -> list[str | bytes]:
        match command:
            case Speak(text=text):
                return [msgspec.json.encode({"type": "Speak", "text": text}).decode()]
            case End():
                return [_FLUSH]
            case Cancel(played_ms=None):
                return [_INTERRUPT]
            case Cancel(played_ms=ms):
                offset = {"type": "time_ms", "value": ms}
                message = {"type": "Interrupt", "playback_offset": offset}
                return [msgspec.json.encode(message).decode()]
            case Close():
                return [_CLOSE]
            case Begin() | Flush() | KeepAlive():  # it has none of them; a Flush would end the turn
                return []
            case _:
                assert_never(command)

    def decode(self, message: str | bytes) -> list[Event]:
        if isinstance(message, bytes):
            return [AudioChunk(message)]
        data = read_object(message)
        code = self._clean(read_text(data, "code"))
        match data.get("type"):
            case "Connected":
                return [Opened(self._clean(read_text(data, "request_id")))]
            case "SpeechStarted" | "Flushed" | "SessionMetadata" | "ConfigureSuccess":
                return []
            case "SpeechMetadata":
                return [Ended()]
            case "SpeechInterrupted":
                ms = data.get("audio_played_ms")
                played_ms = ms if type(ms) is int and 0 <= ms <= LARGEST else None
                spoken = read_text(data, "text_spoken") if "text_spoken" in data else None
                return [Cancelled(text_spoken=spoken, played_ms=played_ms)]
            case "Warning" | "ConfigureFailure":
                warned = Warned(code, read_text(data, "description"))
                return [warned, CancelRefused()] if code in _IGNORED else [warned]
            case "Error":
                return [self._failed(code)]
            case kind:
                return [Unknown(self._clean(str(kind))[:40])]

    def _failed(self, code: str) -> Failed:
        what, hint, retry_s = self.reasons.get(code) or ("the endpoint failed", "try again", 0.0)
        return Failed(Scope.LINK, f"{what} ({code})", hint, retry_s, reason=code)
