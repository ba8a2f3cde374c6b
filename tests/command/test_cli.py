"""The command as it is used: what it writes to which stream, what is played, and what it does not load."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from llm2ws.audio import AudioFormat, decode_mulaw
from llm2ws.localspeech.engine import AudioStream, Engine
from llm2ws.localspeech.server import SpeechServer
from llm2ws.localspeech.voices import EspeakVoice
from llm2ws.testing import FaultySpeech
from tests.command.spoken import NULL, SENTENCE
from tests.support import MS, child_environment, run, start


def frames(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        return bytes(file.readframes(file.getnframes()))


def level_db(pcm: bytes) -> float:
    samples = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    return 10 * math.log10(sum(sample * sample for sample in samples) / len(samples) / 32_768**2)


class Recording(Engine):
    """The engine, which also remembers what it was given: the groups."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[str] = []

    def say(self, text: str, *, voice: EspeakVoice, fmt: AudioFormat, speed: float = 1.0) -> AudioStream:
        self.groups.append(text)
        return super().say(text, voice=voice, fmt=fmt, speed=speed)


# --- what is spoken ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chars", [20, 200, 2_000])
async def test_as_long_and_as_loud_as_the_engine_itself(tmp_path: Path, chars: int) -> None:
    text = (SENTENCE * 40)[:chars].strip()
    async with Recording() as engine, SpeechServer(engine) as server:
        args = ["say", "-", "-o", "out.wav", "-q", "--speech", server.url, "--voice", "en-us"]
        assert (await asyncio.to_thread(run, args, cwd=tmp_path, input=text)).code == 0
        voice = engine.voice("en-us")
        assert voice
        alone = 0
        for group in list(engine.groups):
            with engine.say(group, voice=voice, fmt=AudioFormat()) as utterance:
                alone += sum([len(chunk) async for chunk in utterance])

    pcm = frames(tmp_path / "out.wav")

    assert "".join(engine.groups[: len(engine.groups) // 2]).split() == text.split()
    assert len(pcm) == pytest.approx(alone, rel=0.03)
    assert -30 < level_db(pcm) < -12


def test_other_words_are_other_audio(tmp_path: Path) -> None:
    run(["say", "Good morning, everybody.", "-o", "a.wav", "-q"], cwd=tmp_path)
    run(["say", "Thank you for nothing!", "-o", "b.wav", "-q"], cwd=tmp_path)
    assert frames(tmp_path / "a.wav") != frames(tmp_path / "b.wav")


def test_a_pipe_is_spoken(tmp_path: Path) -> None:
    done = run(["say", "-", "-o", "out.wav"], cwd=tmp_path, input="One. Two. Three.")
    assert (done.code, done.stdout.split()) == (0, [b"One.", b"Two.", b"Three."])
    assert done.stderr == "llm2ws: standard input is read, the embedded endpoint speaks (linear16 24000 Hz)\n"
    assert len(frames(tmp_path / "out.wav")) > 48_000


def test_a_pipe_is_spoken_while_it_is_written(tmp_path: Path) -> None:
    with start(["say", "-", "--no-play", "-q", "--json"], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("This is the first sent\u00e9nce. And".encode())
        process.stdin.flush()
        events: list[dict[str, object]] = []
        while not events or events[-1]["event"] != "said":
            events.append(json.loads(process.stdout.readline()))
        assert events[-1]["text"] == "This is the first sent\u00e9nce. "
        process.stdin.close()
        assert process.wait(20_000 * MS) == 0


@pytest.mark.parametrize(("name", "rate"), [("o.ulaw", 8_000), ("o.mulaw", 8_000)])
def test_a_bare_file_by_its_name(tmp_path: Path, name: str, rate: int) -> None:
    done = run(["say", "Hello there.", "-o", name], cwd=tmp_path)
    assert f"mulaw {rate} Hz" in done.stderr
    assert -30 < level_db(decode_mulaw((tmp_path / name).read_bytes())) < -12


def test_raw_and_wave_hold_the_same(tmp_path: Path) -> None:
    run(["say", "Hello there.", "-o", "o.pcm", "--rate", "16000"], cwd=tmp_path)
    done = run(["say", "Hello there.", "-o", "-", "--rate", "16000"], cwd=tmp_path)
    assert done.stdout[44:] == (tmp_path / "o.pcm").read_bytes()


def test_head_takes_what_it_wants(tmp_path: Path) -> None:
    command = '"$0" -P -m llm2ws say - -o - | head -c 100'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        input=b"One. Two. Three. " * 200,
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        check=True,
    )
    assert (len(done.stdout), done.stdout[:4]) == (100, b"RIFF")
    assert b"its reader has gone" in done.stderr


# --- what is shown ----------------------------------------------------------------------------------------------------------


# --- playing ----------------------------------------------------------------------------------------------------------------


def test_playing_takes_as_long_as_it_lasts_and_a_file_can_be_written_beside(tmp_path: Path) -> None:
    done = run(["say", "Hello there.", "-o", "o.wav", "--play", "--json"], cwd=tmp_path, env=NULL)
    assert done.code == 0
    assert not list(tmp_path.glob("llm2ws-*.wav"))
    assert frames(tmp_path / "o.wav")


def test_without_a_sound_device_it_goes_to_a_file_and_says_so(tmp_path: Path) -> None:
    if Path("/dev/snd").exists():
        pytest.skip("there is a sound card here")
    done = run(["say", "Hello there."], cwd=tmp_path, env={"PATH": "/nonexistent", "PULSE_SERVER": "unix:/nonexistent"})
    (file,) = tmp_path.glob("llm2ws-*.wav")
    assert f"nothing here can play sound; it is in ./{file.name}" in done.stderr
    assert frames(file)


# --- interruption -----------------------------------------------------------------------------------------------------------


# --- sources that fail, keys ------------------------------------------------------------------------------------------------


def test_what_a_source_gave_before_it_failed_is_spoken(tmp_path: Path) -> None:
    """A socket that its other end closed with something unread: its data can be read, then it fails."""
    ours, theirs = socket.socketpair()
    theirs.send(b"unread")
    ours.send(b"Hello there. This is the en")
    ours.close()
    with theirs, start(["say", "-", "-o", "o.wav"], cwd=tmp_path, stdin=theirs.fileno()) as process:
        stdout, stderr = process.communicate(timeout=20_000 * MS)
    assert process.returncode == 3, stderr
    assert stdout == b"Hello there. This is the en \n"
    assert len(stderr.splitlines()) == 2
    assert stderr.splitlines()[-1].startswith(b"llm2ws: standard input: Connection reset by peer: look at where the text")
    assert AudioFormat().seconds(len(frames(tmp_path / "o.wav"))) > 1.0


@pytest.mark.parametrize("right", [True, False])
async def test_no_log_shows_a_key(tmp_path: Path, canary: Callable[[], str], right: bool) -> None:
    key = canary()
    async with FaultySpeech(key=key if right else canary()) as speech:
        env = {"LLM2WS_LOG": "debug", "LLM2WS_SPEECH__IT__URL": speech.url, "LLM2WS_SPEECH__IT__API_KEY": key}
        done = await asyncio.to_thread(run, ["say", "Hello there.", "-o", "o.wav"], cwd=tmp_path, env=env)
    assert done.code == (0 if right else 4), done.stderr


# --- the speech server ------------------------------------------------------------------------------------------------------


def test_the_speech_server_speaks_with_its_key_and_ends_in_good_order(tmp_path: Path, canary: Callable[[], str]) -> None:
    key = canary()
    (tmp_path / "key").write_text(key)
    server_args = [
        "speech-server",
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        "key",
        "--limits",
        "--max-connections",
        "2",
        "--first-byte-s",
        "0.01",
        "--pace",
        "50",
    ]
    with start(server_args, cwd=tmp_path) as server:
        assert server.stderr
        line = server.stderr.readline().decode()
        found = re.fullmatch(r"llm2ws: listening on (ws://127\.0\.0\.1:\d+/v1/speak) \(with a key\)\n", line)
        assert found, line
        (tmp_path / "s.toml").write_text(f"[speech.it]\nurl = '{found[1]}'\napi_key_file = 'key'\n")
        good = run(["say", "Hello there.", "-o", "o.wav", "--config", "s.toml"], cwd=tmp_path)
        bad = run(["say", "Hello there.", "-o", "o2.wav", "--speech", found[1]], cwd=tmp_path)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20_000 * MS) == 0
    assert (good.code, bad.code) == (0, 4)
    assert "the key is wrong or missing" in bad.stderr
    assert len(frames(tmp_path / "o.wav")) > 20_000


def test_failover_to_the_embedded_endpoint(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[speech.dead]\nurl = 'ws://127.0.0.1:9'\nfailover = ['local']\nencoding = 'mulaw'\n")
    done = run(["say", "Hello there.", "-o", "o.wav", "--config", "s.toml"], cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert (tmp_path / "o.wav").stat().st_size > 4_000


# --- explain ----------------------------------------------------------------------------------------------------------------


# --- around it --------------------------------------------------------------------------------------------------------------


def test_version(tmp_path: Path) -> None:
    assert re.match(rb"llm2ws(,| \d)", run(["--version"], cwd=tmp_path).stdout)


@pytest.mark.parametrize("args", [[], ["say"], ["speech-server"], ["explain"]])
def test_help(tmp_path: Path, args: list[str]) -> None:
    done = run([*args, "--help"], cwd=tmp_path)
    assert done.code == 0
    assert b"Usage: llm2ws" in done.stdout
    assert b"None" not in done.stdout  # a bound that there is none of


def test_without_a_command_its_help_is_shown_in_lines(tmp_path: Path) -> None:
    done = run([], cwd=tmp_path)
    assert (done.code, done.stdout) == (2, b"")
    assert done.stderr == run(["--help"], cwd=tmp_path).stdout.decode()


def test_say_loads_only_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys; from llm2ws.command.cli import main; code = main(['say', 'Hello.', '-o', 'o.wav', '-q']);"
        "print(code, *sorted({'openai', 'anthropic', 'numpy', 'soxr', 'aiohttp', 'structlog', 'miniaudio', 'uvloop', 'dotenv',"
        "'prometheus_client', 'httpx2', 'lameenc', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=child_environment(), cwd=tmp_path, check=True, capture_output=True
    )
    assert done.stdout.split() == [b"0"]


@pytest.mark.parametrize(
    "env",
    [
        {"LANG": "C", "LC_ALL": "C"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
        {"HOME": "/nonexistent"},
    ],
    ids=["LANG=C", "dead proxies", "no home"],
)
def test_surroundings(tmp_path: Path, env: dict[str, str]) -> None:
    assert run(["say", "Hello.", "-o", "o.wav", "-q"], cwd=tmp_path, env=env).code == 0


def test_without_home_and_in_a_folder_of_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("a folder with an \u00fc " + "x" * 160)
    folder.mkdir()
    env = {name: value for name, value in child_environment().items() if name != "HOME"}
    command = [sys.executable, "-P", "-m", "llm2ws", "say", "Hello.", "-o", "o.wav", "-q"]
    subprocess.run(command, cwd=folder, env=env, check=True)
    assert frames(folder / "o.wav")


def test_dot_env_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM2WS_SPEECH__LOCAL__ENCODING=alaw\n")
    assert "(alaw 8000 Hz)" in run(["say", "Hello.", "-o", "o.wav"], cwd=tmp_path).stderr


def test_a_bug_is_one_line_and_a_traceback_only_for_those_who_ask(tmp_path: Path) -> None:
    """A broken installation is the nearest thing to a bug that can be had from outside."""
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('boom')")
    path = os.pathsep.join([str(tmp_path), child_environment()["PYTHONPATH"]])
    done = run(["say", "x"], cwd=tmp_path, env={"PYTHONPATH": path})
    assert (done.code, len(done.stderr.splitlines())) == (1, 1)
    assert "a bug of llm2ws: RuntimeError in msgspec.py:1: please report it" in done.stderr
    shown = run(["say", "x"], cwd=tmp_path, env={"PYTHONPATH": path, "LLM2WS_DEBUG": "1"}, traceback_allowed=True)
    assert "Traceback" in shown.stderr
