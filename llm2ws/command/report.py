"""What a command shows while it speaks: words or events on standard output, everything else on standard error."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import SinkError
from ..watch.log import printable

if TYPE_CHECKING:
    from ..sinks.device import Player
    from ..sources.aside import Aside
    from ..speech.utterance.heard import Heard
    from ..turn import Done, Said, Turn

__all__ = ["Report", "Stdout", "decoded", "emit", "note", "show"]

# Reasons for which a model stops that a person should know, by their names in Chat Completions.
_STOPPED = {
    "length": "the answer reached its longest: raise max_tokens for more",
    "content_filter": "the answer was stopped by the provider's filter: ask differently",
    "refusal": "the model refused to answer: ask differently",
    "tool_call": "the model wants to call a tool, which is not spoken: --json shows it",
}
# Why it stops where nothing is amiss; None: its server does not say.
_USUAL = ("None", "function_call", "stop", "tool_calls")


class Report:
    """What is shown of one turn, inside its `with` block.

    Words are shown when they are heard, as far as that is known. `as_json`: events go to standard output instead. `words`:
    words may go there. `quiet`: only errors are shown. `live`: on a terminal a line shows how far the turn is.
    """

    def __init__(self, *, as_json: bool, words: bool, quiet: bool, live: bool) -> None:
        self.player: Player | None = None
        self.turn: Turn | None = None
        self.heard = ""  # the part of the model's text that was heard, once the turn is over
        self._json = as_json
        self._words = words and not as_json and not quiet
        self._quiet = quiet
        self._live = live and not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._lines = (
            self._live and sys.stdout is not None and sys.stdout.isatty()
        )  # words share the terminal with the live line
        self._waiting: deque[tuple[asyncio.TimerHandle, str]] = deque()
        self._began_at = time.monotonic()
        self._tick: asyncio.TimerHandle | None = None
        self._shown = False
        self._broken: SinkError | None = None
        self._summary = ""
        self._stopped: dict[str, None] = {}  # reasons why the model stopped, each once

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
        """Whether somebody listens."""
        return self.player is not None and self.player.audible

    @property
    def played_s(self) -> float | None:
        """Seconds of the turn that were heard; None where nobody listens."""
        return self.player.played_s if self.player and self.audible else None

    def played(self, position_s: float) -> None:
        """Tell the turn how many seconds of it have been played."""
        if self.turn:
            self.turn.played(position_s)

    def check(self) -> None:
        """Raise SinkError when nobody reads standard output any more."""
        if self._broken:
            raise self._broken

    def said(self, event: Said) -> None:
        """Show a text when it is heard."""
        self.event("said", text=event.text, span=event.span, at_s=event.at_s)
        played_s = self.played_s
        wait_s = 0.0 if played_s is None else event.at_s - played_s
        if wait_s <= 0 and not self._waiting:
            self._say(event.text)
        else:
            self._waiting.append((asyncio.get_running_loop().call_later(wait_s, self._say_next), event.text))

    def aside(self, aside: Aside) -> None:
        """Show what came beside the text, and keep why the model stopped."""
        self.event("aside", kind=aside.kind, data=aside.data)
        reason = str(aside.data.get("reason")) if aside.kind == "finish" else aside.kind
        if reason in _STOPPED:
            self._stopped[_STOPPED[reason]] = None
        elif aside.kind == "finish" and reason not in _USUAL:
            shown = printable(reason[:60])
            self._stopped[f"the model stopped for a reason that is not known here, {shown}: look into its documentation"] = None

    def done(self, done: Done) -> None:
        """Show how the turn ended."""
        from msgspec import to_builtins

        stats = done.stats
        self.event("done", outcome=done.outcome, stats=to_builtins(stats))
        if done.outcome != "done":
            return
        for stopped in self._stopped:
            self.note(stopped)
        if not stats.source_chars:
            if not self._stopped:
                self.note("there was no text")
        elif not stats.sent_chars:
            self.note("there was nothing in the text that can be spoken")
        if self._live and stats.first_audio_s is not None:
            times = ("first_token", "first_fragment", "connected", "first_speak", "first_audio", "last_token", "done")
            known = ((name, getattr(stats, f"{name}_s")) for name in times)
            spent = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in known if value is not None)
            self._summary = f"{stats.audio_s:.1f} s of audio; after so many seconds: {spent}"

    def saved(self) -> None:
        """Name the file that holds the audio where nothing could play it."""
        if self.player and self.player.saved_to:
            self.note(f"nothing here can play sound; it is in {self.player.saved_to}")

    def interrupted(self, heard: Heard) -> None:
        """Show what had been heard when the turn was interrupted."""
        self.heard = heard.heard
        self.event("interrupted", heard=heard.heard, unheard=heard.unheard, error_s=heard.error_s)

    def event(self, event: str, **fields: object) -> None:
        """Write an event as a line of JSON, where that is wanted."""
        if self._json:
            try:
                emit({"event": event, **fields})
            except SinkError as exc:
                self._broken = self._broken or exc

    def note(self, message: str) -> None:
        """Tell the person at the terminal, unless only errors are wanted."""
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
            text = text.strip() and printable(text.strip()) + "\n"
        elif sys.stdout.isatty():
            text = "\n".join(map(printable, text.split("\n")))
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except SinkError as exc:
            self._broken = self._broken or exc

    def _refresh(self) -> None:
        if self._live:
            buffered = f", {self.player.queued_s:.1f} s buffered" if self.player and self.audible else ""
            made = f", {self.turn.stats.audio_s:.1f} s of audio" if self.turn else ""
            show(f"\r\x1b[K{time.monotonic() - self._began_at:.1f} s{made}{buffered} ")
            self._shown = True
            self._tick = asyncio.get_running_loop().call_later(0.2, self._refresh)

    def _clear(self) -> None:
        if self._shown:
            show("\r\x1b[K")
            self._shown = False


# --- standard streams -------------------------------------------------------------------------------------------------------


def note(message: str) -> None:
    """Tell the person at the terminal."""
    show(f"llm2ws: {printable(message)}\n")


def show(text: str) -> None:
    """Write to standard error, as it is."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody is left to be told
            sys.stderr.write(text)
            sys.stderr.flush()


def emit(event: dict[str, object]) -> None:
    """Write one line of JSON to standard output."""
    if sys.stdout is not None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


class Stdout(io.TextIOWrapper):
    """Standard output whose failures are SinkErrors. click writes to it too."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as exc:
            raise _stdout_error(exc) from exc

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as exc:
            raise _stdout_error(exc) from exc


def _stdout_error(exc: OSError) -> SinkError:
    """Return the error for a failed write, and send everything that is written afterwards nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python would try again when it ends, and complain
    if isinstance(exc, BrokenPipeError):
        return SinkError("standard output: its reader has gone", hint="nothing more can be written")
    return SinkError(f"standard output: {(exc.strerror or 'failed').lower()}", hint="look at where it goes")


def decoded(argument: str) -> str:
    """Return an argument of this process as text: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(argument).decode("utf-8", "replace")
