"""Encodes audio, while it comes, as clients of OpenAI's API ask for it."""

from __future__ import annotations

import logging
from typing import Annotated, Protocol

from msgspec import Meta

from ..audio import AudioFormat, wav_header
from .problems import Problem

__all__ = ["FORMATS", "Encoder", "Speed", "encoder"]

_log = logging.getLogger(__name__)

MP3_KBITS = 64  # Enough for mono speech at 24 kHz.

# The media type of each format, by its name in OpenAI's API.
FORMATS = {"mp3": "audio/mpeg", "pcm": "audio/pcm", "pcm16": "audio/pcm", "wav": "audio/wav"}

# OpenAI's API has 0.25 to 4. What no endpoint can do is refused, rather than spoken at another speed.
Speed = Annotated[float, Meta(ge=0.7, le=1.5, description="a multiple of the usual speed, within what speech endpoints have")]


class Encoder(Protocol):
    """Turns linear16 audio into the bytes of a file."""

    def feed(self, pcm: bytes) -> bytes:
        """Add audio, and return the bytes that are complete."""

    def finish(self) -> bytes:
        """Return the last bytes."""


class _Pcm:
    def feed(self, pcm: bytes) -> bytes:
        return pcm

    def finish(self) -> bytes:
        return b""


class _Wav:
    """Its header has a length that players take for endless: the real one is not known yet."""

    def __init__(self, fmt: AudioFormat) -> None:
        self._head = wav_header(fmt)

    def feed(self, pcm: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + pcm

    def finish(self) -> bytes:
        return self._head


class _Mp3:
    def __init__(self, fmt: AudioFormat, param: str) -> None:
        try:
            import lameenc
        except ImportError:
            _log.warning("mp3 was asked for, and is not installed: pip install 'llm2ws[mp3]'")
            raise Problem(
                400, f"{param}: mp3 is not made here: give wav or pcm", param=param, code="unsupported_value"
            ) from None
        self._lame = lameenc.Encoder()
        self._lame.set_bit_rate(MP3_KBITS)
        self._lame.set_in_sample_rate(fmt.sample_rate_hz)
        self._lame.set_channels(1)
        self._lame.set_quality(7)  # The fastest: it runs on the daemon's only thread.
        self._lame.silence()
        self._fed = False

    def feed(self, pcm: bytes) -> bytes:
        self._fed = True
        return bytes(self._lame.encode(pcm))

    def finish(self) -> bytes:
        return bytes(self._lame.flush()) if self._fed else b""  # Without audio it would raise.


def encoder(name: str, fmt: AudioFormat, *, param: str = "response_format") -> Encoder:
    """Return an encoder of linear16 audio in `fmt` for one answer.

    `param`: the request's field that has `name`. Raises Problem for a format that is not made here.
    """
    match name:
        case "pcm" | "pcm16":
            return _Pcm()
        case "wav":
            return _Wav(fmt)
        case "mp3":
            return _Mp3(fmt, param)
        case _:
            raise Problem(
                400,
                f"{param}: no such audio format here: give one of {', '.join(FORMATS)}",
                param=param,
                code="unsupported_value",
            )
