"""The embedded speech engine: espeak-ng in a child process, seen as a function from text to audio."""

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
from .voices import Voice, choose_voice

__all__ = ["Engine", "Utterance", "Word"]

_log = logging.getLogger(__name__)

# The frames are described in worker.py, which this module must not import: see there.
_WORKER = Path(__file__).with_name("worker.py")
_HEADER = struct.Struct("<BII")
_WORD = struct.Struct("<III")

_AHEAD_S = 2.0  # the next slice is asked for when less than this waits to be taken
_WORDS_A_MINUTE, _SLOWEST, _FASTEST = 175, 80, 450  # espeak-ng's own default and bounds
_START_S, _STOP_S = 10.0, 1.0
_INSTALL = "pip install 'llm2ws[local]', or your system's espeak-ng"
_G711 = {Encoding.MULAW: mulaw, Encoding.ALAW: alaw}


class Word(NamedTuple):
    """Where a word is in the text (characters) and when it begins in the audio (seconds)."""

    start: int
    length: int
    at_s: float


class _Channel:
    """What the engine's process says about one text, between the task that reads it and the one that takes it."""

    def __init__(self, fmt: AudioFormat, send: Callable[[str], None]) -> None:
        self.words: list[Word] = []
        self.over = False
        self.error: SpeechError | None = None
        self._linear = AudioFormat(Encoding.LINEAR16, fmt.sample_rate_hz)
        self._send = send  # a frame of this kind to the process
        self._chunks: deque[bytes] = deque()
        self._waiting_s = 0.0
        self._paused = False
        self._changed = asyncio.Event()

    def receive(self, kind: str, payload: bytes) -> None:
        match kind:
            case "a":
                self._chunks.append(payload)
                self._waiting_s += self._linear.seconds(len(payload))
                self._changed.set()
            case "w":
                start, length, at_ms = _WORD.unpack(payload)
                self.words.append(Word(start, length, at_ms / 1000))
            case "s":
                self._paused = True
                self._ask()
            case "e":
                self.finish()

    def finish(self, error: SpeechError | None = None) -> None:
        self.over, self._paused, self.error = True, False, error
        self._changed.set()

    def drop(self) -> None:
        self._chunks.clear()
        self.finish()

    async def take(self) -> bytes | None:
        """The next audio, linear16; None after the last. Raises the error that ended the text."""
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


class Utterance:
    """One text being spoken: iterate over its audio, in whole samples of its format.

    Leave the `with` block, or call `cancel()`, to stop in mid-word: nothing comes after that. Iterating raises
    SpeechError when the engine's process died with this text in it. Audio is rendered as it is taken, at most a few
    seconds ahead.
    """

    def __init__(self, channel: _Channel, fmt: AudioFormat, forget: Callable[[], None]) -> None:
        self.format = fmt
        self._channel = channel
        self._forget = forget

    @property
    def words(self) -> Sequence[Word]:
        """The words of the audio rendered so far."""
        return self._channel.words

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._channel.take()
        if chunk is None:
            raise StopAsyncIteration
        encode = _G711.get(self.format.encoding)
        return encode(chunk) if encode else chunk

    def cancel(self) -> None:
        """Stop, and drop what has not been taken. May be called at any time, and again."""
        self._forget()
        self._channel.drop()


class Engine:
    """Speaks texts, many at a time, in a child process that is replaced when it dies.

    A text that was in the process when it died fails with SpeechError. `crashes` deaths within `crash_window_s` are a
    crash loop: no other process is started, and `say` raises SpeechError, until the first of them is that long ago.
    """

    def __init__(self, *, crashes: int = 5, crash_window_s: float = 30.0) -> None:
        self.version = ""  # of espeak-ng
        self._voices: Mapping[str, str] = {}
        self._variants: frozenset[str] = frozenset()
        self._crash_window_s = crash_window_s
        self._deaths: deque[float] = deque(maxlen=crashes)
        self._down_until: float | None = None
        self._process: asyncio.subprocess.Process | None = None  # None while there is none that takes texts
        self._channels: dict[int, _Channel] = {}  # of the texts that are not over
        self._unsent: list[tuple[int, bytes]] = []  # texts that came while there was no process
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
            stack.callback(self._shut)
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
        """The child process, None while there is none."""
        return self._process.pid if self._process else None

    @property
    def down_s(self) -> float | None:
        """Seconds until the next start after a crash loop; None: the engine is up, or about to be."""
        return None if self._down_until is None else max(0.0, self._down_until - asyncio.get_running_loop().time())

    def voice(self, model: str) -> Voice | None:
        """The voice for a Deepgram model, a language code or the name of an espeak-ng voice; None when there is none."""
        return choose_voice(model, self._voices, self._variants)

    def say(self, text: str, *, voice: Voice, fmt: AudioFormat, speed: float = 1.0) -> Utterance:
        """Speak `text`. A text without a word, such as only blanks and full stops, has no audio.

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
        channel = self._channels[number] = _Channel(fmt, partial(self._send, number))
        wpm = min(max(round(_WORDS_A_MINUTE * speed), _SLOWEST), _FASTEST)
        request = {"text": text, "voice": voice.name, "wpm": wpm, "pitch": voice.pitch, "rate_hz": fmt.sample_rate_hz}
        payload = json.dumps(request).encode()
        if self._process:
            self._send(number, "t", payload)
        else:
            self._unsent.append((number, payload))
        return Utterance(channel, fmt, partial(self._forget, number))

    def _send(self, number: int, kind: str, payload: bytes = b"") -> None:
        if self._process and self._process.stdin:
            self._process.stdin.write(_HEADER.pack(ord(kind), number, len(payload)) + payload)

    def _forget(self, number: int) -> None:
        if self._channels.pop(number, None):
            self._send(number, "c")

    def _fail(self, numbers: Sequence[int], why: str) -> None:
        for number in numbers:
            if channel := self._channels.pop(number, None):
                channel.finish(SpeechError(why, hint="say the text again"))

    def _shut(self) -> None:
        self._running = False
        self._fail(list(self._channels), "the speech engine was stopped")

    async def _supervise(self, process: asyncio.subprocess.Process | None) -> None:
        """Read from the process until it dies, then start another; for ever."""
        while True:
            if process:
                try:
                    await self._read(process)
                finally:
                    self._process = None
                    lost = list(self._channels)  # what is said from now on goes to the next process
                    await _stop(process)
                self._fail(lost, f"the speech engine's process ended ({_manner(process.returncode)})")
                _log.warning("the speech engine's process ended (%s); starting another", _manner(process.returncode))
            await self._sit_out_crash_loop()
            try:
                process = await self._start()
            except (ConfigError, SpeechError) as error:
                process = None
                self._fail(list(self._channels), str(error))
                _log.error("%s", error)
                continue
            self._process = process
            unsent, self._unsent = self._unsent, []
            for number, payload in unsent:
                if number in self._channels:
                    self._send(number, "t", payload)

    async def _sit_out_crash_loop(self) -> None:
        """Count a death, and wait if there have been too many."""
        now = asyncio.get_running_loop().time()
        self._deaths.append(now)
        ends = self._deaths[0] + self._crash_window_s
        if len(self._deaths) == self._deaths.maxlen and now < ends:
            self._down_until = ends
            what = f"the speech engine crashed {len(self._deaths)} times in {self._crash_window_s:g} s"
            self._fail(list(self._channels), what)
            _log.error("%s; it is started again in %.0f s", what, ends - now)
            await asyncio.sleep(ends - now)
            self._down_until = None

    async def _start(self) -> asyncio.subprocess.Process:
        """A process that takes texts. Raises ConfigError when it has no library, SpeechError when it does not come up."""
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
            raise SpeechError(f"the speech engine did not start ({_manner(process.returncode)})") from error
        except BaseException:
            await _stop(process)
            raise
        self.version, self._voices, self._variants = hello["version"], hello["voices"], frozenset(hello["variants"])
        return process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # it has died
            while True:
                kind, number, payload = await _read_frame(process)
                if channel := self._channels.get(number):  # else it was cancelled
                    channel.receive(kind, payload)
                    if channel.over:
                        del self._channels[number]


def _command() -> list[str]:
    """The worker's command line: without the user's site, so that what it imports is what is named here."""
    wheel = importlib.util.find_spec("espeakng_loader")
    wheel_folder = str(Path(wheel.origin).parent) if wheel and wheel.origin else ""
    parts = (importlib.util.find_spec(name) for name in ("numpy", "soxr"))
    folders = dict.fromkeys(str(Path(part.origin).parents[1]) for part in parts if part and part.origin)
    return [sys.executable, "-I", "-S", "-B", str(_WORKER), wheel_folder, *folders]


async def _read_frame(process: asyncio.subprocess.Process) -> tuple[str, int, bytes]:
    """(kind, id, payload). Raises IncompleteReadError when the process has closed its output."""
    assert process.stdout is not None
    kind, number, length = _HEADER.unpack(await process.stdout.readexactly(_HEADER.size))
    return chr(kind), number, await process.stdout.readexactly(length)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the process, by the end of its input, else by force."""
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


def _manner(returncode: int | None) -> str:
    if returncode is None:
        return "no answer"
    return signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
