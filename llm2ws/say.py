"""One turn on the command line: what is spoken, where the audio goes, what is shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import sys
import time
from collections import deque
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from .errors import ConfigError, Llm2wsError, SinkError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .audio import AudioFormat
    from .config import Settings, Speech
    from .sinks.device import Player
    from .sinks.raw import RawFile
    from .sinks.wav import WavFile
    from .sources.aside import Aside
    from .turn import Done, Said, Turn

__all__ = ["Asked", "decoded", "emit", "note", "say", "stdout_error"]

# By the end of a file's name: whether it has a header, and the encoding that the name promises.
_OUTPUTS = {"": (True, ""), ".wav": (True, ""), ".pcm": (False, ""), ".raw": (False, "")}
_OUTPUTS |= {".ulaw": (False, "mulaw"), ".mulaw": (False, "mulaw"), ".alaw": (False, "alaw")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    prompt: str
    llm: str
    speech: str
    voice: str | None
    output: str | None
    play: bool | None
    encoding: str | None
    rate: int | None
    policy: str | None
    as_json: bool
    quiet: bool
    verbose: bool
    config: str | None


async def say(asked: Asked) -> int:
    """Carry it out. Gives the exit code; raises what went wrong, once what was said before has been heard."""
    from . import config, service
    from .log import configure, turn_id
    from .speech.pacing import Pace

    flags: dict[tuple[str, ...], object] = {("text", "policy"): asked.policy} if asked.policy else {}
    if asked.verbose:
        flags[("log",)] = "info"
    settings, origins, notes = config.load(flags=flags, config=asked.config, folder=".")
    # What a person has to know is said in other ways; logs are for those who ask for them.
    configure(settings.log if ("log",) in origins else "critical", settings.log_format)
    name, entry = service.choose_speech(settings, asked.speech)
    entry = _as_asked(asked, entry)
    fmt = service.audio_format(entry)
    who, source = _source(asked, settings)
    report = _Report(asked)
    for line in (*notes, f"{who}, {_speaker(name, entry)} speaks ({fmt})"):
        report.note(line)
    report.event("start", speech=name, encoding=fmt.encoding, sample_rate_hz=fmt.sample_rate_hz)

    async with AsyncExitStack() as stack:
        stack.enter_context(turn_id(os.urandom(4).hex()))
        sinks: list[WavFile | RawFile | Player] = []
        if asked.output is not None:
            sinks.append(await stack.enter_async_context(_file(asked, fmt)))
        play = asked.output is None if asked.play is None else asked.play
        loading = asyncio.create_task(asyncio.to_thread(_load_player)) if play else None
        opened = service.open_speech(settings, name, entry, slow_consumer_s=float("inf"))
        conversation = await stack.enter_async_context(opened)
        if loading:
            from .sinks.device import Player

            await loading
            player = Player(fmt, device=settings.play.device, ahead_s=settings.play.ahead_s, on_played=report.played)
            report.player = await stack.enter_async_context(player)
            sinks.append(player)
        stack.enter_context(report)
        pace = Pace.LISTENER if report.audible else Pace.NONE
        failed = await _turn(conversation.turn(source, pace=pace), sinks, report)
        if report.player:
            await report.player.drain()
    report.saved()
    if failed:
        raise failed
    return 0


async def _turn(turn: Turn, sinks: list[WavFile | RawFile | Player], report: _Report) -> Llm2wsError | None:
    """Speak it. Gives its error, if it has one: what was said before it is still to be heard."""
    async with turn:
        report.turn = turn
        try:
            await _listen(turn, sinks, report)
        except asyncio.CancelledError:
            heard = await turn.interrupt(report.played_s)
            report.event("interrupted", heard=heard.heard, unheard=heard.unheard, error_s=heard.error_s)
            raise
        except SinkError:
            raise
        except Llm2wsError as exc:
            return exc
    return None


async def _listen(turn: Turn, sinks: list[WavFile | RawFile | Player], report: _Report) -> None:
    from .sources.aside import Aside
    from .turn import Audio, Done, Notice, NoticeKind, Said

    async with aclosing(turn.events()) as events:
        async for event in events:
            report.check()
            match event:
                case Audio(data=data):
                    for sink in sinks:
                        await sink.write(data)
                case Said():
                    report.said(event)
                case Notice():
                    report.event("notice", kind=event.kind, detail=event.detail)
                    if event.kind is not NoticeKind.SOURCE_FAILED:  # it is the error at the end
                        report.note(f"{event.kind}: {event.detail}")
                case Aside():
                    report.event("aside", kind=event.kind, data=event.data)
                case Done():
                    report.done(event)
                case _:
                    assert_never(event)


def _source(asked: Asked, settings: Settings) -> tuple[str, AsyncIterator[str | Aside]]:
    """Who answers, in words, and the answer."""
    from .service import answer, choose_llm
    from .sources.text import from_stream

    if asked.prompt == "-":
        if sys.stdin is None:
            raise ConfigError("standard input is closed", hint="give it some text, or a prompt")
        return "standard input is read", from_stream(_Stdin())
    if not asked.prompt.strip():
        raise ConfigError("the prompt is empty", hint="give a text, or - for standard input")
    name, llm = choose_llm(settings, asked.llm)
    who = f"{name} answers" + (" with the prompt itself" if llm.kind == "echo" else "")
    return who, answer(llm, decoded(asked.prompt))


def _load_player() -> None:
    from .sinks.device import preload

    preload()


def _as_asked(asked: Asked, entry: Speech) -> Speech:
    """The endpoint's settings with what flags, and the name of the output, say about the audio."""
    from msgspec.structs import replace

    given = {"voice": asked.voice, "encoding": asked.encoding, "sample_rate_hz": asked.rate}
    if asked.output not in (None, "-"):
        ending = Path(asked.output or "").suffix.lower()
        if ending not in _OUTPUTS:
            known = ", ".join(filter(None, _OUTPUTS))
            raise ConfigError(f"{asked.output}: no format is known by that ending", hint=f"give one of {known}")
        if promised := _OUTPUTS[ending][1]:
            if asked.encoding not in (None, promised):
                raise ConfigError(f"{asked.output}: not a name for {asked.encoding}", hint="leave --encoding out")
            given["encoding"] = promised
    return replace(entry, **{name: value for name, value in given.items() if value is not None})


def _file(asked: Asked, fmt: AudioFormat) -> WavFile | RawFile:
    from .sinks.raw import RawFile
    from .sinks.wav import WavFile

    if asked.output == "-":
        if asked.as_json:
            raise ConfigError("--json and -o - both want standard output", hint="write the audio to a file")
        if sys.stdout is None:
            raise SinkError("standard output is closed", hint="give it a file or a pipe")
        if sys.stdout.isatty():
            raise ConfigError("standard output is a terminal", hint="send the audio to a pipe, or name a file with -o")
        return WavFile(1, fmt, name="standard output")
    path = Path(asked.output or "")
    return WavFile(path, fmt) if _OUTPUTS[path.suffix.lower()][0] else RawFile(path)


def _speaker(name: str, entry: Speech) -> str:
    from .service import LOCAL

    voice = f" with {entry.voice}" if entry.voice else ""
    return ("the embedded endpoint" if entry.dialect == LOCAL else name) + voice


class _Stdin:
    """Standard input as it comes, without changing how others see it."""

    async def read(self, n: int, /) -> bytes:
        if stat.S_ISREG(os.fstat(0).st_mode):
            return await asyncio.to_thread(os.read, 0, n)
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        try:
            loop.add_reader(0, ready.set)
        except PermissionError:  # a device file, such as /dev/null, is always ready
            return os.read(0, n)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(0)
        return os.read(0, n)


class _Report:
    """What is shown while it speaks: words or events on stdout, the rest on stderr, with a live line on a terminal.

    Words are shown when they are heard, as far as that is known.
    """

    def __init__(self, asked: Asked) -> None:
        self.player: Player | None = None
        self.turn: Turn | None = None
        self._json = asked.as_json
        self._words = not (asked.as_json or asked.quiet or asked.output == "-")
        self._quiet = asked.quiet
        self._live = not (asked.quiet or asked.verbose) and sys.stderr is not None and sys.stderr.isatty()
        self._lines = (
            self._live and sys.stdout is not None and sys.stdout.isatty()
        )  # words share the terminal with the live line
        self._waiting: deque[tuple[asyncio.TimerHandle, str]] = deque()
        self._began_at = time.monotonic()
        self._tick: asyncio.TimerHandle | None = None
        self._shown = False
        self._broken: SinkError | None = None
        self._summary = ""

    def __enter__(self) -> None:
        self._refresh()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tick:
            self._tick.cancel()
        self._clear()
        for timer, _text in self._waiting:
            timer.cancel()
        if kind is None:
            self._say("".join(text for _timer, text in self._waiting))
            self._say("\n")
            if self._summary:
                self.note(self._summary)
            self.check()

    @property
    def audible(self) -> bool:
        return self.player is not None and self.player.audible

    @property
    def played_s(self) -> float | None:
        """Seconds of the turn that were heard; None where nobody listens."""
        return self.player.played_s if self.player and self.audible else None

    def played(self, position_s: float) -> None:
        if self.turn:
            self.turn.played(position_s)

    def check(self) -> None:
        """Raises SinkError when nobody reads standard output any more."""
        if self._broken:
            raise self._broken

    def said(self, said: Said) -> None:
        self.event("said", text=said.text, span=said.span, at_s=said.at_s)
        played_s = self.played_s
        wait_s = 0.0 if played_s is None else said.at_s - played_s
        if wait_s <= 0 and not self._waiting:
            self._say(said.text)
        else:
            self._waiting.append((asyncio.get_running_loop().call_later(wait_s, self._say_next), said.text))

    def done(self, done: Done) -> None:
        from msgspec import to_builtins

        stats = done.stats
        self.event("done", outcome=done.outcome, stats=to_builtins(stats))
        if done.outcome != "done":
            return
        if not stats.source_chars:
            self.note("there was no text")
        elif not stats.sent_chars:
            self.note("there was nothing in the text that can be spoken")
        if self._live and stats.first_audio_s is not None:
            times = ("first_token", "first_fragment", "connected", "first_speak", "first_audio", "last_token", "done")
            known = ((name, getattr(stats, f"{name}_s")) for name in times)
            spent = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in known if value is not None)
            self._summary = f"{stats.audio_s:.1f} s of audio; after so many seconds: {spent}"

    def saved(self) -> None:
        if self.player and self.player.saved_to:
            self.note(f"nothing here can play sound; it is in {self.player.saved_to}")

    def event(self, event: str, **fields: object) -> None:
        if self._json:
            try:
                emit({"event": event, **fields})
            except OSError as exc:
                self._broken = self._broken or stdout_error(exc)

    def note(self, message: str) -> None:
        if not self._quiet:
            self._clear()
            note(message)

    def _say_next(self) -> None:
        self._say(self._waiting.popleft()[1])

    def _say(self, text: str) -> None:
        if not self._words or sys.stdout is None:
            return
        if self._lines:
            self._clear()
            text = text.strip() and "".join(c if c.isprintable() else " " for c in text.strip()) + "\n"
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as exc:
            self._broken = self._broken or stdout_error(exc)

    def _refresh(self) -> None:
        if self._live:
            buffered = f", {self.player.queued_s:.1f} s buffered" if self.player and self.audible else ""
            made = f", {self.turn.stats.audio_s:.1f} s of audio" if self.turn else ""
            _tell(f"\r\x1b[K{time.monotonic() - self._began_at:.1f} s{made}{buffered} ")
            self._shown = True
            self._tick = asyncio.get_running_loop().call_later(0.2, self._refresh)

    def _clear(self) -> None:
        if self._shown:
            _tell("\r\x1b[K")
            self._shown = False


# --- standard streams -------------------------------------------------------------------------------------------------------


def note(message: str) -> None:
    """Tell the person at the terminal."""
    _tell(f"llm2ws: {message}\n")


def _tell(text: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody is left to be told
            sys.stderr.write(text)
            sys.stderr.flush()


def emit(event: dict[str, object]) -> None:
    """Write one line of JSON to standard output."""
    if sys.stdout is not None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def stdout_error(exc: OSError) -> SinkError:
    """What a failed write to standard output means. Nothing more can be written there afterwards."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try again when it ends, and complain
    if isinstance(exc, BrokenPipeError):
        return SinkError("standard output: its reader has gone", hint="nothing more can be written")
    return SinkError(f"standard output: {(exc.strerror or 'failed').lower()}", hint="look at where it goes")


def decoded(argument: str) -> str:
    """An argument of this process as text: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(argument).decode("utf-8", "replace")
