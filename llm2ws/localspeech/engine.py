"""The embedded speech engine: espeak-ng in a child process, which turns texts into audio."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import signal
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ..audio import AudioFormat, Encoding, alaw, mulaw
from ..errors import ConfigError, LocalProtocolError, SpeechError
from .voices import EspeakVoice, choose_voice

__all__ = ["AudioStream", "Engine", "SpokenWord", "UnspeakableText"]

_log = logging.getLogger(__name__)

# The frames are described in worker.py. This module must not import it, because espeak-ng's licence is another: see there.
_WORKER = Path(__file__).with_name("worker.py")
_HEADER = struct.Struct("<BII")
_WORD = struct.Struct("<III")

_AHEAD_S = 2.0  # the next slice is asked for when less audio than this waits to be taken
_WORDS_A_MINUTE, _SLOWEST, _FASTEST = 175, 80, 450  # espeak-ng's own default and bounds
_START_S, _STOP_S = 10.0, 1.0
_INSTALL = "pip install 'llm2ws[local]', or your system's espeak-ng"
_G711 = {Encoding.MULAW: mulaw, Encoding.ALAW: alaw}


# How others end a process, which says nothing about the text in it: an operator, the system when memory is short.
_FROM_OUTSIDE = [-getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class UnspeakableText(SpeechError):
    """The engine's process died of this text, and would again."""


class SpokenWord(NamedTuple):
    """Where a word is in the text (in characters), and when it begins in the audio (in seconds)."""

    start: int
    length: int
    at_s: float


class _Buffer:
    """The audio and the words of one text, between the task that reads them from the process and the task that takes them."""

    def __init__(self, fmt: AudioFormat, send: Callable[[str], None]) -> None:
        self.words: list[SpokenWord] = []
        self.over = False  # whether nothing more comes
        self.error: SpeechError | None = None  # why the text ended early
        self._linear = AudioFormat(Encoding.LINEAR16, fmt.sample_rate_hz)
        self._send = send  # sends the process a frame of this kind
        self._chunks: deque[bytes] = deque()
        self._waiting_s = 0.0
        self._paused = False
        self._changed = asyncio.Event()

    def receive(self, kind: str, payload: bytes) -> None:
        """Take a frame of the process."""
        match kind:
            case "a":
                self._chunks.append(payload)
                self._waiting_s += self._linear.seconds(len(payload))
                self._changed.set()
            case "w":
                start, length, at_ms = _WORD.unpack(payload)
                self.words.append(SpokenWord(start, length, at_ms / 1000))
            case "s":
                self._paused = True
                self._ask()
            case "e":
                self.finish()

    def finish(self, error: SpeechError | None = None) -> None:
        """End the text, after the audio that came, with an error or without."""
        self.over, self._paused, self.error = True, False, error
        self._changed.set()

    def drop(self) -> None:
        """End the text at once, without the audio that was not taken."""
        self._chunks.clear()
        self.finish()

    async def take(self) -> bytes | None:
        """Return the next audio, linear16, or None after the last. Raises the error that ended the text."""
        while not self._chunks:
            if self.error:
                raise self.error
            if self.over:
                return None
            self._changed.clear()
            await self._changed.wait()
        chunk = self._chunks.popleft()
        self._waiting_s -= self._linear.seconds(len(chunk))
        self._ask()
        return chunk

    def _ask(self) -> None:
        if self._paused and self._waiting_s < _AHEAD_S:
            self._paused = False
            self._send("g")


class AudioStream:
    """The audio of one text, an asynchronous iterator of bytes that hold whole samples of `format`.

    Leaving the `with` block, or calling `cancel()`, stops the speech within a word: no audio follows. Iterating raises
    SpeechError when the engine's process died with this text in it. Audio is rendered as it is taken, at most a few
    seconds ahead.
    """

    def __init__(self, buffer: _Buffer, fmt: AudioFormat, forget: Callable[[], None]) -> None:
        self.format = fmt
        self._buffer = buffer
        self._forget = forget

    @property
    def words(self) -> Sequence[SpokenWord]:
        """The words of the audio rendered so far."""
        return self._buffer.words

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._buffer.take()
        if chunk is None:
            raise StopAsyncIteration
        encode = _G711.get(self.format.encoding)
        return encode(chunk) if encode else chunk

    def cancel(self) -> None:
        """Stop, and drop the audio that was not taken. May be called at any time, and again."""
        self._forget()
        self._buffer.drop()


class Engine:
    """Speaks texts, many at a time, in a child process that is replaced when it dies.

    A text that was in the process when it died fails with SpeechError; the text of which it died, with UnspeakableText.
    `crashes` deaths of another cause within `crash_window_s` seconds are a crash loop: no other process is started, and `say`
    raises SpeechError, until the first of them is that long ago.
    """

    def __init__(self, *, crashes: int = 5, crash_window_s: float = 30.0) -> None:
        self.version = ""  # of espeak-ng
        self._voices: Mapping[str, str] = {}
        self._variants: frozenset[str] = frozenset()
        self._crash_window_s = crash_window_s
        self._deaths: deque[float] = deque(maxlen=crashes)
        self._down_until: float | None = None
        self._process: asyncio.subprocess.Process | None = None  # None while no process takes texts
        self._buffers: dict[int, _Buffer] = {}  # one for each text that is not over, by its number
        self._unsent: list[tuple[int, bytes]] = []  # texts that were given while there was no process
        self._rendering: int | None = None  # the text whose slice is in the library
        self._count = 0
        self._running = False
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start the process. Raises ConfigError when a part is not installed, SpeechError when it does not start."""
        for module in ("numpy", "soxr"):
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"the embedded speech endpoint needs {module}", hint="pip install 'llm2ws[local]'")
        async with contextlib.AsyncExitStack() as stack:
            self._process = await self._start()
            self._running = True
            stack.callback(self._close)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(group.create_task(self._supervise(self._process)).cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def pid(self) -> int | None:
        """The process id of the child, None while there is none."""
        return self._process.pid if self._process else None

    @property
    def down_s(self) -> float | None:
        """Seconds until the next start after a crash loop, None while the engine runs or is being started."""
        return None if self._down_until is None else max(0.0, self._down_until - asyncio.get_running_loop().time())

    def voice(self, model: str) -> EspeakVoice | None:
        """Return the voice for a Deepgram model, a language code or the name of an espeak-ng voice, None when there is none."""
        return choose_voice(model, self._voices, self._variants)

    def say(self, text: str, *, voice: EspeakVoice, fmt: AudioFormat, speed: float = 1.0) -> AudioStream:
        """Speak a text and return its audio. A text without a word, such as only blanks and full stops, has no audio.

        `speed` is a multiple of the voice's usual rate. Raises SpeechError when the engine is in a crash loop.
        """
        if not self._running:
            raise LocalProtocolError("say() on a speech engine that is not running", hint="call it within `async with`")
        if (wait_s := self.down_s) is not None:
            raise SpeechError(
                f"the speech engine crashed {self._deaths.maxlen} times in {self._crash_window_s:g} s",
                hint=f"it is started again in {wait_s:.0f} s",
            )
        self._count = (self._count + 1) & 0xFFFF_FFFF
        number = self._count
        buffer = self._buffers[number] = _Buffer(fmt, partial(self._send, number))
        wpm = min(max(round(_WORDS_A_MINUTE * speed), _SLOWEST), _FASTEST)
        request = {"text": text, "voice": voice.name, "wpm": wpm, "pitch": voice.pitch, "rate_hz": fmt.sample_rate_hz}
        payload = json.dumps(request).encode()
        if self._process:
            self._send(number, "t", payload)
        else:
            self._unsent.append((number, payload))
        return AudioStream(buffer, fmt, partial(self._forget, number))

    def _send(self, number: int, kind: str, payload: bytes = b"") -> None:
        if self._process and self._process.stdin:
            self._process.stdin.write(_HEADER.pack(ord(kind), number, len(payload)) + payload)

    def _forget(self, number: int) -> None:
        if self._buffers.pop(number, None):
            self._send(number, "c")

    def _fail(self, numbers: Sequence[int], why: str) -> None:
        for number in numbers:
            if buffer := self._buffers.pop(number, None):
                buffer.finish(SpeechError(why, hint="say the text again"))

    def _close(self) -> None:
        self._running = False
        self._fail(list(self._buffers), "the speech engine was stopped")

    async def _supervise(self, process: asyncio.subprocess.Process | None) -> None:
        """Read from the process until it dies, then start another, for ever."""
        while True:
            died_of_text = False
            if process:
                try:
                    await self._read(process)
                finally:
                    self._process = None
                    lost = list(self._buffers)  # texts that are given from now on go to the next process
                    await _stop(process)
                ended = f"the speech engine's process ended ({_exit_reason(process.returncode)})"
                died_of_text = self._refuse_rendered(process.returncode, ended)
                self._fail(lost, ended)
                _log.warning("%s; starting another", ended)
            if not died_of_text:
                await self._sit_out_crash_loop()
            try:
                process = await self._start()
            except (ConfigError, SpeechError) as error:
                process = None
                self._fail(list(self._buffers), str(error))
                _log.error("%s", error)
                continue
            self._process = process
            unsent, self._unsent = self._unsent, []
            for number, payload in unsent:
                if number in self._buffers:
                    self._send(number, "t", payload)

    def _refuse_rendered(self, returncode: int | None, ended: str) -> bool:
        """Fail the text of which the process died, if it died of one. Return whether it did."""
        number, self._rendering = self._rendering, None
        if number is None or returncode in _FROM_OUTSIDE:
            return False
        if buffer := self._buffers.pop(number, None):  # Else it was cancelled meanwhile.
            buffer.finish(UnspeakableText(f"{ended} over this text", hint="leave it out, or see [text.replace]"))
        return True

    async def _sit_out_crash_loop(self) -> None:
        """Count a death of the process, and wait if there were too many within the window."""
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        ends = self._deaths[0] + self._crash_window_s
        if len(self._deaths) == self._deaths.maxlen and now < ends:
            self._down_until = ends
            what = f"the speech engine crashed {len(self._deaths)} times in {self._crash_window_s:g} s"
            self._fail(list(self._buffers), what)
            _log.error("%s; it is started again in %.0f s", what, ends - now)
            await asyncio.sleep(ends - now)
            self._down_until = None

    async def _start(self) -> asyncio.subprocess.Process:
        """Start a process that takes texts. Raises ConfigError when it has no library, SpeechError when it does not start."""
        try:
            process = await asyncio.create_subprocess_exec(
                *_command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ},  # Windows needs it
                start_new_session=True,  # Ctrl+C in the terminal is for the parent to handle (uvloop knows no process_group)
            )
        except OSError as error:
            raise SpeechError(f"the speech engine's process could not be started ({error.strerror})") from error
        try:
            async with asyncio.timeout(_START_S):
                _, _, payload = await _read_frame(process)
            hello = json.loads(payload)
            if "error" in hello:
                raise ConfigError(f"espeak-ng could not be loaded ({hello['error'] or 'not found'})", hint=_INSTALL)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            await _stop(process)
            raise SpeechError(f"the speech engine did not start ({_exit_reason(process.returncode)})") from error
        except BaseException:
            await _stop(process)
            raise
        self.version, self._voices, self._variants = hello["version"], hello["voices"], frozenset(hello["variants"])
        return process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the process has died
            while True:
                kind, number, payload = await _read_frame(process)
                if kind in "bse":
                    self._rendering = number if kind == "b" else None
                if buffer := self._buffers.get(number):  # else the text was cancelled
                    buffer.receive(kind, payload)
                    if buffer.over:
                        del self._buffers[number]


def _command() -> list[str]:
    """Return the worker's command line. It is without the user's site, so that only what is named here is imported."""
    wheel = importlib.util.find_spec("espeakng_loader")
    wheel_folder = str(Path(wheel.origin).parent) if wheel and wheel.origin else ""
    parts = (importlib.util.find_spec(name) for name in ("numpy", "soxr"))
    folders = dict.fromkeys(str(Path(part.origin).parents[1]) for part in parts if part and part.origin)
    return [sys.executable, "-I", "-S", "-B", str(_WORKER), wheel_folder, *folders]


async def _read_frame(process: asyncio.subprocess.Process) -> tuple[str, int, bytes]:
    """Return the next frame's (kind, id, payload). Raises IncompleteReadError when the process has closed its output."""
    assert process.stdout is not None
    kind, number, length = _HEADER.unpack(await process.stdout.readexactly(_HEADER.size))
    return chr(kind), number, await process.stdout.readexactly(length)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the process by the end of its input, and if it does not end, kill it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_S):
            await _ended(process)
    except TimeoutError:
        process.kill()
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(1 << 16):  # newer Pythons end wait() only when the pipe has been read
        pass
    await process.wait()


def _exit_reason(returncode: int | None) -> str:
    if returncode is None:
        return "no answer"
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
