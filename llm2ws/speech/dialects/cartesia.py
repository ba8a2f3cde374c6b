"""Cartesia text to speech, WebSocket `/tts/websocket`: many contexts on a socket.

From the vendor's asyncapi document, pages and SDK of 2026. A context ends by itself one second
after its last audio, so a turn of a model that pauses takes several, one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import msgspec

from ...audio import AudioFormat, Encoding
from ...text.fragments import Policy
from ..dialect import Limits, Request, Setup, Traits, check_setup, checked_url
from ..messages import (
    AudioChunk,
    Begin,
    Cancel,
    Close,
    Command,
    End,
    Ended,
    Event,
    Failed,
    Flush,
    KeepAlive,
    Scope,
    Speak,
    Timed,
    Unknown,
    Word,
)
from .reading import (
    STATUSES,
    Verdict,
    audio_in,
    closing,
    one_line,
    read_numbers,
    read_object,
    read_ref,
    read_text,
    refusal,
    verdict_on,
)

__all__ = ["SAMPLE_RATES_HZ", "VOICE", "VOICES", "Cartesia"]

URL = "wss://api.cartesia.ai/tts/websocket"
VERSION = "2026-03-01"
VOICE = "6ccbfb76-1fc6-48f7-b71d-91ac6298247b"
VOICES: dict[str, str] = {}  # of OpenAI's names: any of them is the usual voice
MODEL = "sonic-3.5"
SPEEDS = (0.6, 1.5)

SAMPLE_RATES_HZ = dict.fromkeys(Encoding, (8_000, 16_000, 22_050, 24_000, 44_100, 48_000))
_ENCODINGS = {
    Encoding.LINEAR16: "pcm_s16le",
    Encoding.MULAW: "pcm_mulaw",
    Encoding.ALAW: "pcm_alaw",
}

# What is looked for in the code, title and text of an error and in the reason of a close frame.
_VERDICTS: dict[str, Verdict] = {
    "context has closed": ("the context was over before its text", "try again", 0.0),
    "concurren": ("too many contexts at once for this account", "try again later", 1.0),
    "quota": ("the account's credits are used up", "add credits", None),
    "credit": ("the account's credits are used up", "add credits", None),
    "voice_not_found": ("there is no such voice", "look at voice", None),
    "model_not_found": ("there is no such model", "look at model", None),
    "idle timeout": ("the connection had not been used for long", "try again", 0.0),
}
_STATUSES = STATUSES | {
    401: ("the key is wrong or missing: set CARTESIA_API_KEY or api_key", None),
}


@dataclass(frozen=True, slots=True)
class Cartesia:
    """Cartesia for one Setup. Each text is spoken as it comes, without delay; words have times."""

    setup: Setup
    name = "cartesia"
    policy = Policy.CLAUSE_FIRST
    limits = Limits()
    traits = Traits(
        turns_at_once=10,  # dozens, says the vendor; what an account may have at once is less
        audio_has_ref=True,
        audio_waits_for_flush=False,
        ends_with_flush_ack=False,
        confirms_cancel=False,  # what is being generated when it comes is sent to its end
        context_idle_s=1.0,
    )

    @property
    def format(self) -> AudioFormat:
        return self.setup.format

    def request(self) -> Request:
        check_setup(self.setup, "Cartesia", SAMPLE_RATES_HZ, SPEEDS)
        key = self.setup.key
        url = checked_url(self.setup.url or URL, key=key, path="/tts/websocket")
        headers = {"Cartesia-Version": VERSION} | ({"X-API-Key": key} if key else {})
        return Request(url, headers)

    def encode(self, command: Command) -> list[str | bytes]:
        match command:
            case Speak(ref=ref, text=text):
                return [self._generation(ref, text, more=True)]
            case Flush(ref=ref) | End(ref=ref):
                return [self._generation(ref, "", more=False)]
            case Cancel(ref=ref):
                return [msgspec.json.encode({"context_id": str(ref), "cancel": True}).decode()]
            case Begin() | KeepAlive() | Close():  # nothing of that kind is known to it
                return []
            case _:
                assert_never(command)

    def decode(self, message: str | bytes) -> list[Event]:
        data = read_object(message)
        ref = read_ref(data, "context_id")
        match data.get("type"):
            case "chunk":
                audio = audio_in(data.get("data"))
                if audio is None:
                    return [Unknown("audio, not in base64")]
                return [AudioChunk(audio, ref)]
            case "timestamps":
                words = _words(data.get("word_timestamps"))
                return [Timed(words, ref)] if words else []
            case "done":
                return [Ended(ref)]
            case "flush_done" | "phoneme_timestamps":
                return []
            case "error":
                return [self._failed(data, ref)]
            case kind:
                return [Unknown(self._clean(str(kind))[:40])]

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        return refusal(status, self._said(read_object(body)), _STATUSES)

    def closed(self, code: int, reason: str) -> Failed:
        return closing(code, self._clean(reason), verdict_on(reason, _VERDICTS))

    def _generation(self, ref: int, text: str, *, more: bool) -> str:
        """Return a generation request. Each has to repeat voice, model and format."""
        setup = self.setup
        request = {
            "context_id": str(ref),
            "model_id": setup.model or MODEL,
            "transcript": text,
            "continue": more,
            "voice": {"mode": "id", "id": setup.voice or VOICE},
            "output_format": {
                "container": "raw",
                "encoding": _ENCODINGS[setup.format.encoding],
                "sample_rate": setup.format.sample_rate_hz,
            },
            "add_timestamps": True,
            "use_normalized_timestamps": False,  # words as they were sent
            "max_buffer_delay_ms": 0,  # whole clauses come: no waiting for more of them
        }
        if setup.language:
            request["language"] = setup.language
        if setup.speed != 1.0:
            request["generation_config"] = {"speed": setup.speed}
        return msgspec.json.encode(request).decode()

    def _failed(self, data: dict[str, object], ref: int) -> Failed:
        said, status = self._said(data), data.get("status_code")
        known = verdict_on(said, _VERDICTS)
        if known is None and isinstance(status, int):
            hint, retry_s = _STATUSES.get(status, ("try again", 0.0 if status >= 500 else None))
            known = ("the endpoint failed", hint, retry_s)
        what, hint, retry_s = known or ("the endpoint failed", "", None)
        scope = Scope.CONTEXT if ref else Scope.LINK
        return Failed(scope, f"{what} ({said})", hint, retry_s, reason=said, ref=ref or None)

    def _said(self, data: Mapping[str, object]) -> str:
        """Return the vendor's words on an error: code, title and text, or `error` (older)."""
        words = (read_text(data, name) for name in ("error_code", "title", "message", "error"))
        return self._clean(": ".join(filter(None, words)))

    def _clean(self, text: str) -> str:
        return one_line(text, self.setup.key)


def _words(times: object) -> tuple[Word, ...]:
    """Return words with their times, in seconds from the start of the context."""
    if not isinstance(times, dict) or not isinstance(times.get("words"), list):
        return ()
    starts, ends = read_numbers(times, "start"), read_numbers(times, "end")
    return tuple(map(Word, map(str, times["words"]), starts, ends))
