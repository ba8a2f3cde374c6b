"""Audio formats, their conversion between bytes and seconds, WAV headers and G.711. All audio is mono."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from .errors import ConfigError

__all__ = ["AudioFormat", "Encoding", "alaw", "decode_alaw", "decode_mulaw", "mulaw", "wav_header"]


class Encoding(StrEnum):
    """The encoding of one sample."""

    LINEAR16 = "linear16"  # signed 16 bit, little endian
    MULAW = "mulaw"  # G.711 mu-law, 8 bit
    ALAW = "alaw"  # G.711 A-law, 8 bit


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Raw mono audio: an encoding at a sample rate."""

    encoding: Encoding = Encoding.LINEAR16
    sample_rate_hz: int = 24_000

    def __post_init__(self) -> None:
        if not isinstance(self.encoding, Encoding):
            raise ConfigError(f"{self.encoding!r} is no Encoding", hint="give one, such as Encoding.MULAW")
        if self.sample_rate_hz <= 0:
            raise ConfigError(f"sample rate {self.sample_rate_hz}", hint="give samples a second, such as 24000")

    @property
    def sample_bytes(self) -> int:
        """The size of one sample."""
        return 2 if self.encoding is Encoding.LINEAR16 else 1

    @property
    def bytes_per_second(self) -> int:
        """The size of one second of audio."""
        return self.sample_bytes * self.sample_rate_hz

    def seconds(self, n_bytes: int) -> float:
        """Return the duration of so many bytes, in seconds."""
        return n_bytes / self.bytes_per_second

    def bytes_for(self, seconds: float) -> int:
        """Return the size in bytes of so many seconds, rounded to the nearest whole sample."""
        return round(seconds * self.sample_rate_hz) * self.sample_bytes

    @property
    def silence(self) -> bytes:
        """One sample of silence."""
        return {Encoding.LINEAR16: b"\0\0", Encoding.MULAW: b"\xff", Encoding.ALAW: b"\xd5"}[self.encoding]

    def __str__(self) -> str:
        return f"{self.encoding} {self.sample_rate_hz} Hz"


# The size in the header of a WAV file whose length is not known yet. ffmpeg, sox, libsndfile and Python's wave accept it
# without complaint; 0 breaks three of them, and 0xFFFFFFFF makes sox warn.
_UNKNOWN_BYTES = 0x7FFF_F000
_WAV_TAGS = {Encoding.LINEAR16: 1, Encoding.ALAW: 6, Encoding.MULAW: 7}


def wav_header(fmt: AudioFormat, n_bytes: int | None = None) -> bytes:
    """Return the header of a WAV file: 44 bytes for linear16, 58 for G.711, which needs a `fact` chunk.

    `n_bytes`: the size of the audio that follows, None when it is not known yet, as in a pipe.
    """
    size = _UNKNOWN_BYTES if n_bytes is None else n_bytes
    tag, width, rate = _WAV_TAGS[fmt.encoding], fmt.sample_bytes, fmt.sample_rate_hz
    if tag == 1:
        chunks = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, 1, rate, rate * width, width, width * 8)
    else:
        chunks = struct.pack("<4sIHHIIHHH", b"fmt ", 18, tag, 1, rate, rate * width, width, width * 8, 0)
        chunks += struct.pack("<4sII", b"fact", 4, size // width)
    padding = 0 if n_bytes is None else n_bytes % 2
    head = struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) + 8 + size + padding, b"WAVE")
    return head + chunks + struct.pack("<4sI", b"data", size)


# G.711 after the 14-bit (mu-law) and 13-bit (A-law) forms of the recommendation: bit-exact with the reference for all
# 65,536 inputs, which the popular 16-bit forms are not.


def _mulaw_byte(sample: int) -> int:
    sample >>= 2
    mask = 0x7F if sample < 0 else 0xFF
    magnitude = min(abs(sample), 8159) + 33
    segment = max(0, magnitude.bit_length() - 6)
    if segment >= 8:
        return 0x7F ^ mask
    return ((segment << 4) | ((magnitude >> (segment + 1)) & 0xF)) ^ mask


def _alaw_byte(sample: int) -> int:
    sample >>= 3
    mask = 0xD5 if sample >= 0 else 0x55
    magnitude = sample if sample >= 0 else -sample - 1
    segment = max(0, magnitude.bit_length() - 5)
    if segment >= 8:
        return 0x7F ^ mask
    shift = max(1, segment)
    return ((segment << 4) | ((magnitude >> shift) & 0xF)) ^ mask


def _mulaw_sample(byte: int) -> int:
    byte = ~byte & 0xFF
    magnitude = ((((byte & 0xF) << 3) + 0x84) << ((byte >> 4) & 7)) - 0x84
    return -magnitude if byte & 0x80 else magnitude


def _alaw_sample(byte: int) -> int:
    byte ^= 0x55
    segment, magnitude = (byte >> 4) & 7, (byte & 0xF) << 4
    magnitude = magnitude + 8 if segment == 0 else (magnitude + 0x108) << (segment - 1)
    return magnitude if byte & 0x80 else -magnitude


@cache
def _encode_table(encoding: Encoding) -> bytes:
    """Return all 65,536 samples encoded, in the order of their unsigned 16-bit form."""
    encode = _mulaw_byte if encoding is Encoding.MULAW else _alaw_byte
    return bytes(encode(u - 65_536 if u >= 32_768 else u) for u in range(65_536))


@cache
def _decode_table(encoding: Encoding) -> tuple[int, ...]:
    decode = _mulaw_sample if encoding is Encoding.MULAW else _alaw_sample
    return tuple(decode(byte) for byte in range(256))


def _encode(pcm: bytes, encoding: Encoding) -> bytes:
    table = _encode_table(encoding)
    return bytes([table[sample] for sample in struct.unpack(f"<{len(pcm) // 2}H", pcm)])


def _decode(data: bytes, encoding: Encoding) -> bytes:
    table = _decode_table(encoding)
    return struct.pack(f"<{len(data)}h", *[table[byte] for byte in data])


def mulaw(pcm: bytes) -> bytes:
    """Return linear16 as G.711 mu-law. `pcm` holds whole samples."""
    return _encode(pcm, Encoding.MULAW)


def alaw(pcm: bytes) -> bytes:
    """Return linear16 as G.711 A-law. `pcm` holds whole samples."""
    return _encode(pcm, Encoding.ALAW)


def decode_mulaw(data: bytes) -> bytes:
    """Return G.711 mu-law as linear16."""
    return _decode(data, Encoding.MULAW)


def decode_alaw(data: bytes) -> bytes:
    """Return G.711 A-law as linear16."""
    return _decode(data, Encoding.ALAW)
