"""The command line: what is asked for, the call, what is shown, the exit code."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import io
import json
import math
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from ..address import split_host_port
from ..errors import ConfigError, Llm2wsError, SinkError, SlowConsumerError, SourceError, SpeechError
from .report import Stdout, decoded, emit, note, show
from .say import Asked, say

if TYPE_CHECKING:
    from ..text.cleaner import Cleaner
    from ..text.fragmenter import Fragmenter
    from ..text.fragments import Fragment

__all__ = ["main"]

EXIT_CODES = """\b
Exit codes:
  0    done
  1    a bug of llm2ws
  2    usage or settings
  3    the LLM or another source of text; what it gave has been spoken
  4    the speech endpoint
  5    the output: a file, a pipe whose reader has gone, the sound device
  130  interrupted: Ctrl+C or SIGTERM; a second one does not wait"""
_BUG, _USAGE, _INTERRUPTED = 1, 2, 130
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_CODES = {ConfigError: _USAGE, SourceError: 3, SpeechError: 4, SlowConsumerError: 4, SinkError: 5}

_LISTEN = "127.0.0.1:8766"
_MAX_RATE = 768_000  # more than any endpoint or sound device has
_GRACE_S = 2.0  # for the speech server to finish what has been asked of it


def main(args: list[str] | None = None) -> int:
    """Run the command with these arguments, the process's own by default. Gives the exit code."""
    _keep_standard_streams()
    try:
        code = command.main(args, prog_name="llm2ws", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BaseException as exc:  # noqa: BLE001 - the end of the line: all errors become one line and a code
        return _failed(_lone(exc))


def _keep_standard_streams() -> None:
    """Those that are closed stay so, and no file gets their numbers, to which libraries written in C would write."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if isinstance(out := sys.stdout, io.TextIOWrapper):
        encoding, buffering = out.encoding, out.line_buffering
        # "replace": a terminal without UTF-8.
        sys.stdout = Stdout(out.detach(), encoding=encoding, errors="replace", line_buffering=buffering)


def _lone(exc: BaseException) -> BaseException:
    """The error that matters: that of a group of one, else the first of ours."""
    while isinstance(exc, BaseExceptionGroup):
        exc = next((one for one in exc.exceptions if isinstance(one, Llm2wsError)), exc.exceptions[0])
    return exc


def _failed(exc: BaseException) -> int:
    """Say what was wrong. Gives the exit code."""
    if os.environ.get("LLM2WS_DEBUG"):
        import traceback

        traceback.print_exception(exc)
    match exc:
        case click.exceptions.NoArgsIsHelpError():
            show(exc.format_message() + "\n")
            return _USAGE
        case click.ClickException():
            message = " ".join(exc.format_message().split())
            path = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "llm2ws"
            end = "" if message.endswith((".", "?")) else "."
            return _complain(f"{message}{end} See {path} --help", _USAGE)
        case SystemExit(code=int(code)):
            return code
        case Llm2wsError() if code := _code(exc):
            return _complain(str(exc), code)
        case _:
            hint = "please report it with the output of LLM2WS_DEBUG=1 and the same command"
            return _complain(f"a bug of llm2ws: {type(exc).__name__} in {_place(exc)}: {hint}", _BUG)


def _code(error: Llm2wsError) -> int:
    """Of what may happen; 0 for a bug."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), 0)


def _place(exc: BaseException) -> str:
    trace = exc.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "an unknown place"


def _complain(message: str, code: int) -> int:
    note(message)
    return code


def _run(
    work: Callable[[], Coroutine[object, object, int]], *, fast: bool = False, taken: Callable[[], bool] = lambda: False
) -> int:
    """Run until it ends, or until the first Ctrl+C or SIGTERM has been dealt with; the second does not wait.

    `taken`: asked at each Ctrl+C whether the work has a use for it.
    """
    interrupted = False

    async def run() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt(number: int) -> None:
            nonlocal interrupted
            if number == signal.SIGINT and taken():
                return
            interrupted = True
            task.cancel()
            signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)  # the second may follow at once
            for number in _INTERRUPTS:
                loop.remove_signal_handler(number)
                signal.signal(number, lambda *_: os._exit(_INTERRUPTED))
                atexit.register(signal.signal, number, signal.SIG_IGN)  # one more would be the exit code
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)

        for number in _INTERRUPTS:
            loop.add_signal_handler(number, interrupt, number)
        try:
            return await work()
        except asyncio.CancelledError:
            if not interrupted:
                raise
            return _INTERRUPTED

    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if fast:
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run())


# --- the commands -----------------------------------------------------------------------------------------------------------


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's callback
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"llm2ws {version('llm2ws')}")
        except PackageNotFoundError:
            print("llm2ws, run from a checkout")
        ctx.exit()


@click.group(name="llm2ws", epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def command() -> None:
    """LLM stream in, speech out: speaks text while it is being written."""


class _Number(click.FloatRange):
    """One that can be reckoned with."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number that can be used.", param, ctx)
        return number


_config = click.option("--config", metavar="FILE", help="Settings, instead of the usual files.")
_policy = click.option(
    "--policy", type=click.Choice(["token", "word", "clause-first", "sentence"]), help="How far text is cut."
)


@command.command("say", epilog=EXIT_CODES)
@click.argument("prompt", required=False)
@click.option("--chat", is_flag=True, help="Go on with a question a line; Ctrl+C stops an answer, Ctrl+D ends.")
@click.option(
    "--llm", default="", metavar="NAME", help="What answers: a name in the settings, openai, responses, anthropic, echo."
)
@click.option("--model", metavar="NAME", help="The model, as its server calls it.")
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option("--temperature", type=_Number(min=0), metavar="N", help="How freely the model writes.")
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="The longest answer.")
@click.option(
    "--speech", default="", metavar="NAME|URL", help="What speaks: a name, a dialect, a .toml of one, a ws:// address."
)
@click.option("--voice", metavar="NAME", help="The voice, in the endpoint's words.")
@click.option("-o", "--output", metavar="FILE", help="Write the audio: .wav; .pcm, .raw, .ulaw, .alaw bare; - a WAV to stdout.")
@click.option("--play/--no-play", default=None, help="Play it. Default: yes without -o, no with it.")
@click.option("--encoding", type=click.Choice(["linear16", "mulaw", "alaw"]), help="How a sample is written.")
@click.option("--rate", type=click.IntRange(1, _MAX_RATE), metavar="HZ", help="Samples a second.")
@_policy
@click.option("--json", "as_json", is_flag=True, help="What happens on stdout, a JSON object a line, instead of the words.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens on the way.")
@_config
def _say(**options: object) -> int:
    """Speak the answer to PROMPT while it is being written; with -, speak standard input as it comes."""
    asked = Asked(**options)  # type: ignore[arg-type]  # click has checked them
    if asked.prompt is None and not asked.chat:
        raise click.UsageError("Missing argument 'PROMPT'.", click.get_current_context())
    try:
        if asked.chat:
            from .chat import Chat

            chat = Chat(asked)
            return _run(chat.run, taken=chat.interrupt)
        return _run(lambda: say(asked))
    except BaseException as exc:
        if asked.as_json and isinstance(error := _lone(exc), Llm2wsError):
            emit({"event": "error", "error": type(error).__name__, "what": error.what, "hint": error.hint})
        raise


@command.command("speech-server", epilog=EXIT_CODES)
@click.option("--listen", default=_LISTEN, show_default=True, metavar="HOST:PORT", help="Where; port 0 takes a free one.")
@click.option("--key-file", type=click.Path(dir_okay=False), metavar="FILE", help="A key that clients must present.")
@click.option("--insecure", is_flag=True, help="Serve other machines without a key.")
@click.option("--limits/--no-limits", default=False, help="Keep Deepgram's limits: 2,400 characters, 20 flushes a minute.")
@click.option("--max-connections", type=click.IntRange(min=1), metavar="N", help="Answer further ones with 429.")
@click.option("--first-byte-s", type=_Number(min=0), default=0.0, help="From Flush to the first audio, in seconds.")
@click.option("--pace", type=_Number(min=0, min_open=True), help="Multiple of real time. Default: as fast as it can.")
@click.option("--frame-ms", type=click.IntRange(20, 100), default=40, show_default=True, help="Audio in a message.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def speech_server(
    *,
    listen: str,
    key_file: str | None,
    insecure: bool,
    limits: bool,
    max_connections: int | None,
    first_byte_s: float,
    pace: float | None,
    frame_ms: int,
    verbose: bool,
) -> int:
    """Serve speech that needs no key and no network, in Deepgram's Speak v1 protocol."""
    from ..settings.keys import read_key
    from ..watch.log import configure

    configure("info" if verbose else "warning")
    host, port = split_host_port(listen, setting="--listen")
    key = read_key(key_file) if key_file else None

    async def serve() -> int:
        from ..localspeech.engine import Engine
        from ..localspeech.server import SpeechServer
        from ..server import notify
        from ..speech.dialects.deepgram_server import DEEPGRAM_LIMITS

        server = SpeechServer(
            engine := Engine(),
            host=host,
            port=port,
            key=key,
            insecure=insecure,
            limits=DEEPGRAM_LIMITS if limits else None,
            max_connections=max_connections,
            first_byte_s=first_byte_s,
            pace=pace,
            frame_ms=frame_ms,
        )
        async with engine, server:
            where = f"listening on {server.url} ({'with' if key else 'without'} a key)"
            note(where)
            notify.tell(READY=1)
            try:
                await notify.feed(lambda: where)
            except asyncio.CancelledError:
                notify.tell(STOPPING=1)
                await server.stop(grace_s=_GRACE_S)
                raise
        return 0

    code = _run(serve, fast=True)
    return 0 if code == _INTERRUPTED else code  # that is how a server ends


@command.command("serve", epilog=EXIT_CODES)
@click.option("--listen", metavar="HOST:PORT", help="Where; port 0 takes a free one. Default: 127.0.0.1:8765.")
@click.option("--insecure", is_flag=True, help="Serve other machines without client keys.")
@click.option(
    "--env-folder", type=click.Path(exists=True, file_okay=False), metavar="FOLDER", help="Read .env from this folder."
)
@click.option("-v", "--verbose", is_flag=True, help="Log what happens, and each turn.")
@_config
def serve_command(*, listen: str | None, insecure: bool, env_folder: str | None, verbose: bool, config: str | None) -> int:
    """Serve OpenAI's and Deepgram's protocols to other programs, until Ctrl+C or SIGTERM. SIGHUP reads the settings again."""
    from ..settings.fields import Settings
    from ..settings.loading import Loaded, load
    from ..watch.log import configure

    flags: dict[tuple[str, ...], object] = {}
    if listen is not None:
        flags["server", "listen"] = listen
    if insecure:
        flags["server", "insecure"] = True
    if verbose:
        flags[("log",)] = "info"

    def read() -> Loaded:
        loaded = load(flags=flags, config=config, folder=env_folder)
        # Where nothing is said of it, a daemon logs each turn: nobody watches it otherwise.
        level = loaded.settings.log if ("log",) in loaded.origins else "info"
        configure(level, loaded.settings.log_format, lazy=False)
        return loaded

    settings, _, notes = read()
    for line in notes:
        note(line)
    if env_folder is None and os.access(".env", os.R_OK):
        note(".env is not read here: --env-folder . reads it")

    async def work() -> int:
        from ..server.notify import passed_sockets
        from ..server.run import serve

        hangups: asyncio.Queue[Callable[[], Settings]] = asyncio.Queue(1)

        async def reloads() -> AsyncIterator[Callable[[], Settings]]:
            while True:
                yield await hangups.get()

        def hang_up() -> None:
            with contextlib.suppress(asyncio.QueueFull):
                hangups.put_nowait(lambda: read().settings)

        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)

        def started(url: str) -> None:
            # What was loaded stays: looking through it again and again would hold up all conversations at once.
            gc.freeze()
            note(f"listening on {url}")

        stop = asyncio.Event()
        serving = asyncio.create_task(
            serve(settings, shutdown=stop, reloads=reloads(), started=started, sockets=passed_sockets())
        )
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            stop.set()
            await serving
            raise
        return 0

    code = _run(work, fast=True)
    return 0 if code == _INTERRUPTED else code  # that is how a server ends


@command.command("check", epilog=EXIT_CODES)
@click.option("--all", "everything", is_flag=True, help="Settings that nobody set as well.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
@_config
def check_command(*, everything: bool, as_json: bool, config: str | None) -> int:
    """Show the settings and where each comes from, and try what they name: LLMs, speech endpoints, the loudspeaker.

    It costs nothing. The exit code is that of the first thing that cannot work.
    """
    from ..settings.loading import load
    from ..watch.log import configure
    from .check import check, show

    loaded = load(config=config, folder=".")
    configure(loaded.settings.log if ("log",) in loaded.origins else "critical", loaded.settings.log_format)
    for line in loaded.notes:
        note(line)

    async def work() -> int:
        checked = await check(loaded.settings)
        print(show(loaded, checked, everything=everything, as_json=as_json))
        return next((_code(one.error) for one in checked if one.error), 0)

    return _run(work)


@command.command()
@click.argument("text", required=False)
@click.option("-f", "--file", type=click.File("rb"), help="Read the text from a file.")
@click.option("--language", default="", help="Whose abbreviations are known, such as de.")
@_policy
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@_config
def explain(
    *, text: str | None, file: IO[bytes] | None, language: str, policy: str | None, as_json: bool, config: str | None
) -> int:
    """Show where TEXT is cut, and why, and what was waited for; without TEXT or with -, standard input."""
    from ..settings.loading import load
    from ..settings.text import cleaner, fragmenter
    from ..text.fragments import Policy

    flags: dict[tuple[str, ...], object] = {("text", "language"): language} if language else {}
    if policy:
        flags["text", "policy"] = policy
    settings = load(flags=flags, config=config, folder=".").settings.text
    if text is not None and file is not None:
        raise click.UsageError("TEXT and --file are two texts: give one of them.", click.get_current_context())
    if text is None or text == "-":
        if file is None and sys.stdin is None:
            raise ConfigError("standard input is closed", hint="give a text")
        text = (file or sys.stdin.buffer).read().decode("utf-8", "replace")
    cutter = fragmenter(settings, Policy(settings.policy or Policy.CLAUSE_FIRST))
    for cut, held in _cuts(decoded(text), cleaner(settings), cutter):
        if as_json:
            known = {
                "index": cut.index,
                "boundary": cut.boundary,
                "why": cut.why,
                "span": [cut.start, cut.end],
                "text": cut.text,
            }
            emit(known | {"held": [{"after": after, "why": why} for after, why in held]})
        else:
            print(f"{cut.index:3} {cut.boundary:9} {_quoted(cut.text)}  {cut.start}-{cut.end}: {cut.why}")
            for after, why in held:
                print(f"    held      after {_quoted(after)}: {why}")
    return 0


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _cuts(text: str, clean: Cleaner, cutter: Fragmenter) -> Iterator[tuple[Fragment, list[tuple[str, str]]]]:
    """Each fragment, and the places at which more had to be seen first: the text before them, and why."""
    held: list[tuple[str, str]] = []
    for token in re.finditer(r"\s*\S{1,6}|\s+", text):  # of the size in which models write
        for piece in clean.feed(token[0]):
            for fragment in cutter.feed(piece):
                yield fragment, held
                held = []
        for hold, why in (clean.holding, cutter.holding):
            if hold != "nothing" and (not held or held[-1][1] != why):
                held.append((text[max(0, token.end() - 20) : token.end()], why))
    for fragment in [fragment for piece in clean.finish() for fragment in cutter.feed(piece)] + cutter.finish():
        yield fragment, held
        held = []
