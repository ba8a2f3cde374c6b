"""ElevenLabs, WebSocket `multi-stream-input`: a turn is a context, and five share a socket.

From the vendor's asyncapi document, pages and SDK of 2026, and what clients have met on its live
service, which spells some fields in more than one way: all spellings are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

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
    words_of,
)

__all__ = ["SAMPLE_RATES_HZ", "VOICE", "VOICES", "ElevenLabs"]

URL = "wss://api.elevenlabs.io"
PATH = "/v1/text-to-speech/{}/multi-stream-input"
VOICE = "JBFqnCBsd6RMkjVDRZzb"
MODEL = "eleven_flash_v2_5"
VOICES: dict[str, str] = {}  # of OpenAI's names: any of them is the usual voice
SPEEDS = (0.7, 1.2)
INACTIVITY_S = 180  # the most that it takes: a model may pause for longer than the usual 20 s

SAMPLE_RATES_HZ = {
    Encoding.LINEAR16: (8_000, 16_000, 22_050, 24_000, 44_100, 48_000),
    Encoding.MULAW: (8_000,),
    Encoding.ALAW: (8_000,),
}
_ENCODINGS = {Encoding.LINEAR16: "pcm", Encoding.MULAW: "ulaw", Encoding.ALAW: "alaw"}

# What is looked for in the name of an error and in the reason of a close frame.
_VERDICTS: dict[str, Verdict] = {
    "max_active_conversations": ("too many contexts on one connection", "try again", 0.0),
    "simultaneous contexts": ("too many contexts on one connection", "try again", 0.0),
    "input_timeout": ("the endpoint had no text in time", "try again", 0.0),
    "new text input": ("the endpoint had no text in time", "try again", 0.0),
    "quota_exceeded": ("the account's quota is used up", "add credits", None),
    "invalid_api_key": ("the key is wrong", "set ELEVENLABS_API_KEY or api_key", None),
    "voice_not_found": ("there is no such voice", "look at voice", None),
    "model_not_found": ("there is no such model", "look at model", None),
    "too_many_concurrent": ("too many requests at once for this account", "try later", 1.0),
    "system_busy": ("the endpoint is busy", "try again later", 1.0),
}
_STATUSES = STATUSES | {
    401: ("the key is wrong or missing: set ELEVENLABS_API_KEY or api_key", None),
    403: ("the key may not use this voice or model, or comes without its header", None),
}


@dataclass(frozen=True, slots=True)
class ElevenLabs:
    """ElevenLabs for one Setup. Each text is spoken as it comes (auto_mode); words have times."""

    setup: Setup
    name = "elevenlabs"
    policy = Policy.CLAUSE_FIRST
    limits = Limits()
    traits = Traits(
        turns_at_once=5,
        audio_has_ref=True,
        audio_waits_for_flush=False,
        ends_with_flush_ack=False,
        keepalive_s=INACTIVITY_S / 3,
    )

    @property
    def format(self) -> AudioFormat:
        return self.setup.format

    def request(self) -> Request:
        setup = self.setup
        check_setup(setup, "ElevenLabs", SAMPLE_RATES_HZ, SPEEDS)
        path = PATH.format(quote(setup.voice or VOICE, safe=""))
        url = urlsplit(checked_url(setup.url or URL, key=setup.key, path=path))
        query = {
            "model_id": setup.model or MODEL,
            "output_format": f"{_ENCODINGS[setup.format.encoding]}_{setup.format.sample_rate_hz}",
            "auto_mode": "true",  # whole clauses come: no waiting for more of them
            "sync_alignment": "true",
            "inactivity_timeout": str(INACTIVITY_S),
        }
        if setup.language:
            query["language_code"] = setup.language
        query |= dict(parse_qsl(url.query))  # what the URL says goes first
        headers = {"xi-api-key": setup.key} if setup.key else {}
        return Request(url._replace(query=urlencode(query)).geturl(), headers)

    def encode(self, command: Command) -> list[str | bytes]:
        match command:
            case Begin(ref=ref):
                # Settings may come with a context's first message and with no other.
                speed = self.setup.speed
                settings = {} if speed == 1.0 else {"voice_settings": {"speed": speed}}
                return [_message(ref, text=" ", **settings)]
            case Speak(ref=ref, text=text):
                return [_message(ref, text=text)]
            case Flush(ref=ref):
                return [_message(ref, flush=True)]
            case End(ref=ref):
                # A flush alone is not answered; closing alone drops what waits.
                return [_message(ref, flush=True), _message(ref, close_context=True)]
            case Cancel(ref=ref):
                return [_message(ref, close_context=True)]
            case KeepAlive(ref=ref):
                return [_message(ref, text="")]
            case Close():
                return [_message(None, close_socket=True)]
            case _:
                assert_never(command)

    def decode(self, message: str | bytes) -> list[Event]:
        data = read_object(message)
        ref = read_ref(data, "contextId", "context_id")
        if read_text(data, "error"):
            return [self._failed(data, ref)]
        audio = audio_in(data.get("audio"))
        if audio is None:
            return [Unknown("audio, not in base64")]
        events: list[Event] = []
        if words := _words(data.get("alignment")) or _words(data.get("normalizedAlignment")):
            events.append(Timed(words, ref, from_here=True))
        if audio:
            events.append(AudioChunk(audio, ref))
        if data.get("isFinal") is True or data.get("is_final") is True:
            events.append(Ended(ref))
        known = events or "audio" in data or data.get("type") == "flush_done"
        return events if known else [Unknown(self._clean(str(data.get("type")))[:40])]

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        detail = read_object(body).get("detail")
        words = detail if isinstance(detail, dict) else {"message": detail}
        said = filter(None, (read_text(words, "status", "code"), read_text(words, "message")))
        return refusal(status, self._clean(": ".join(said)), _STATUSES)

    def closed(self, code: int, reason: str) -> Failed:
        return closing(code, self._clean(reason), verdict_on(reason, _VERDICTS))

    def _failed(self, data: dict[str, object], ref: int) -> Failed:
        """Return what an error means. One without a context ends the connection."""
        slug = self._clean(read_text(data, "error"))
        what, hint, retry_s = verdict_on(slug, _VERDICTS) or ("the endpoint failed", "", None)
        scope = Scope.CONTEXT if ref else Scope.LINK
        return Failed(scope, f"{what} ({slug})", hint, retry_s, reason=slug, ref=ref or None)

    def _clean(self, text: str) -> str:
        return one_line(text, self.setup.key)


def _message(ref: int | None, **fields: object) -> str:
    named = {} if ref is None else {"context_id": str(ref)}
    return msgspec.json.encode(fields | named).decode()


def _words(alignment: object) -> tuple[Word, ...]:
    """Return the words of an alignment: of characters, with their starts and durations."""
    if not isinstance(alignment, dict) or not isinstance(alignment.get("chars"), list):
        return ()
    starts_ms = read_numbers(alignment, "charStartTimesMs", "char_start_times_ms")
    names = ("charDurationsMs", "charsDurationsMs", "char_durations_ms")
    timed = zip(alignment["chars"], starts_ms, read_numbers(alignment, *names), strict=False)
    return words_of((str(char), at / 1_000, (at + lasts) / 1_000) for char, at, lasts in timed)
