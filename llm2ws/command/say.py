"""One turn on the command line: what is spoken, and where the audio goes."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

from ..errors import ConfigError, Llm2wsError, SinkError
from ..watch.log import log_turn, turn_id
from .report import Report, decoded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..audio import AudioFormat
    from ..settings.fields import Settings, Speech
    from ..settings.llms import LlmClient
    from ..settings.loading import Loaded
    from ..sinks.device import Player
    from ..sinks.raw import RawFile
    from ..sinks.wav import WavFile
    from ..sources.aside import Aside
    from ..turn import Conversation, Done, Turn

__all__ = ["SayOptions", "Stage", "Stdin", "llm_client", "load_settings", "open_stage", "say", "speak"]

_log = logging.getLogger("llm2ws.turn")

# By the ending of a file's name, "" for standard output: whether the file has a header, and the encoding that it must have.
_OUTPUTS: dict[str, tuple[bool, str | None]] = {
    "": (True, None),
    ".wav": (True, None),
    ".pcm": (False, None),
    ".raw": (False, None),
}
_OUTPUTS |= {".ulaw": (False, "mulaw"), ".mulaw": (False, "mulaw"), ".alaw": (False, "alaw")}


@dataclass(frozen=True, slots=True, kw_only=True)
class SayOptions:
    """The options of `llm2ws say` as the command line gave them. `prompt` is None only where `chat` is set."""

    prompt: str | None
    chat: bool
    llm: str
    model: str | None
    system: str | None
    temperature: float | None
    max_tokens: int | None
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

    def report(self) -> Report:
        """Return a new report, for one turn."""
        return Report(as_json=self.as_json, words=self.output != "-", quiet=self.quiet, live=not self.verbose)


class Stage(NamedTuple):
    """What the turns of a command share. `file`: None where the audio goes to no file. `play`: it goes to the loudspeaker."""

    options: SayOptions
    settings: Settings
    conversation: Conversation
    format: AudioFormat
    file: WavFile | RawFile | None
    play: bool


async def say(options: SayOptions) -> int:
    """Carry out `llm2ws say`. Return the exit code; raise an error once the audio before it has been heard."""
    loaded = load_settings(options)
    who, source = _source(options, loaded.settings)
    with turn_id(os.urandom(4).hex()):
        async with open_stage(options, loaded, who) as stage:
            if failed := await speak(stage, source, options.report()):
                raise failed
    return 0


def load_settings(options: SayOptions) -> Loaded:
    """Load the settings, with the flags of the command line, and set up the logs."""
    from ..settings.loading import load
    from ..watch.log import configure

    flags: dict[tuple[str, ...], object] = {("text", "policy"): options.policy} if options.policy else {}
    if options.verbose:
        flags[("log",)] = "info"
    loaded = load(flags=flags, config=options.config, folder=".")
    # The report tells a person what is needed; logs are for those who ask for them.
    configure(loaded.settings.log if ("log",) in loaded.origins else "critical", loaded.settings.log_format)
    return loaded


@asynccontextmanager
async def open_stage(options: SayOptions, loaded: Loaded, who: str) -> AsyncIterator[Stage]:
    """Open all that a turn needs except the loudspeaker, and report who answers and who speaks."""
    from msgspec.structs import replace

    from ..service import open_speech
    from ..settings.speech import audio_format, choose_speech

    name, entry = choose_speech(loaded.settings, options.speech)
    has_header, encoding = _promised(options)
    given = {"voice": options.voice, "encoding": encoding or options.encoding, "sample_rate_hz": options.rate}
    entry = replace(entry, **{name: value for name, value in given.items() if value is not None})
    fmt = audio_format(entry)
    report = options.report()
    for line in (*loaded.notes, f"{who}, {_speaker(name, entry)} speaks ({fmt})"):
        report.note(line)
    report.event("start", speech=name, encoding=fmt.encoding, sample_rate_hz=fmt.sample_rate_hz)
    report.check()
    async with AsyncExitStack() as stack:
        play = options.output is None if options.play is None else options.play
        loading = asyncio.create_task(asyncio.to_thread(_load_player)) if play else None
        opened = open_speech(loaded.settings, name, entry, slow_consumer_s=float("inf"))
        conversation = await stack.enter_async_context(opened)
        file = None if options.output is None else _file(options, fmt, has_header=has_header)
        if file is not None:
            await stack.enter_async_context(file)  # last: what was there before is lost, and not to a mistake in the settings
        if loading:
            await loading
        yield Stage(options, loaded.settings, conversation, fmt, file, play)


async def speak(stage: Stage, source: AsyncIterator[str | Aside], report: Report) -> Llm2wsError | None:
    """Speak one turn, and wait until its audio has been heard. Return its error, None for none.

    Raises SinkError when there is nowhere for the audio to go.
    """
    from ..speech.utterance.pacing import Pace

    async with AsyncExitStack() as stack:
        sinks: list[WavFile | RawFile | Player] = [stage.file] if stage.file else []
        if stage.play:
            from ..sinks.device import Player

            play = stage.settings.play
            player = Player(stage.format, device=play.device, ahead_s=play.ahead_s, on_played=report.played)
            report.player = await stack.enter_async_context(player)
            sinks.append(player)
        stack.enter_context(report)
        pace = Pace.LISTENER if report.audible else Pace.NONE
        failed = await _turn(stage.conversation.turn(source, pace=pace, on_done=_log_turn), sinks, report)
    report.saved()
    return failed


def _log_turn(done: Done) -> None:
    log_turn(_log, {"outcome": done.outcome, **asdict(done.stats)})


async def _turn(turn: Turn, sinks: list[WavFile | RawFile | Player], report: Report) -> Llm2wsError | None:
    failed: Llm2wsError | None = None
    async with turn:
        report.turn = turn
        try:
            try:
                await _listen(turn, sinks, report)
            except SinkError:
                raise
            except Llm2wsError as exc:
                failed = exc
            if report.player:
                await report.player.drain()
        except asyncio.CancelledError:
            report.interrupted(await turn.interrupt(report.played_s))
            raise
        report.heard = turn.spoken.split(float("inf")).heard
    return failed


async def _listen(turn: Turn, sinks: list[WavFile | RawFile | Player], report: Report) -> None:
    from ..sources.aside import Aside
    from ..turn import Audio, Done, Notice, NoticeKind, Said

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
                    report.aside(event)
                case Done():
                    report.done(event)
                case _:
                    assert_never(event)


def _source(options: SayOptions, settings: Settings) -> tuple[str, AsyncIterator[str | Aside]]:
    """Return who answers, in words, and the answer."""
    from ..sources.failover import one_answer
    from ..sources.text import from_stream

    assert options.prompt is not None
    if options.prompt == "-":
        if sys.stdin is None:
            raise ConfigError("standard input is closed", hint="give it some text, or a prompt")
        return "standard input is read", from_stream(Stdin())
    if not options.prompt.strip():
        raise ConfigError("the prompt is empty", hint="give a text, or - for standard input")
    who, client = llm_client(options, settings)
    return who, one_answer(client, decoded(options.prompt))


def llm_client(options: SayOptions, settings: Settings) -> tuple[str, LlmClient]:
    """Return who answers, in words, and the client to ask, not entered yet. Raises ConfigError for flags it cannot take."""
    from msgspec.structs import replace

    from ..settings.llms import choose_llm
    from ..settings.llms import llm_client as client_of

    name, llm = choose_llm(settings, options.llm)
    flags = {
        "model": options.model,
        "system": options.system,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
    }
    given = {field: value for field, value in flags.items() if value is not None}
    if given and llm.kind == "echo":
        flag = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{flag}: no LLM is set that could take it", hint="set OPENAI_API_KEY, or give --llm a name")
    client = client_of(settings, replace(llm, **given))
    return f"{name} answers with {client.who}" if llm.kind == "echo" else f"{name} ({client.who}) answers", client


def _load_player() -> None:
    from ..sinks.device import preload

    preload()


def _promised(options: SayOptions) -> tuple[bool, str | None]:
    """Return what the name of the output promises: whether it has a header, and its encoding, None for any.

    Raises ConfigError for an ending that is not known.
    """
    ending = Path(options.output or "").suffix.lower()
    if ending not in _OUTPUTS:
        known = ", ".join(filter(None, _OUTPUTS))
        raise ConfigError(f"{options.output}: no format is known by that ending", hint=f"give one of {known}")
    has_header, encoding = _OUTPUTS[ending]
    if encoding and options.encoding not in (None, encoding):
        raise ConfigError(f"{options.output}: not a name for {options.encoding}", hint="leave --encoding out")
    return has_header, encoding


def _file(options: SayOptions, fmt: AudioFormat, *, has_header: bool) -> WavFile | RawFile:
    from ..sinks.raw import RawFile
    from ..sinks.wav import WavFile

    if options.output == "-":
        if options.as_json:
            raise ConfigError("--json and -o - both want standard output", hint="write the audio to a file")
        if sys.stdout is None:
            raise SinkError("standard output is closed", hint="give it a file or a pipe")
        if sys.stdout.isatty():
            raise ConfigError("standard output is a terminal", hint="send the audio to a pipe, or name a file with -o")
        return WavFile(1, fmt, name="standard output")
    path = Path(options.output or "")
    return WavFile(path, fmt) if has_header else RawFile(path)


def _speaker(name: str, entry: Speech) -> str:
    from ..settings.speech import LOCAL

    voice = f" with {entry.voice}" if entry.voice else ""
    return ("the embedded endpoint" if entry.dialect == LOCAL else name) + voice


class Stdin:
    """Standard input, read as it comes. Its blocking mode, which other processes may share, is left as it is."""

    async def read(self, n: int, /) -> bytes:
        """Return the next bytes, at most n of them; b"" at the end."""
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
