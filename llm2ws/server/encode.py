"""Audio as clients of OpenAI's API ask for it, made while it comes."""

from __future__ import annotations

import logging
from typing import Annotated, Protocol

from msgspec import Meta

from ..audio import AudioFormat, wav_header
from .daemon import Problem

__all__ = ["FORMATS", "Encoder", "Speed", "encoder"]

_log = logging.getLogger(__name__)

MP3_KBITS = 64  # mono speech at 24 kHz; more is not heard

# By the name that a client gives: the type of the file.
FORMATS = {"mp3": "audio/mpeg", "pcm": "audio/pcm", "pcm16": "audio/pcm", "wav": "audio/wav"}

# OpenAI's API says 0.25 to 4. What no endpoint can do is refused, and not spoken at another speed than was asked for.
Speed = Annotated[float, Meta(ge=0.7, le=1.5, description="a multiple of the usual speed, within what speech endpoints have")]


class Encoder(Protocol):
    """linear16 in, a file's bytes out."""

    def feed(self, pcm: bytes) -> bytes:
        """What can be given of it now."""

    def finish(self) -> bytes:
        """The rest."""


class _Pcm:
    def feed(self, pcm: bytes) -> bytes:
        return pcm

    def finish(self) -> bytes:
        return b""


class _Wav:
    """Its header says a length that no player waits for: the real one is not known yet."""

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
        self._lame.set_quality(7)  # the fastest: it runs on the daemon's only thread
        self._lame.silence()
        self._fed = False

    def feed(self, pcm: bytes) -> bytes:
        self._fed = True
        return bytes(self._lame.encode(pcm))

    def finish(self) -> bytes:
        return bytes(self._lame.flush()) if self._fed else b""  # without audio it would raise


def encoder(name: str, fmt: AudioFormat, *, param: str = "response_format") -> Encoder:
    """For one answer. `fmt`: linear16. Raises Problem for a format that is not made here; `param` is its field."""
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
