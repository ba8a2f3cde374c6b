from __future__ import annotations

import io
import struct
import wave
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding, alaw, decode_alaw, decode_mulaw, mulaw, wav_header
from llm2ws.errors import ConfigError

RATES = st.sampled_from([8_000, 16_000, 24_000, 44_100, 48_000])


@given(st.sampled_from(Encoding), RATES, st.integers(0, 3_600 * 48_000))
def test_seconds_and_bytes_are_each_others_inverse(encoding: Encoding, rate: int, samples: int) -> None:
    fmt = AudioFormat(encoding, rate)
    n_bytes = samples * fmt.sample_bytes
    assert fmt.bytes_for(fmt.seconds(n_bytes)) == n_bytes


@given(st.sampled_from(Encoding), RATES, st.floats(0, 3_600))
@example(Encoding.LINEAR16, 44_100, 0.125)  # half a sample over
def test_seconds_are_rounded_to_the_nearest_sample(encoding: Encoding, rate: int, seconds: float) -> None:
    fmt = AudioFormat(encoding, rate)
    samples, rest = divmod(fmt.bytes_for(seconds), fmt.sample_bytes)
    assert rest == 0
    # The comparison is exact; the product that was rounded is a float, which is off by at most 2e-8 here.
    assert abs(Fraction(seconds) * rate - samples) <= Fraction(1, 2) + Fraction(2e-8)


def test_a_rate_that_is_none_is_refused() -> None:
    for rate in (0, -8_000):
        with pytest.raises(ConfigError, match="sample rate"):
            AudioFormat(Encoding.LINEAR16, rate)


def test_an_encoding_that_is_none_is_refused() -> None:
    for encoding in ("mp3", "linear16"):
        with pytest.raises(ConfigError, match=f"'{encoding}' is no Encoding: give one, such as"):
            AudioFormat(encoding)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_a_wav_of_linear16_is_read_by_others(rate: int) -> None:
    data = bytes(range(200))
    with wave.open(io.BytesIO(wav_header(AudioFormat(Encoding.LINEAR16, rate), len(data)) + data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, rate)
        assert file.readframes(1_000) == data


@pytest.mark.parametrize(
    ("encoding", "tag", "size"), [(Encoding.LINEAR16, 1, 44), (Encoding.ALAW, 6, 58), (Encoding.MULAW, 7, 58)]
)
@pytest.mark.parametrize("n_bytes", [None, 0, 7, 8])
def test_the_parts_of_a_wav_header(encoding: Encoding, tag: int, size: int, n_bytes: int | None) -> None:
    fmt = AudioFormat(encoding, 8_000)
    header = wav_header(fmt, n_bytes)
    assert len(header) == size
    riff, total, kind = struct.unpack_from("<4sI4s", header)
    assert (riff, kind, struct.unpack_from("<H", header, 20)[0]) == (b"RIFF", b"WAVE", tag)
    declared = struct.unpack_from("<I", header, size - 4)[0]
    if n_bytes is None:
        assert declared == 0x7FFF_F000
    else:
        assert (declared, total) == (n_bytes, size - 8 + n_bytes + n_bytes % 2)


# From the tables of ITU-T G.711 and its reference code.
@pytest.mark.parametrize(
    ("sample", "mu", "a"),
    [
        (0, 0xFF, 0xD5),
        (8, 0xFE, 0xD5),
        (32_767, 0x80, 0xAA),
        (-32_768, 0x00, 0x2A),
        (1_000, 0xCE, 0xFA),
        (-1_000, 0x4E, 0x7A),
    ],
)
def test_samples_of_g711(sample: int, mu: int, a: int) -> None:
    pcm = struct.pack("<h", sample)
    assert (mulaw(pcm)[0], alaw(pcm)[0]) == (mu, a)


@pytest.mark.parametrize(("encode", "decode"), [(mulaw, decode_mulaw), (alaw, decode_alaw)])
def test_g711_there_and_back_again(encode: object, decode: object) -> None:
    every = bytes(range(256))
    again = encode(decode(every))  # type: ignore[operator]
    # mu-law has two zeros, of which one is written.
    assert [byte for byte in every if again[byte] != byte] in ([], [0x7F])
    samples = struct.pack("<65536h", *range(-32_768, 32_768))
    decoded = struct.unpack("<65536h", decode(encode(samples)))  # type: ignore[operator]
    for sample, back in zip(range(-32_768, 32_768), decoded, strict=True):
        assert abs(sample - back) <= max(16, abs(sample) / 16 + 8, 644 if abs(sample) > 32_000 else 0)
    assert list(decoded) == sorted(decoded)


def test_silence_is_silent() -> None:
    for encoding in Encoding:
        quiet = AudioFormat(encoding, 8_000).silence
        decode = {Encoding.MULAW: decode_mulaw, Encoding.ALAW: decode_alaw}.get(encoding, bytes)
        assert abs(struct.unpack("<h", decode(quiet))[0]) <= 8
