"""A sink for the loudspeaker: miniaudio, else a program on PATH that plays audio, else a file."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import shutil
import sys
import threading
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..audio import AudioFormat, Encoding, decode_alaw, decode_mulaw
from ..errors import ConfigError, LocalProtocolError, SinkError
from .wav import WavFile

__all__ = ["DEVICES", "Player", "preload"]

# Programs that play linear16 from their standard input, and their arguments.
_PROGRAMS = {
    "pacat": "--playback --raw --format=s16le --channels=1 --rate={rate} --latency-msec=100 --client-name=llm2ws",
    "aplay": "-q -t raw -f S16_LE -c 1 -r {rate} -",
    "pw-play": "--raw --format=s16 --channels=1 --rate={rate} -",
    "ffplay": "-nodisp -autoexit -loglevel quiet -fflags nobuffer -f s16le -ar {rate} -i -",
}
DEVICES = ("miniaudio", *_PROGRAMS, "null")

_PERIOD_MS = 40  # miniaudio asks for so much audio at a time,
_PERIODS = 3  # and keeps so many of these
_PROGRAM_DELAY_S = 0.2  # roughly, from what a program reads to what is heard
_FIRST_S = 3.0  # a program that ends sooner never played: no sound card, no sound server
_CLOSE_S = 2.0  # that a program may take to end after its last sound

_DECODE: dict[Encoding, Callable[[bytes], bytes]] = {
    Encoding.LINEAR16: bytes,
    Encoding.MULAW: decode_mulaw,
    Encoding.ALAW: decode_alaw,
}


def preload() -> None:
    """Load what playing needs. That takes a tenth of a second: call it in a thread, while something else is awaited."""
    with contextlib.suppress(ImportError):
        importlib.import_module("miniaudio")


class _Playback(Protocol):
    """One way to play audio. `queued_s`: seconds of audio that were written and not heard yet."""

    name: str

    @property
    def queued_s(self) -> float: ...

    async def write(self, pcm: bytes, ahead_s: float) -> None:
        """Write linear16, and wait while more than `ahead_s` is queued."""

    async def drain(self) -> None:
        """Wait until all that was written has been heard."""

    async def close(self) -> None:
        """Stop at once."""


class Player:
    """Plays audio as it is written. `write` waits while more than `ahead_s` seconds are queued.

    `device`: one of DEVICES, "" for the first that works. Where none does, the audio goes to a file in the current folder,
    which `saved_to` names. Leaving the `async with` block plays to the end; leaving it by an error stops at once. `on_played`
    is called with `played_s` whenever the sound device reports its position, which programs and files do not.
    """

    def __init__(
        self,
        format: AudioFormat,  # noqa: A002 - the word of every audio API
        *,
        device: str = "",
        ahead_s: float = 2.0,
        on_played: Callable[[float], None] | None = None,
    ) -> None:
        if device and device not in DEVICES:
            raise ConfigError(f"play.device {device!r} is not known", hint=f"give one of {', '.join(DEVICES)}")
        self._format = format
        self._linear = AudioFormat(Encoding.LINEAR16, format.sample_rate_hz)
        self._ahead_s = ahead_s
        self._on_played = on_played
        self._wanted = device
        self._untried = [device] if device else [name for name in DEVICES if name != "null"]
        self._written: deque[bytes] = deque()  # the first seconds, for the next device when one turns out not to work
        self._written_s = 0.0
        self._playback: _Playback | None = None

    async def __aenter__(self) -> Self:
        """Open the device. Raises ConfigError when a device that was named does not work."""
        self._playback = await self._next()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        assert self._playback is not None
        try:
            if kind is None:
                await self.drain()
        finally:
            await self._playback.close()

    @property
    def _started(self) -> _Playback:
        if self._playback is None:
            raise LocalProtocolError("this player was not started", hint="use it with `async with`")
        return self._playback

    async def drain(self) -> None:
        """Wait until all that was written has been heard."""
        await self._started.drain()

    @property
    def name(self) -> str:
        """The name of the device, the program or the file that takes the audio."""
        return self._started.name

    @property
    def audible(self) -> bool:
        """Whether the audio is played; else it goes to a file."""
        return not isinstance(self._playback, _Saved)

    @property
    def saved_to(self) -> str | None:
        """The file that the audio went to, None when it was played or there was none."""
        return self._playback.name or None if isinstance(self._playback, _Saved) else None

    @property
    def queued_s(self) -> float:
        """Seconds of audio that were written and not heard yet."""
        return 0.0 if self._playback is None else self._playback.queued_s

    @property
    def played_s(self) -> float:
        """Seconds of audio that have been heard: exact for a sound device, estimated for a program."""
        return max(0.0, self._written_s - self.queued_s)

    async def write(self, data: bytes) -> None:
        """Queue whole samples. Raises SinkError when nothing plays them any more."""
        playback = self._started
        pcm = _DECODE[self._format.encoding](data)
        seconds = self._linear.seconds(len(pcm))
        if self._written_s < _FIRST_S:
            self._written.append(pcm)
        self._written_s += seconds
        try:
            await playback.write(pcm, self._ahead_s)
        except _ProgramEnded as exc:
            await self._start_again(exc)

    async def _start_again(self, why: _ProgramEnded) -> None:
        assert self._playback is not None
        await self._playback.close()
        while True:
            if self._written_s > _FIRST_S:
                raise SinkError(f"{self.name} ended", hint="look at the sound device") from why
            self._playback = await self._next()
            try:
                for pcm in self._written:
                    await self._playback.write(pcm, self._ahead_s)
                return
            except _ProgramEnded as exc:
                await self._playback.close()
                why = exc

    async def _next(self) -> _Playback:
        while self._untried:
            name = self._untried.pop(0)
            if name in _PROGRAMS:
                if program := shutil.which(name):
                    with contextlib.suppress(OSError):  # a program that cannot be run here
                        return await _Program.start(name, program, self._linear)
            elif device := _device(name, self._linear, self._report):
                return device
        if self._wanted:
            hint = "pip install 'llm2ws[play]', and look at the sound device" if self._wanted == "miniaudio" else "look at PATH"
            raise ConfigError(f"play.device {self._wanted!r} does not work here", hint=hint)
        return _Saved(self._linear)

    def _report(self) -> None:
        if self._on_played is not None:
            self._on_played(self.played_s)


class _ProgramEnded(Exception):
    """Raised when a program ended by itself."""


class _Device:
    """A sound device, which takes audio in a thread of its own."""

    def __init__(self, name: str, fmt: AudioFormat, report: Callable[[], None]) -> None:
        """Open the device. Raises ImportError without miniaudio, and miniaudio's error without a sound device."""
        import miniaudio  # type: ignore[import-untyped]

        self.name = name
        self._fmt = fmt
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # held while `_queue` and `_in_device` are used
        self._queue = bytearray()
        self._in_device = deque([0] * _PERIODS, maxlen=_PERIODS)  # bytes of audio in each period that the device holds
        self._moved = asyncio.Event()
        self._device = miniaudio.PlaybackDevice(
            output_format=miniaudio.SampleFormat.SIGNED16,
            nchannels=1,
            sample_rate=fmt.sample_rate_hz,
            buffersize_msec=_PERIOD_MS,
            callback_periods=_PERIODS,
            backends=[miniaudio.Backend[backend] for backend in (["NULL"] if name == "null" else _backends())],
            app_name="llm2ws",
        )
        pull = self._pull()
        next(pull)
        self._device.start(pull)

    def _pull(self) -> Generator[bytes, int, None]:
        """Yield so many frames as the device asks for. This runs in the device's thread."""
        n_frames = yield b""
        while True:
            wanted = n_frames * 2
            with self._lock:
                taken = bytes(self._queue[:wanted])
                del self._queue[:wanted]
                self._in_device.append(len(taken))
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._on_pull)
            n_frames = yield taken.ljust(wanted, b"\0")

    def _on_pull(self) -> None:
        self._moved.set()
        self._report()

    @property
    def queued_s(self) -> float:
        with self._lock:
            return self._fmt.seconds(len(self._queue) + sum(self._in_device))

    async def write(self, pcm: bytes, ahead_s: float) -> None:
        with self._lock:
            self._queue += pcm
        await self._until(ahead_s)

    async def drain(self) -> None:
        await self._until(0.0)

    async def _until(self, queued_s: float) -> None:
        while self.queued_s > queued_s:
            self._moved.clear()
            await self._moved.wait()

    async def close(self) -> None:
        # In a thread: it waits for the device's, and some sound servers take their time.
        await asyncio.to_thread(self._device.close)


def _backends() -> list[str]:
    """Return miniaudio's backends for this system, the best first.

    ALSA is left out where there is no sound card, because it then fills the terminal with complaints.
    """
    if sys.platform != "linux":
        return ["WASAPI", "DSOUND", "WINMM", "COREAUDIO", "SNDIO", "AUDIO4", "OSS"]
    return ["PULSEAUDIO", "ALSA"] if Path("/dev/snd").is_dir() else ["PULSEAUDIO"]


def _device(name: str, fmt: AudioFormat, report: Callable[[], None]) -> _Device | None:
    """Open a device of miniaudio. Return None when miniaudio is not installed, or there is no sound device."""
    try:
        return _Device(name, fmt, report)
    except Exception as exc:
        if isinstance(exc, ImportError) or type(exc).__name__ == "MiniaudioError":
            return None
        raise


class _Program:
    """A program that plays its standard input. What has been heard is estimated from the clock."""

    def __init__(self, name: str, process: Process, fmt: AudioFormat) -> None:
        self.name = name
        self._process = process
        self._fmt = fmt
        self._ends_at = 0.0  # when all that was written will have been heard, in seconds of the monotonic clock

    @classmethod
    async def start(cls, name: str, program: str, fmt: AudioFormat) -> _Program:
        args = _PROGRAMS[name].format(rate=fmt.sample_rate_hz).split()
        process = await asyncio.create_subprocess_exec(
            program, *args, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        return cls(name, process, fmt)

    @property
    def queued_s(self) -> float:
        return max(0.0, self._ends_at - time.monotonic())

    async def write(self, pcm: bytes, ahead_s: float) -> None:
        assert self._process.stdin is not None
        if self._process.returncode is not None:
            raise _ProgramEnded
        self._ends_at = max(self._ends_at, time.monotonic() + _PROGRAM_DELAY_S) + self._fmt.seconds(len(pcm))
        try:
            self._process.stdin.write(pcm)
            await self._process.stdin.drain()
        except ConnectionError:
            raise _ProgramEnded from None
        await self._sleep(self.queued_s - ahead_s)

    async def drain(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.queued_s + _CLOSE_S):
                await self._process.wait()

    async def close(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until the program ends."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._process.wait()


class _Saved:
    """A WAV file named after the time of its first audio, for a machine that can play nothing."""

    queued_s = 0.0

    def __init__(self, fmt: AudioFormat) -> None:
        self.name = ""  # until there is audio
        self._fmt = fmt
        self._file: WavFile | None = None
        self._stack = AsyncExitStack()

    async def _open(self) -> WavFile:
        moment = time.strftime("%Y%m%d-%H%M%S")
        for count in range(100):
            path = f"./llm2ws-{moment}{f'-{count}' if count else ''}.wav"
            try:
                file = await self._stack.enter_async_context(WavFile(path, self._fmt, new=True))
            except SinkError as exc:
                if not isinstance(exc.__cause__, FileExistsError):
                    raise
            else:
                self.name = path
                return file
        raise SinkError(f"./llm2ws-{moment}.wav: there are a hundred of them", hint="name a file with -o")

    async def write(self, pcm: bytes, ahead_s: float) -> None:
        if self._file is None:
            self._file = await self._open()
        await self._file.write(pcm)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        await self._stack.aclose()
