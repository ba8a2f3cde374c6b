"""How a command ends: the exit code of an error, and the line that a person reads."""

from __future__ import annotations

import os
import traceback

import click

from ..errors import ConfigError, Llm2wsError, SinkError, SlowConsumerError, SourceError, SpeechError
from ..watch.log import place_of
from .report import note, show

__all__ = ["EXIT_CODES", "INTERRUPTED", "exit_code", "report_error", "single_error"]

# For the help of each command; \b keeps click from filling the lines.
EXIT_CODES = """\b
Exit codes:
  0    done
  1    a bug of llm2ws
  2    usage or settings
  3    the LLM or another source of text; what it gave has been spoken
  4    the speech endpoint
  5    the output: a file, a pipe whose reader has gone, the sound device
  130  interrupted: Ctrl+C or SIGTERM; a second one does not wait"""
_BUG, _USAGE, INTERRUPTED = 1, 2, 130
_CODES = {ConfigError: _USAGE, SourceError: 3, SpeechError: 4, SlowConsumerError: 4, SinkError: 5}


def exit_code(error: Llm2wsError) -> int:
    """Return the exit code for an error; 0 for a kind of error that no command should let through."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), 0)


def single_error(exc: BaseException) -> BaseException:
    """Return the error to report: of a group the first of this package, else the first; any other error as it is."""
    while isinstance(exc, BaseExceptionGroup):
        exc = next((inner for inner in exc.exceptions if isinstance(inner, Llm2wsError)), exc.exceptions[0])
    return exc


def report_error(exc: BaseException) -> int:
    """Write one line that says what was wrong to standard error. Return the exit code.

    With LLM2WS_DEBUG in the environment the traceback is written too.
    """
    if os.environ.get("LLM2WS_DEBUG"):
        traceback.print_exception(exc)
    match exc:
        case click.exceptions.NoArgsIsHelpError():
            show(exc.format_message() + "\n")
            return _USAGE
        case click.ClickException():
            message = " ".join(exc.format_message().split())
            path = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "llm2ws"
            end = "" if message.endswith((".", "?")) else "."
            note(f"{message}{end} See {path} --help")
            return _USAGE
        case SystemExit(code=int(code)):
            return code
        case Llm2wsError() if code := exit_code(exc):
            note(str(exc))
            return code
        case _:
            hint = "please report it with the output of LLM2WS_DEBUG=1 and the same command"
            note(f"a bug of llm2ws: {type(exc).__name__} in {place_of(exc)}: {hint}")
            return _BUG
