"""The command line: its commands, their options and arguments. What they do is in the modules beside this one."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import IO

import click

from ..address import split_host_port
from ..errors import ConfigError, Llm2wsError
from .exits import EXIT_CODES, INTERRUPTED, exit_code, report_error, single_error
from .report import decoded, emit, note
from .running import keep_standard_streams, run, run_server
from .say import SayOptions, say

__all__ = ["main"]

_LISTEN = "127.0.0.1:8766"
_MAX_RATE_HZ = 768_000  # more than any endpoint or sound device has
_GRACE_S = 2.0  # how long the speech server may finish what has been asked of it


def main(args: list[str] | None = None) -> int:
    """Run the command and return its exit code. `args`: None for the arguments of the process."""
    keep_standard_streams()
    try:
        code = command.main(args, prog_name="llm2ws", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BaseException as exc:  # noqa: BLE001 - the end of the line: all errors become one line and a code
        return report_error(single_error(exc))


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
    """A finite number."""

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
@click.option("--rate", type=click.IntRange(1, _MAX_RATE_HZ), metavar="HZ", help="Samples a second.")
@_policy
@click.option("--json", "as_json", is_flag=True, help="What happens on stdout, a JSON object a line, instead of the words.")
@click.option("-q", "--quiet", is_flag=True, help="Show errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens on the way.")
@_config
def _say(**options: object) -> int:
    """Speak the answer to PROMPT while it is being written; with -, speak standard input as it comes."""
    wanted = SayOptions(**options)  # type: ignore[arg-type]  # click has checked them
    if wanted.prompt is None and not wanted.chat:
        raise click.UsageError("Missing argument 'PROMPT'.", click.get_current_context())
    try:
        if wanted.chat:
            from .chat import Chat

            chat = Chat(wanted)
            return run(chat.run, takes_interrupt=chat.interrupt)
        return run(lambda: say(wanted))
    except BaseException as exc:
        if wanted.as_json and isinstance(error := single_error(exc), Llm2wsError):
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

    return run_server(serve)


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
    from ..watch.log import announce, configure

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

    def tell(line: str) -> None:
        if not announce(line):
            note(line)

    settings, _, notes = read()
    for line in notes:
        tell(line)
    if env_folder is None and os.access(".env", os.R_OK):
        tell(".env is not read here: --env-folder . reads it")

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
            tell(f"listening on {url}")

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

    return run_server(work)


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
        results = await check(loaded.settings)
        print(show(loaded, results, everything=everything, as_json=as_json))
        return next((exit_code(result.error) for result in results if result.error), 0)

    return run(work)


@command.command("explain")
@click.argument("text", required=False)
@click.option("-f", "--file", type=click.File("rb"), help="Read the text from a file.")
@click.option("--language", default="", help="Whose abbreviations are known, such as de.")
@_policy
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line.")
@_config
def explain_command(
    *, text: str | None, file: IO[bytes] | None, language: str, policy: str | None, as_json: bool, config: str | None
) -> int:
    """Show where TEXT is cut, and why, and what was waited for; without TEXT or with -, standard input."""
    from ..settings.loading import load
    from ..settings.text import cleaner, fragmenter
    from ..text.fragments import Policy
    from .explain import explain

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
    explain(decoded(text), cleaner(settings), cutter, as_json=as_json)
    return 0
