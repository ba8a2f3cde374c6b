"""Audio as clients ask for it: the same samples, whatever the pieces in which they come."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, wav_header
from llm2ws.server.encode import FORMATS, MP3_KBITS, encoder
from llm2ws.server.problems import Problem

PIECES = st.lists(st.binary(max_size=2_000).map(lambda data: data[: len(data) // 2 * 2]), max_size=8)


@given(PIECES, st.sampled_from(["pcm", "pcm16", "wav"]))
def test_samples_are_not_changed(pieces: list[bytes], name: str) -> None:
    fmt = AudioFormat()
    made = encoder(name, fmt)
    out = b"".join([*(made.feed(piece) for piece in pieces), made.finish()])
    assert out == (wav_header(fmt) if name == "wav" else b"") + b"".join(pieces)


@given(PIECES)
def test_mp3_does_not_depend_on_the_pieces(pieces: list[bytes]) -> None:
    def encoded(parts: list[bytes]) -> bytes:
        made = encoder("mp3", AudioFormat())
        return b"".join([*(made.feed(part) for part in parts), made.finish()])

    pieces = [piece for piece in pieces if piece]
    assert encoded(pieces) == encoded([b"".join(pieces)] if pieces else [])


def test_mp3_lasts_as_long_as_the_audio() -> None:
    made = encoder("mp3", AudioFormat())
    data = made.feed(bytes(48_000)) + made.feed(bytes(48_000)) + made.finish()
    # At a constant bit rate the size tells the length; a frame lasts 24 ms, and two of them are the encoder's delay.
    assert data[:2] == b"\xff\xf3"
    assert len(data) * 8 / (MP3_KBITS * 1_000) == pytest.approx(2.0, abs=0.1)


def test_without_its_encoder_mp3_is_refused_and_the_operator_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "lameenc", None)
    with pytest.raises(Problem, match="give wav or pcm") as refused:
        encoder("mp3", AudioFormat())
    assert (refused.value.status, refused.value.param) == (400, "response_format")
    assert "pip install" in caplog.text
    assert "pip" not in refused.value.message


def test_what_is_not_made_is_refused_by_name() -> None:
    for name in ("opus", "aac", "flac", "", "MP3"):
        with pytest.raises(Problem) as refused:
            encoder(name, AudioFormat(), param="audio.format")
        assert (refused.value.status, refused.value.param) == (400, "audio.format")
        assert all(known in refused.value.message for known in FORMATS)
