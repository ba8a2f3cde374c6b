"""WAV files, read back by the standard library."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import struct
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.audio import AudioFormat, Encoding, wav_header
from llm2ws.errors import SinkError
from llm2ws.sinks.raw import RawFile
from llm2ws.sinks.wav import WavFile


@given(chunks=st.lists(st.binary(max_size=70_000).map(lambda data: data[: len(data) // 2 * 2]), max_size=4))
def test_a_file_says_how_long_it_is(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("wav") / "out.wav"

    async def write() -> None:
        async with WavFile(path, AudioFormat(sample_rate_hz=16_000)) as file:
            for chunk in chunks:
                await file.write(chunk)

    asyncio.run(write())
    with wave.open(str(path)) as read:
        assert (read.getframerate(), read.getnchannels(), read.getsampwidth()) == (16_000, 1, 2)
        assert read.readframes(read.getnframes()) == b"".join(chunks)
    assert struct.unpack("<I", path.read_bytes()[4:8])[0] == path.stat().st_size - 8


async def test_an_odd_size_is_padded_and_not_counted(tmp_path: Path) -> None:
    fmt = AudioFormat(Encoding.MULAW, 8_000)
    async with WavFile(tmp_path / "out.wav", fmt) as file:
        await file.write(b"\xff" * 3)

    data = (tmp_path / "out.wav").read_bytes()

    assert data == wav_header(fmt, 3) + b"\xff" * 3 + b"\0"
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8


async def test_a_pipe_gets_sizes_that_say_nothing() -> None:
    read, write = os.pipe()
    async with WavFile(write, AudioFormat()) as file:
        await file.write(b"abcd")
    os.close(write)

    data = os.read(read, 1_000)
    os.close(read)

    assert data == wav_header(AudioFormat(), None) + b"abcd"


async def test_a_file_that_an_error_left_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    with pytest.raises(ZeroDivisionError):
        async with WavFile(path, AudioFormat()) as file:
            await file.write(bytes(48_000))
            raise ZeroDivisionError

    with wave.open(str(path)) as read:
        assert read.getnframes() == 24_000


async def test_a_file_that_is_written_anew_is_whole(tmp_path: Path) -> None:
    file = WavFile(tmp_path / "out.wav", AudioFormat())
    for data in (b"older audio.", b"audio."):
        async with file:
            await file.write(data)
    assert file.n_bytes == 6
    with wave.open(str(tmp_path / "out.wav")) as read:
        assert read.readframes(9) == b"audio."


@pytest.mark.parametrize("kind", [RawFile, partial(WavFile, format=AudioFormat())], ids=["raw", "wav"])
async def test_what_a_file_held_is_lost_to_audio_and_not_to_an_error_before_it(
    tmp_path: Path, kind: Callable[[Path], RawFile | WavFile]
) -> None:
    path = tmp_path / "out.wav"
    path.write_bytes(b"of before" * 100)
    with pytest.raises(ZeroDivisionError):
        async with kind(path):
            raise ZeroDivisionError
    assert path.read_bytes() == b"of before" * 100

    with pytest.raises(ZeroDivisionError):
        async with kind(path) as file:
            await file.write(b"abcd")
            raise ZeroDivisionError
    assert path.read_bytes()[-4:] == b"abcd"
    assert path.stat().st_size in (4, 48)

    async with kind(path):
        pass
    assert path.stat().st_size in (0, 44)  # there was nothing to be said


async def test_a_full_disk_is_known_before_the_first_audio() -> None:
    with pytest.raises(SinkError, match="/dev/full: no space left on device"):
        async with WavFile("/dev/full", AudioFormat()):
            pytest.fail("it opened")


@pytest.mark.parametrize("fmt", [AudioFormat(), AudioFormat(Encoding.MULAW, 8_000)], ids=str)
async def test_on_a_disk_that_fills_up_the_header_tells_what_is_in_the_file(tmp_path: Path, fmt: AudioFormat) -> None:
    path, room = tmp_path / "out.wav", 200_001
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(SinkError, match="file too large"):
            async with WavFile(path, fmt) as file:
                for _ in range(10):
                    await file.write(bytes(48_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    data = path.read_bytes()
    header = len(wav_header(fmt))
    there = (room - header) // fmt.sample_bytes * fmt.sample_bytes
    assert len(data) == room
    assert data[:header] == wav_header(fmt, there)


@pytest.mark.parametrize("kind", [RawFile, partial(WavFile, format=AudioFormat())], ids=["raw", "wav"])
async def test_an_error_before_the_first_audio_leaves_no_file_that_was_not_there(
    tmp_path: Path, kind: Callable[[Path], RawFile | WavFile]
) -> None:
    path, empty = tmp_path / "out.wav", tmp_path / "empty.wav"
    empty.touch()
    for each in (path, empty):
        with pytest.raises(ZeroDivisionError):
            async with kind(each):
                raise ZeroDivisionError
    assert not path.exists()
    assert empty.stat().st_size == 0
