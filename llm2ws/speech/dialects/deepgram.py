"""Deepgram Speak, WebSocket v1 (Aura, Aura-2).

From the vendor's asyncapi document and pages of 2025-07 to 2026-07; where they contradict what its
service was seen to send (the names in `Warning`), both are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlencode, urlsplit

import msgspec

from ...audio import AudioFormat, Encoding
from ...text.fragments import Policy
from ..dialect import Limits, Request, Setup, Traits, check_setup, checked_url
from ..messages import (
    AudioChunk,
    Begin,
    Cancel,
    Cancelled,
    Close,
    Command,
    End,
    Event,
    Failed,
    Flush,
    FlushAcked,
    FlushRefused,
    KeepAlive,
    Opened,
    Speak,
    Unknown,
    Warned,
)
from . import reading as lenient
from .reading import CLOSE_CODES, Verdict, closing, one_line, read_object, read_text, refusal

__all__ = [
    "CLOSE_REASONS",
    "SAMPLE_RATES_HZ",
    "URL",
    "VOICE",
    "VOICES",
    "Deepgram",
]

URL = "wss://api.deepgram.com/v1/speak"
VOICE = "aura-2-thalia-en"

# For OpenAI's names of voices, which many clients offer no choice beyond.
VOICES = {
    "alloy": "aura-2-andromeda-en",
    "ash": "aura-2-arcas-en",
    "ballad": "aura-2-draco-en",
    "cedar": "aura-2-apollo-en",
    "coral": "aura-2-helena-en",
    "echo": "aura-2-orion-en",
    "fable": "aura-2-pandora-en",
    "marin": "aura-2-thalia-en",
    "nova": "aura-2-luna-en",
    "onyx": "aura-2-zeus-en",
    "sage": "aura-2-cora-en",
    "shimmer": "aura-2-asteria-en",
    "verse": "aura-2-aries-en",
}

SAMPLE_RATES_HZ = {
    Encoding.LINEAR16: (8_000, 16_000, 24_000, 32_000, 48_000),
    Encoding.MULAW: (8_000, 16_000),
    Encoding.ALAW: (8_000, 16_000),
}

_FLUSH, _CLEAR, _CLOSE = ('{"type":"Flush"}', '{"type":"Clear"}', '{"type":"Close"}')

# By the reason in the close frame.
CLOSE_REASONS: dict[str, Verdict] = {
    "MESSAGE-0000": CLOSE_CODES[1003],
    "DATA-0000": ("the endpoint did not understand a message", "this is a bug of llm2ws", None),
    "DATA-0001": ("more characters in a minute than it allows", "lower chars_per_window", 60.0),
    "BIG-0000": CLOSE_CODES[1009],
    "BIG-0001": ("a text was longer than it allows", "lower chars_per_speak for it", None),
    "NET-0000": CLOSE_CODES[1011],
    "NET-0001": ("the endpoint had no message from us in time", "try again", 0.0),
    "NET-0002": ("the endpoint could not send to us", "look at the network", 0.0),
    "NET-0003": ("the connection had reached the age that the endpoint allows", "try again", 0.0),
}
STATUSES = lenient.STATUSES | {
    401: ("the key is wrong or missing: set DEEPGRAM_API_KEY or api_key", None),
}


@dataclass(frozen=True, slots=True)
class Deepgram:
    """Deepgram Speak v1 for one Setup. Audio comes only after a Flush; nothing names its turn."""

    setup: Setup
    name = "deepgram"
    policy = Policy.CLAUSE_FIRST
    limits = Limits(
        chars_per_speak=2_000,
        chars_per_window=2_400,
        flushes_per_window=20,
        flush_reserve=8,
        window_s=60.0,
        life_s=3_600.0,
    )
    traits = Traits()
    usual = (URL, VOICE)
    rates_hz = SAMPLE_RATES_HZ
    reasons = CLOSE_REASONS

    @property
    def format(self) -> AudioFormat:
        return self.setup.format

    def request(self) -> Request:
        setup, (url, voice) = self.setup, self.usual
        check_setup(setup, "Deepgram", self.rates_hz)
        query: dict[str, str | int | float] = {
            "model": setup.voice or voice,
            "encoding": setup.format.encoding.value,
            "sample_rate": setup.format.sample_rate_hz,
        }
        if setup.speed != 1.0:
            query["speed"] = setup.speed
        url = checked_url(setup.url or url, key=setup.key, path=urlsplit(url).path)
        headers = {"Authorization": f"Token {setup.key}"} if setup.key else {}
        return Request(f"{url}{'&' if '?' in url else '?'}{urlencode(query)}", headers)

    def encode(self, command: Command) -> list[str | bytes]:
        match command:
            case Speak(text=text):
                return [msgspec.json.encode({"type": "Speak", "text": text}).decode()]
            case Flush() | End():
                return [_FLUSH]
            case Cancel():
                return [_CLEAR]
            case Close():
                return [_CLOSE]
            case Begin() | KeepAlive():  # it has neither; a KeepAlive would end it (DATA-0000)
                return []
            case _:
                assert_never(command)

    def decode(self, message: str | bytes) -> list[Event]:
        if isinstance(message, bytes):
            return [AudioChunk(message)]
        data = read_object(message)
        match data.get("type"):
            case "Metadata":
                return [Opened(self._clean(read_text(data, "request_id")))]
            case "Flushed":
                return [FlushAcked()]
            case "Cleared":
                return [Cancelled()]
            case "Warning":
                # The document says code and description; the live service was seen to send
                # warn_code and warn_msg.
                code = self._clean(read_text(data, "warn_code", "code"))
                warned = Warned(code, read_text(data, "warn_msg", "description"))
                return [warned, FlushRefused()] if code == "EXCESSIVE_FLUSH" else [warned]
            case "Error" | "error":  # in no document; clients have met it
                code = self._clean(read_text(data, "err_code", "code"))
                return [Warned(code, read_text(data, "err_msg", "description", "message"))]
            case kind:
                return [Unknown(self._clean(str(kind))[:40])]

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        answer = read_object(body)
        code, what = read_text(answer, "err_code", "error_code"), read_text(answer, "err_msg")
        # aiohttp gives no body, so the reason is looked for in both places.
        said = ": ".join(filter(None, (code, what or headers.get("dg-error", ""))))
        return refusal(status, self._clean(said), STATUSES)

    def closed(self, code: int, reason: str) -> Failed:
        known = self.reasons.get(reason.split(":")[0].strip())
        return closing(code, self._clean(reason), known)

    def _clean(self, text: str) -> str:
        return one_line(text, self.setup.key)
