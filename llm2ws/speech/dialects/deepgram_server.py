"""Deepgram's Speak WebSocket, version 1, from the server's side: handshake, messages, close codes, limits.

Sources: Deepgram's AsyncAPI description of July 2026 and its documentation; where they are silent, what clients observed.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl

import msgspec

from ...audio import AudioFormat, Encoding

__all__ = [
    "BAD_MESSAGE",
    "BINARY_MESSAGE",
    "CONCURRENCY_EXCEEDED",
    "DEEPGRAM_LIMITS",
    "EXCESSIVE_FLUSH",
    "INTERNAL_ERROR",
    "INVALID_AUTH",
    "MAX_MESSAGE_BYTES",
    "MAX_SPEAK_CHARS",
    "MESSAGE_TOO_BIG",
    "NO_SUCH_MODEL",
    "PATH",
    "SEND_FAILED",
    "SESSION_TOO_LONG",
    "TEXT_TOO_LONG",
    "TOO_MANY_CHARS",
    "UNAVAILABLE",
    "ClearIn",
    "CloseIn",
    "FlushIn",
    "Meter",
    "Refusal",
    "ServerLimits",
    "SpeakIn",
    "SpeakRequest",
    "Violation",
    "chosen_subprotocol",
    "cleared",
    "credential",
    "decode",
    "flushed",
    "metadata",
    "parse_query",
    "warning",
]

PATH = "/v1/speak"
MAX_SPEAK_CHARS = 2000
MAX_MESSAGE_BYTES = 2_000_000
_DEFAULT_MODEL = "aura-asteria-en"


# The handshake


@dataclass(frozen=True, slots=True)
class SpeakRequest:
    """What a client asked for in the query. `speed` is a multiple of the voice's usual rate."""

    model: str = _DEFAULT_MODEL
    format: AudioFormat = field(default_factory=AudioFormat)
    speed: float = 1.0


class Refusal(NamedTuple):
    """Why a handshake is refused: an HTTP status, Deepgram's name for it, a sentence."""

    status: int
    code: str
    message: str

    def headers(self, request_id: str) -> dict[str, str]:
        return {"content-type": "application/json", "dg-request-id": request_id, "dg-error": self.message}

    def body(self, request_id: str) -> str:
        return json.dumps({"err_code": self.code, "err_msg": self.message, "request_id": request_id})


INVALID_AUTH = Refusal(401, "INVALID_AUTH", "Invalid credentials.")
NO_SUCH_MODEL = Refusal(400, "Bad Request", "No such model/version combination found.")
CONCURRENCY_EXCEEDED = Refusal(429, "TOO_MANY_REQUESTS", "Too many requests. Please try again later")
UNAVAILABLE = Refusal(503, "SERVICE_UNAVAILABLE", "The speech engine is not available. Please try again later")

_RATES_HZ = {
    Encoding.LINEAR16: (8000, 16000, 24000, 32000, 48000),
    Encoding.MULAW: (8000, 16000),
    Encoding.ALAW: (8000, 16000),
}
_DEFAULT_RATE_HZ = {Encoding.LINEAR16: 24000, Encoding.MULAW: 8000, Encoding.ALAW: 8000}
_SPEEDS = (0.7, 1.5)
_FIELDS = ("model", "encoding", "sample_rate", "speed", "container")


def parse_query(query: str) -> SpeakRequest | Refusal:
    """Read the query string of the handshake. Whether the model exists is for the caller to say.

    Parameters that have no meaning here (`mip_opt_out`, `tag`, later inventions) are ignored.
    """
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in given:
            return _bad_query(f"duplicate field `{name}`")
        if name in _FIELDS:
            given[name] = value
    if given.get("container", "none") != "none":
        return _unsupported("container must be none")
    fmt = _parse_format(given)
    if isinstance(fmt, Refusal):
        return fmt
    try:
        speed = float(given.get("speed", "1"))
    except ValueError:
        speed = math.nan
    if not _SPEEDS[0] <= speed <= _SPEEDS[1]:
        return _bad_query(f"speed: expected a number from {_SPEEDS[0]} to {_SPEEDS[1]}")
    return SpeakRequest(model=given.get("model", _DEFAULT_MODEL), format=fmt, speed=speed)


def _parse_format(given: dict[str, str]) -> AudioFormat | Refusal:
    try:
        encoding = Encoding(given.get("encoding", Encoding.LINEAR16))
    except ValueError:
        return _unsupported("encoding must be linear16, mulaw or alaw")
    rate = given.get("sample_rate", str(_DEFAULT_RATE_HZ[encoding]))
    allowed = _RATES_HZ[encoding]
    if rate not in map(str, allowed):
        return _unsupported(f"sample_rate of {encoding} must be {', '.join(map(str, allowed[:-1]))} or {allowed[-1]}")
    return AudioFormat(encoding, int(rate))


def _bad_query(what: str) -> Refusal:
    return Refusal(400, "INVALID_QUERY_PARAMETER", f"Failed to deserialize query parameters: {what}")


def _unsupported(what: str) -> Refusal:
    return Refusal(400, "INVALID_QUERY_PARAMETER", f"Unsupported audio format: {what}")


_SCHEMES = ("token", "bearer")


def credential(authorization: str | None, subprotocols: Sequence[str]) -> str | None:
    """Return the key or token that a client presents; None when there is none.

    It is in `Authorization: Token <key>` or `Bearer <jwt>`, the scheme in any case; a browser, which can set no header, sends
    the subprotocols `token, <key>` or `bearer, <jwt>`.
    """
    scheme, _, secret = (authorization or "").strip().partition(" ")
    if not authorization and len(subprotocols) == 2:
        scheme, secret = subprotocols
    return (secret.strip() or None) if scheme.lower() in _SCHEMES else None


def chosen_subprotocol(subprotocols: Sequence[str]) -> str | None:
    """Return the subprotocol to answer with: the scheme, never the key."""
    return subprotocols[0] if subprotocols and subprotocols[0].lower() in _SCHEMES else None


# Messages of the client


class SpeakIn(msgspec.Struct, frozen=True, tag_field="type", tag="Speak"):
    """Append text to the buffer, as it is."""

    text: str


class FlushIn(msgspec.Struct, frozen=True, tag_field="type", tag="Flush"):
    """Speak what is in the buffer."""


class ClearIn(msgspec.Struct, frozen=True, tag_field="type", tag="Clear"):
    """Drop what is in the buffer and what is being spoken."""


class CloseIn(msgspec.Struct, frozen=True, tag_field="type", tag="Close"):
    """Speak what is in the buffer, then close."""


class Violation(NamedTuple):
    """Why the server closes a connection: the close code and the reason."""

    code: int
    reason: str


BINARY_MESSAGE = Violation(1003, "MESSAGE-0000")
BAD_MESSAGE = Violation(1008, "DATA-0000")
TOO_MANY_CHARS = Violation(1008, "DATA-0001")
MESSAGE_TOO_BIG = Violation(1009, "BIG-0000")
TEXT_TOO_LONG = Violation(1009, "BIG-0001")
INTERNAL_ERROR = Violation(1011, "NET-0000")
SEND_FAILED = Violation(1011, "NET-0002")
SESSION_TOO_LONG = Violation(1011, "NET-0003")

_Command = SpeakIn | FlushIn | ClearIn | CloseIn
_DECODER: msgspec.json.Decoder[_Command] = msgspec.json.Decoder(_Command)


def decode(message: str | bytes) -> SpeakIn | FlushIn | ClearIn | CloseIn | Violation:
    """Read a message of the client. Fields that Speak does not know are ignored."""
    if len(message) > MAX_MESSAGE_BYTES:
        return MESSAGE_TOO_BIG
    if isinstance(message, bytes):
        return BINARY_MESSAGE
    try:
        command = _DECODER.decode(message)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return BAD_MESSAGE
    if isinstance(command, SpeakIn) and len(command.text) > MAX_SPEAK_CHARS:
        return TEXT_TOO_LONG
    return command


# Messages of the server


def metadata(*, request_id: str, model: str, version: str, model_uuid: str) -> str:
    """Return the message that is sent once, right after the handshake."""
    return json.dumps(
        {
            "type": "Metadata",
            "request_id": request_id,
            "model_name": model,
            "model_version": version,
            "model_uuid": model_uuid,
        }
    )


def flushed(sequence_id: int) -> str:
    """Return the message that follows all audio of a flushed text."""
    return json.dumps({"type": "Flushed", "sequence_id": sequence_id})


def cleared(sequence_id: int) -> str:
    """Return the message that confirms a Clear."""
    return json.dumps({"type": "Cleared", "sequence_id": sequence_id})


def warning(code: str, description: str) -> str:
    """Return a Warning with the fields of the published description, and with those that the service was seen to send."""
    return json.dumps({"type": "Warning", "code": code, "description": description, "warn_code": code, "warn_msg": description})


EXCESSIVE_FLUSH = warning("EXCESSIVE_FLUSH", "Too many Flush messages in the last minute. This one has been ignored.")


# Limits


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server allows on one connection; None for no limit.

    `chars` and `flushes` count over the last `window_s` seconds; at the age of `session_s` the connection is closed.
    """

    chars: int | None = None
    flushes: int | None = None
    window_s: float = 60.0
    session_s: float | None = None


DEEPGRAM_LIMITS = ServerLimits(chars=2400, flushes=20, session_s=3600.0)


class Meter:
    """Counts one connection's use of its limits. `now` is in seconds, monotonic."""

    def __init__(self, limits: ServerLimits) -> None:
        self._chars = _Window(limits.chars, limits.window_s)
        self._flushes = _Window(limits.flushes, limits.window_s)

    def speak(self, n_chars: int, *, now: float) -> bool:
        """Count a Speak. False: too many characters, and the connection is to be closed with TOO_MANY_CHARS."""
        return self._chars.take(n_chars, now)

    def flush(self, *, now: float) -> bool:
        """Count a Flush. False: one too many, to be answered with EXCESSIVE_FLUSH and not carried out."""
        return self._flushes.take(1, now)


class _Window:
    """A limit on a sum over any `length_s` seconds. What is refused is not counted."""

    def __init__(self, limit: int | None, length_s: float) -> None:
        self._limit = limit
        self._length_s = length_s
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0

    def take(self, n: int, now: float) -> bool:
        if self._limit is None:
            return True
        while self._taken and self._taken[0][0] <= now - self._length_s:
            self._sum -= self._taken.popleft()[1]
        if self._sum + n > self._limit:
            return False
        self._taken.append((now, n))
        self._sum += n
        return True
