"""Logs: one line each on standard error, for people on a terminal, as entries of systemd's journal, as JSON elsewhere.

Modules log through the standard library. What is written here is llm2ws's own at the level that was asked for, and of other
libraries warnings only: at DEBUG they write headers with keys, and texts.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .journal import JournalHandler, is_journal

if TYPE_CHECKING:
    from structlog.types import Processor

__all__ = ["announce", "configure", "log_turn", "place_of", "printable", "turn_id"]

_turn: ContextVar[str] = ContextVar("turn", default="")


@contextlib.contextmanager
def turn_id(turn: str) -> Iterator[None]:
    """Give this id to every line that is logged within the block, and by tasks that are started there."""
    token = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(token)


def log_turn(logger: logging.Logger, fields: Mapping[str, object]) -> None:
    """Log a turn that is over, at level INFO: as text, name=value, without values that are zero; as JSON, each as a field."""
    facts = {
        name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items() if value is not None
    }
    text = " ".join(f"{name}={str(value).replace(' ', '_')}" for name, value in facts.items() if value)
    logger.info("turn %s", text, extra={"facts": facts}, stacklevel=2)


def printable(text: str) -> str:
    """Return a text in one line, with a space for each character that a terminal may act on.

    Models and servers are not trusted: a control character of theirs could forge a line, or change what is shown.
    """
    return "".join(c if c.isprintable() else " " for c in text)


def announce(message: str) -> bool:
    """Write a line that no log level holds back, such as where a daemon listens. Return False where the log is plain text."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Lazy) and handler.formatter.as_json:
            record = logging.LogRecord("llm2ws", logging.INFO, __file__, 0, message, (), None)
            _ours(record)
            handler.emit(record)
            return True
    return False


def place_of(exc: BaseException) -> str:
    """Return where an error was raised, as `file:line`; of a file of this package with its folder."""
    trace = exc.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    package, file = Path(__file__).parents[1], Path(trace.tb_frame.f_code.co_filename)
    shown = file.relative_to(package.parent) if file.is_relative_to(package) else file.name
    return f"{shown}:{trace.tb_lineno}"


def configure(
    level: str = "warning",
    format: str = "auto",  # noqa: A002 - as in the settings
    *,
    stream: IO[str] | None = None,
    lazy: bool = True,
) -> None:
    """Write logs to a stream.

    `stream`: None for standard error. `format`: "console", "json", or "auto": console on a terminal, the journal where standard
    error is connected to it, else JSON. `lazy`: structlog is loaded with the first line; a daemon loads it at once, since it
    cannot be loaded any more where no descriptors are left. May be called again: the last call counts.
    """
    out = sys.stderr if stream is None else stream
    is_terminal = out is not None and out.isatty()
    as_json = format == "json" or (format == "auto" and not is_terminal)
    handler = _handler(out, format)
    handler.setLevel(level.upper())  # some loggers have a level of their own
    handler.addFilter(_ours)
    formatter = _Lazy(as_json=as_json, colours=is_terminal)
    if not lazy:
        formatter.load()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, _Lazy)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("llm2ws").setLevel(level.upper())


def _handler(out: IO[str] | None, format: str) -> logging.Handler:  # noqa: A002 - as in the settings
    """Return the handler for a stream; None where standard error is closed: then nothing is logged."""
    if out is None:
        return logging.NullHandler()
    return JournalHandler(out) if format == "auto" and is_journal(out) else logging.StreamHandler(out)


def _ours(record: logging.LogRecord) -> bool:
    """Return whether a line may be written, and give it the turn's id.

    Other libraries are heard from WARNING on, even where a variable such as OPENAI_LOG lowered the level of their loggers.
    """
    record.turn = _turn.get()
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] == "llm2ws"


class _Lazy(logging.Formatter):
    """A formatter that loads structlog at the first line: its import takes longer than all that `say` needs to speak."""

    def __init__(self, *, as_json: bool, colours: bool) -> None:
        super().__init__()
        self.as_json = as_json
        self._colours = colours
        self._formatter: logging.Formatter | None = None

    def load(self) -> logging.Formatter:
        if self._formatter is None:
            self._formatter = _structlog_formatter(as_json=self.as_json, colours=self._colours)
        return self._formatter

    def format(self, record: logging.LogRecord) -> str:
        return self.load().format(record)


def _structlog_formatter(*, as_json: bool, colours: bool) -> logging.Formatter:
    from structlog import dev, processors, stdlib

    def turn(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        if value := getattr(event["_record"], "turn", ""):
            event["turn"] = value
        return event

    def facts(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        if found := getattr(event["_record"], "facts", None):
            event.update(found, event="turn")
        return event

    def harmless(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        event["event"] = printable(str(event["event"]))
        return event

    shared: list[Processor] = [
        turn,
        stdlib.add_log_level,
        stdlib.add_logger_name,
        processors.TimeStamper(fmt="iso", utc=as_json),
        stdlib.ProcessorFormatter.remove_processors_meta,
    ]
    if as_json:
        return stdlib.ProcessorFormatter(processors=[facts, *shared, processors.format_exc_info, processors.JSONRenderer()])
    # Plain: the pretty tracebacks show local variables, keys among them.
    console = dev.ConsoleRenderer(colors=colours, pad_event_to=0, exception_formatter=dev.plain_traceback)
    return stdlib.ProcessorFormatter(processors=[harmless, *shared, console])
