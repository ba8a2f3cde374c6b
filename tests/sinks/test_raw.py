"""Files, pipes and devices as they are written to for real."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2ws.errors import SinkError
from llm2ws.sinks.raw import RawFile

AUDIO = bytes(range(256)) * 1_000


async def write(target: Path | int, data: bytes, step: int = 1_920) -> None:
    async with RawFile(target) as file:
        for start in range(0, len(data), step):
            await file.write(data[start : start + step])


async def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "out.raw"
    path.write_bytes(b"older" * 100_000)

    await write(path, AUDIO)

    assert path.read_bytes() == AUDIO


async def test_an_existing_file_can_be_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.raw"
    path.write_bytes(b"older")

    with pytest.raises(SinkError, match=r"out\.raw: file exists"):
        async with RawFile(path, new=True):
            pass

    assert path.read_bytes() == b"older"


@given(chunks=st.lists(st.binary(max_size=9_000), max_size=8))
def test_a_pipe_gives_what_was_written_however_it_is_cut(chunks: list[bytes]) -> None:
    read, write_end = os.pipe()
    received: list[bytes] = []

    def reader() -> None:
        while data := os.read(read, 777):
            received.append(data)

    thread = threading.Thread(target=reader)
    thread.start()

    async def writer() -> None:
        async with RawFile(write_end) as file:
            for chunk in chunks:
                await file.write(chunk)

    asyncio.run(writer())
    os.close(write_end)
    thread.join()
    os.close(read)

    assert b"".join(received) == b"".join(chunks)


async def test_a_pipe_that_nobody_reads_holds_up_nothing_else_and_can_be_given_up() -> None:
    read, write_end = os.pipe()
    writer = asyncio.create_task(write(write_end, bytes(1 << 20)))
    ticks = 0
    while os.get_blocking(write_end) and ticks < 100:  # the loop runs on while the pipe is full
        await asyncio.sleep(0)
        ticks += 1

    assert not writer.done()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert os.get_blocking(write_end), "others who have this pipe see it changed"
    os.close(read)
    os.close(write_end)


async def test_what_is_written_to_a_pipe_is_there_at_once() -> None:
    read, write_end = os.pipe()
    async with RawFile(write_end) as file:
        await file.write(b"ab")
        assert os.read(read, 100) == b"ab"
    os.write(write_end, b"still open")
    os.close(read)
    os.close(write_end)


async def test_a_reader_that_has_gone() -> None:
    read, write_end = os.pipe()
    os.close(read)
    with pytest.raises(SinkError, match="the pipe: its reader has gone"):
        async with RawFile(write_end, name="the pipe") as file:
            await file.write(b"ab")
    os.close(write_end)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/out.raw", "no such file or directory: make its folder first"),
        (".", "is a directory: name a file in it"),
        ("file/out.raw", "not a directory: a part of its path is a file: name another"),
        ("x" * 300, "file name too long: choose a shorter name"),
        ("a\0b", "not a name that a file can have: choose another place"),
    ],
)
async def test_what_cannot_be_opened_says_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SinkError) as caught:
        await write(Path(path), AUDIO)

    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
async def test_a_full_disk() -> None:
    with pytest.raises(SinkError, match="/dev/full: no space left on device: make room or choose another disk"):
        await write(Path("/dev/full"), AUDIO)


async def test_what_is_written_too_late_is_refused_and_gets_into_no_other_file(tmp_path: Path) -> None:
    async with RawFile(tmp_path / "out.raw") as file:
        await file.write(b"audio")
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)  # most likely under the number that was closed
    try:
        for late in (b"late", AUDIO):
            with pytest.raises(SinkError, match="it is closed"):
                await file.write(late)
    finally:
        os.close(other)
    assert (tmp_path / "out.raw").read_bytes() == b"audio"
    assert (tmp_path / "other").read_bytes() == b""

    read, write_end = os.pipe()
    async with RawFile(write_end) as pipe:
        pass
    with pytest.raises(SinkError, match="it is closed"):
        await pipe.write(b"late")
    os.close(read)
    os.close(write_end)


async def test_a_closed_file_descriptor() -> None:
    read, write_end = os.pipe()
    os.close(read)
    os.close(write_end)
    with pytest.raises(SinkError, match="bad file descriptor"):
        await write(write_end, AUDIO)
