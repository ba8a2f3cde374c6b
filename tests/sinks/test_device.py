"""Playing: miniaudio on its silent backend, which keeps real time, and programs on PATH that are real processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import wave
from pathlib import Path

import pytest

from llm2ws.audio import AudioFormat, Encoding, mulaw
from llm2ws.errors import ConfigError, LocalProtocolError, SinkError
from llm2ws.sinks.device import Player
from tests.support import MS

FORMAT = AudioFormat(sample_rate_hz=8_000)
FRAME = FORMAT.bytes_for(0.04)


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which there are only the shell's own tools and what the test puts there; no sound server to be found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "cat", "head"):
        (folder / tool).symlink_to(f"/bin/{tool}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PULSE_SERVER", "unix:/nonexistent")
    monkeypatch.chdir(tmp_path)
    return folder


async def test_a_device_reports_where_it_is_and_holds_back_who_writes() -> None:
    positions: list[float] = []
    began = time.monotonic()
    async with Player(FORMAT, device="null", ahead_s=200 * MS, on_played=positions.append) as player:
        for _ in range(20):
            await player.write(bytes(FRAME))
            assert player.queued_s <= 200 * MS
        assert player.played_s >= 0.8 - 200 * MS
    assert player.played_s == pytest.approx(0.8)
    assert time.monotonic() - began >= 0.7, "it took less time than the audio lasts"
    assert positions[-1] == pytest.approx(0.8)
    assert all(one <= other for one, other in itertools.pairwise(positions))


async def test_a_player_that_was_not_started_says_so() -> None:
    player = Player(FORMAT, device="null")
    for call in (player.write(bytes(2)), player.drain()):
        with pytest.raises(LocalProtocolError, match="this player was not started: use it with `async with`"):
            await call


async def test_an_error_stops_it_at_once() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Player(FORMAT, device="null", ahead_s=60.0) as player:
            await player.write(bytes(FORMAT.bytes_for(50.0)))
            raise ZeroDivisionError
    assert player.played_s < 50.0  # and the test is not over for its time limit


async def test_a_program_gets_linear16_and_the_rate(bin_folder: Path, tmp_path: Path) -> None:
    program(bin_folder, "aplay", f'echo "$@" > {tmp_path}/args; cat > {tmp_path}/heard')
    fmt = AudioFormat(Encoding.MULAW, 8_000)
    async with Player(fmt) as player:
        assert (player.name, player.audible, player.saved_to) == ("aplay", True, None)
        await player.write(mulaw(b"\x00\x10" * 800))

    assert (tmp_path / "heard").stat().st_size == 1_600
    assert "-r 8000" in (tmp_path / "args").read_text()


async def test_a_program_that_cannot_play_gives_way_and_nothing_is_lost(bin_folder: Path, tmp_path: Path) -> None:
    program(bin_folder, "pacat", "exit 1")
    program(bin_folder, "aplay", "head -c 100 >/dev/null; exit 1")
    (bin_folder / "pw-play").write_bytes(b"\x7fELF of another machine")
    (bin_folder / "pw-play").chmod(0o755)
    program(bin_folder, "ffplay", f"cat > {tmp_path}/heard")
    audio = os.urandom(FORMAT.bytes_for(0.4))
    async with Player(FORMAT, ahead_s=60.0) as player:
        for start in range(0, len(audio), FRAME):
            await player.write(audio[start : start + FRAME])
            while player.name != "ffplay" and start > len(audio) // 2:  # each of the others ends by itself
                await player.write(b"")
                await asyncio.sleep(0.01)

    assert (tmp_path / "heard").read_bytes() == audio


async def test_a_program_that_ends_in_the_middle_is_an_error(bin_folder: Path) -> None:
    program(bin_folder, "pacat", "head -c 64000 >/dev/null; exit 1")

    with pytest.raises(SinkError, match="pacat ended: look at the sound device"):
        async with Player(FORMAT, ahead_s=60.0) as player:
            while True:
                await player.write(bytes(FRAME))


async def test_where_nothing_plays_it_goes_to_a_file_that_is_never_overwritten(bin_folder: Path, tmp_path: Path) -> None:
    names: set[str] = set()
    for _ in range(3):
        async with Player(FORMAT) as player:
            assert (player.audible, player.saved_to) == (False, None)
            await player.write(bytes(FRAME))
            saved_to = player.saved_to or ""
            assert saved_to.startswith("./llm2ws-")
            names.add(saved_to)
    assert len(names) == 3
    for name in names:
        with wave.open(str(tmp_path / name)) as file:
            assert file.getnframes() * 2 == FRAME


@pytest.mark.parametrize("device", ["aplay", "miniaudio"])
async def test_a_device_that_was_named_is_not_replaced(bin_folder: Path, tmp_path: Path, device: str) -> None:
    if Path("/dev/snd").exists():
        pytest.skip("there is a sound card here")
    with pytest.raises(ConfigError, match=f"play.device '{device}' does not work here"):
        async with Player(FORMAT, device=device):
            pass
    assert not list(tmp_path.glob("*.wav"))


def test_a_device_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"play.device 'speaker' is not known: give one of miniaudio, pacat, aplay"):
        Player(FORMAT, device="speaker")
