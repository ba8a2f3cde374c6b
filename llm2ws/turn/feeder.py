"""The way from the source to the utterance: text is read, cleaned and cut, and what is held is let go when the model pauses."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Protocol, runtime_checkable

from ..errors import ConfigError, LocalProtocolError, SourceError
from ..sources.aside import Aside
from ..speech.utterance.pacing import pause_s
from ..text.fragments import Piece
from .events import Notice, NoticeKind
from .state import BACKLOG_CHARS, TurnState

__all__ = ["Feeder", "Source"]

SLICE_CHARS = 1_000  # how much of a text is cleaned and cut at once: at most some 20 ms of work
CHECK_S = 0.12  # how often a flowing turn looks whether the model pauses

Source = AsyncIterable[str | Aside]


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


def _slices(item: str | Aside) -> Iterator[str | Aside]:
    """Yield an item of the source, a long text in slices."""
    if not isinstance(item, str) or len(item) <= SLICE_CHARS:
        yield item
        return
    for start in range(0, len(item), SLICE_CHARS):
        yield item[start : start + SLICE_CHARS]


class Feeder:
    """Reads one source to its end. `run` is to be a task; cancelling it closes the source.

    `on_text` is called whenever there is more to say, and at the end of the text.
    """

    def __init__(self, source: Source, state: TurnState, *, on_text: Callable[[], None]) -> None:
        self.error: SourceError | ConfigError | None = None  # how the source failed
        self._source = source
        self._state = state
        self._on_text = on_text
        self._stats = state.stats
        self._text = state.text
        self._utterance = state.utterance
        self._cleaner = state.options.cleaner()
        self._fragmenter = state.fragmenter
        self._token_s = state.options.token_s
        self._token_gaps: deque[float] = deque(maxlen=31)
        self._last_token_at = 0.0
        self._last_item_at = 0.0
        self._half = ""  # of a character, whose other half is in the next token
        self._taking = False  # an item of the source is being worked on
        self._reading = False  # the source is being read, and not held back because too much of its text waits
        self._silence = asyncio.Timeout(None)  # how long the source may give nothing
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Read the source to its end. How it failed is left in `error`: what it gave before is spoken.

        Raises LocalProtocolError for a source that gives what is no text.
        """
        try:
            async with AsyncExitStack() as stack:
                source = aiter(self._source)
                if isinstance(source, _Closable):
                    await stack.enter_async_context(aclosing(source))
                await stack.enter_async_context(self._silence)
                stack.callback(self._stop_reading)
                self._read_on()
                taken = 0
                task = asyncio.current_task()
                async for item in source:
                    if task is not None and task.cancelling():
                        raise asyncio.CancelledError  # The source has caught it, and goes on.
                    for part in _slices(item):
                        self._taking = True
                        self._take(part)
                        self._taking = False
                        taken += 1
                        if self._utterance.backlog_chars > BACKLOG_CHARS:
                            await self._wait_for_room()
                        elif taken % 64 == 0 or part is not item:
                            await asyncio.sleep(0)  # Neither a source that never waits nor a long text may hold up other turns.
        except TimeoutError as exc:
            if self._silence.expired():
                what = f"the source gave nothing for {self._token_s:g} s"
                self.error = SourceError(what, hint="look at what writes the text; try again", retry=True)
            else:
                self.error = _source_failed(exc)
        except (SourceError, ConfigError) as exc:
            self.error = exc
        except asyncio.CancelledError as exc:
            if self._is_cancelled():
                raise
            self.error = _source_failed(exc)  # what it waited for was cancelled
        except LocalProtocolError:
            raise
        except Exception as exc:
            if self._taking:
                raise  # a bug of ours, or of the cleaner that was given: the source is not to blame
            # A user's generator may raise anything: the caller is told.
            self.error = _source_failed(exc)
        if self._is_cancelled():
            raise asyncio.CancelledError  # Whatever the cleanup of the source raised instead.
        if self.error is not None:
            self._state.out.put(Notice(NoticeKind.SOURCE_FAILED, str(self.error)))
        self._stats.last_token_s = self._state.since_start()
        self._text.append(self._half)
        self._cut([*self._cleaner.feed(self._half), *self._cleaner.finish()])
        self._state.add(self._fragmenter.finish())
        self._utterance.finish()
        self._on_text()

    def stop(self) -> None:
        """Let nothing go any more: the turn is over."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_cancelled(self) -> bool:
        """Return whether this task, and not something that the source waits for, was cancelled."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    def _read_on(self) -> None:
        self._reading = True
        self._last_item_at = asyncio.get_running_loop().time()
        self._give_up_at(self._last_item_at + self._token_s)

    def _stop_reading(self) -> None:
        self._reading = False

    async def _wait_for_room(self) -> None:
        """Do not read on for a while: text comes faster than it is spoken. The source is not to blame for that silence."""
        self._reading = False
        self._give_up_at(None)
        self._state.room.clear()
        await self._state.room.wait()
        self._read_on()

    def _give_up_at(self, when: float | None) -> None:
        """Set when a source that gives nothing is taken for dead; None: never."""
        with contextlib.suppress(RuntimeError):  # it is dead: it is being closed
            self._silence.reschedule(when)

    def _take(self, item: str | Aside) -> None:
        loop = asyncio.get_running_loop()
        now = self._last_item_at = loop.time()
        if self._timer is None:  # whatever the source gives is a sign of life, an empty text too
            self._timer = loop.call_at(now + CHECK_S, self._check)
        if not isinstance(item, str):
            if not isinstance(item, Aside):
                raise LocalProtocolError(f"the source gave a {type(item).__name__}", hint="a source gives str or Aside")
            self._state.out.put(item)
            return
        item = self._half + item
        self._half = ""
        if not item:
            return
        if "\ud800" <= item[-1] <= "\udbff":
            item, self._half = item[:-1], item[-1]
            if not item:
                return
        if self._text:
            self._token_gaps.append(now - self._last_token_at)
        else:
            self._stats.first_token_s = self._state.since_start()
        self._last_token_at = now
        self._text.append(item)
        self._stats.source_chars += len(item)
        before = self._stats.fragments
        self._cut(self._cleaner.feed(item))
        if self._state.wants_clause:
            self._state.cut_clause()
        if self._stats.fragments > before:
            self._on_text()

    def _cut(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if fragments := self._fragmenter.feed(piece):
                self._state.add(fragments)

    def _check(self) -> None:
        """Let go of what is held, when its time has come: the model may be pausing.

        A timer and not a timeout around the source: a pause never disturbs the source, and a token costs no timer.
        """
        self._timer = None
        loop = asyncio.get_running_loop()
        since, now = self._last_token_at, loop.time()
        if self._reading:
            self._give_up_at(self._last_item_at + self._token_s)
        gap_s = statistics.median(self._token_gaps) if self._token_gaps else 0.0
        before = self._stats.fragments
        # Times are compared, as the timer is set by one: a difference of two can be a little less than what they differ by.
        if now >= since + pause_s(self._cleaner.holding.hold, gap_s):
            self._cut(self._cleaner.release())
        if now >= since + pause_s(self._fragmenter.holding.hold, gap_s):
            self._state.add(self._fragmenter.release())
        if self._stats.fragments > before:
            self._on_text()
        holds = (self._cleaner.holding.hold, self._fragmenter.holding.hold)
        due_at = since + min(pause_s(hold, gap_s) for hold in holds)
        if now < since + CHECK_S:
            due_at = since + CHECK_S  # the model is writing
        if now < due_at < math.inf:
            self._timer = loop.call_at(due_at, self._check)


def _source_failed(exc: BaseException) -> SourceError:
    error = SourceError(f"the source failed with {type(exc).__name__}")
    error.__cause__ = exc
    return error
