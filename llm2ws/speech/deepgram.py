"""Deepgram Speak, WebSocket v1 (Aura, Aura-2).

From the vendor's asyncapi document and pages of 2025-07 to 2026-07; where they contradict what its service was seen to send
(the names in `Warning`), both are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlencode

import msgspec

from ..audio import AudioFormat, Encoding
from ..errors import ConfigError
from ..text.fragments import Policy
from .dialect import Limits, Request, Setup, Traits, checked_url
from .messages import (
    Audio,
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
    Scope,
    Speak,
    Unknown,
    Warned,
)

__all__ = ["SAMPLE_RATES_HZ", "Deepgram"]

URL = "wss://api.deepgram.com/v1/speak"
VOICE = "aura-2-thalia-en"

SAMPLE_RATES_HZ = {
    Encoding.LINEAR16: (8_000, 16_000, 24_000, 32_000, 48_000),
    Encoding.MULAW: (8_000, 16_000),
    Encoding.ALAW: (8_000, 16_000),
}

_FLUSH, _CLEAR, _CLOSE = ('{"type":"Flush"}', '{"type":"Clear"}', '{"type":"Close"}')

# reason of the close frame: what it means, what to do, whether (and after how many seconds) another try makes sense.
_CLOSE_REASONS: dict[str, tuple[str, str, float | None]] = {
    "MESSAGE-0000": ("the endpoint does not take this kind of message", "this is a bug of llm2ws", None),
    "DATA-0000": ("the endpoint did not understand a message", "this is a bug of llm2ws", None),
    "DATA-0001": ("more characters in a minute than the endpoint allows", "lower chars_per_window for it", 60.0),
    "BIG-0000": ("a message was larger than the endpoint allows", "lower chars_per_speak for it", None),
    "BIG-0001": ("a text was longer than the endpoint allows", "lower chars_per_speak for it", None),
    "NET-0000": ("the endpoint had an internal error", "try again", 0.0),
    "NET-0001": ("the endpoint had no message from us in time", "try again", 0.0),
    "NET-0002": ("the endpoint could not send to us", "look at the network", 0.0),
    "NET-0003": ("the connection had reached the age that the endpoint allows", "try again", 0.0),
}
_CLOSE_CODES: dict[int, tuple[str, str, float | None]] = {
    1000: ("the endpoint closed the connection", "try again", 0.0),
    1001: ("the endpoint is going away", "try again", 0.0),
    1003: _CLOSE_REASONS["MESSAGE-0000"],
    1006: ("the connection broke", "look at the network", 0.0),
    1008: ("the endpoint refused a message", "", None),
    1009: _CLOSE_REASONS["BIG-0000"],
    1011: _CLOSE_REASONS["NET-0000"],
}
_STATUSES: dict[int, tuple[str, float | None]] = {
    400: ("look at voice, encoding, sample rate and speed", None),
    401: ("the key is wrong or missing: set DEEPGRAM_API_KEY or api_key", None),
    402: ("the account has no credit left", None),
    403: ("the key may not use this: look at its permissions", None),
    404: ("there is no speech endpoint at this address: look at url", None),
    408: ("try again", 1.0),
    429: ("too many connections at once for this account: try again later", 1.0),
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

    @property
    def format(self) -> AudioFormat:
        return self.setup.format

    def request(self) -> Request:
        setup, fmt = self.setup, self.setup.format
        rates = SAMPLE_RATES_HZ[fmt.encoding]
        if fmt.sample_rate_hz not in rates:
            allowed = ", ".join(map(str, rates))
            raise ConfigError(f"Deepgram has no {fmt}", hint=f"for {fmt.encoding} give one of {allowed} Hz")
        query: dict[str, str | int | float] = {
            "model": setup.voice or VOICE,
            "encoding": fmt.encoding.value,
            "sample_rate": fmt.sample_rate_hz,
        }
        if setup.speed != 1.0:
            query["speed"] = setup.speed
        url = checked_url(setup.url or URL, key=setup.key, path="/v1/speak")
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
            case Begin() | KeepAlive():  # v1 speak has neither; a KeepAlive would close the socket (DATA-0000)
                return []
            case _:
                assert_never(command)

    def decode(self, message: str | bytes) -> list[Event]:
        if isinstance(message, bytes):
            return [Audio(message)]
        data = _object(message)
        match data.get("type"):
            case "Metadata":
                return [Opened(self._clean(_text(data, "request_id")))]
            case "Flushed":
                return [FlushAcked()]
            case "Cleared":
                return [Cancelled()]
            case "Warning":
                # The document says code and description; the live service was seen to send warn_code and warn_msg.
                code = self._clean(_text(data, "warn_code", "code"))
                warned = Warned(code, _text(data, "warn_msg", "description"))
                return [warned, FlushRefused()] if code == "EXCESSIVE_FLUSH" else [warned]
            case "Error" | "error":  # in no document; clients have met it
                code = self._clean(_text(data, "err_code", "code"))
                return [Warned(code, _text(data, "err_msg", "description", "message"))]
            case kind:
                return [Unknown(self._clean(str(kind))[:40])]

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        hint, retry_s = _STATUSES.get(status, ("try again", 1.0) if status >= 500 else ("look at url", None))
        if 200 <= status < 300:
            hint = "this is no speech endpoint: look at url"
        answer = _object(body)
        # aiohttp gives no body, so the reason is looked for in both places.
        words = (_text(answer, "err_code", "error_code"), _text(answer, "err_msg") or headers.get("dg-error", ""))
        said = self._clean(": ".join(filter(None, words)))
        what = f"answered HTTP {status}" + (f" ({said})" if said else "")
        return Failed(Scope.LINK, what, hint, retry_s, status=status)

    def closed(self, code: int, reason: str) -> Failed:
        known = _CLOSE_REASONS.get(reason.split(":")[0].strip()) or _CLOSE_CODES.get(code)
        what, hint, retry_s = known or ("the endpoint closed the connection", "try again", 0.0)
        reason = self._clean(reason)
        sign = f"{code} {reason}".strip()
        return Failed(Scope.LINK, f"{what} ({sign})", hint, retry_s, code=code, reason=reason)

    def _clean(self, text: str) -> str:
        """A vendor's words, fit for one line of an error or a log, even where they quote our key."""
        if self.setup.key:
            text = text.replace(self.setup.key, "***")
        return "".join(c if c.isprintable() else " " for c in text)[:120].strip()


def _object(message: str | bytes) -> dict[str, object]:
    """A JSON object, {} for anything else."""
    try:
        data = json.loads(message)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _text(data: dict[str, object], *names: str) -> str:
    """The first of these fields that is a string, else "". Vendors' messages are read leniently."""
    return next((value for name in names if isinstance(value := data.get(name), str)), "")
