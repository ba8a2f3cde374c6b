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
from ..speech.utterance.utterance import Utterance
from ..text.fragments import Fragment, Piece, Policy
from .events import Notice, NoticeKind, TurnEvent, TurnStats
from .terms import Voicing

__all__ = ["BACKLOG_CHARS", "Feeder", "Source"]

BACKLOG_CHARS = 20_000  # text read and not sent: beyond it the source is not read
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

    `emit` takes what is passed on and not spoken.
    """

    def __init__(
        self,
        source: Source,
        voicing: Voicing,
        utterance: Utterance,
        stats: TurnStats,
        *,
        emit: Callable[[TurnEvent], None],
        since_start: Callable[[], float],
    ) -> None:
        self.error: SourceError | ConfigError | None = None  # how the source failed
        self.hungry = False  # the listener is about to hear silence: a clause is better than a sentence
        self._source = source
        self._cleaner = voicing.cleaner()
        self._fragmenter = voicing.fragmenter(voicing.policy)
        self._cuts_clauses = voicing.policy is Policy.CLAUSE_FIRST
        self._token_s = voicing.token_s
        self._utterance = utterance
        self._stats = stats
        self._emit = emit
        self._since_start = since_start
        self._text: list[str] = []
        self._token_gaps: deque[float] = deque(maxlen=31)
        self._last_token_at = 0.0
        self._last_item_at = 0.0
        self._half = ""  # of a character, whose other half is in the next token
        self._taking = False  # an item of the source is being worked on
        self._reading = False  # the source is being read, and not held back because too much of its text waits
        self._room = asyncio.Event()  # it may be read on
        self._timer: asyncio.TimerHandle | None = None

    @property
    def text(self) -> str:
        """The model's text, as far as it has come."""
        return "".join(self._text)

    async def run(self, go_on: Callable[[], None]) -> None:
        """Read the source to its end. How it failed is left in `error`: what it gave before is spoken.

        `go_on` is called whenever there is more to say. Raises LocalProtocolError for a source that gives what is no text.
        """
        self._loop = asyncio.get_running_loop()
        self._go_on = go_on
        silent = self._silent = asyncio.timeout(self._token_s)
        try:
            async with AsyncExitStack() as stack:
                source = aiter(self._source)
                if isinstance(source, _Closable):
                    await stack.enter_async_context(aclosing(source))
                await stack.enter_async_context(silent)
                self._last_item_at = self._loop.time()
                self._reading = True
                stack.callback(self._read_no_more)
                taken = 0
                async for item in source:
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
            if silent.expired():
                what = f"the source gave nothing for {self._token_s:g} s"
                self.error = SourceError(what, hint="look at what writes the text; try again", retry=True)
            else:
                self.error = _source_failed(exc)
        except (SourceError, ConfigError) as exc:
            self.error = exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.error = _source_failed(exc)  # what it waited for was cancelled
        except LocalProtocolError:
            raise
        except Exception as exc:
            if self._taking:
                raise  # a bug of ours, or of the cleaner that was given: the source is not to blame
            # A user's generator may raise anything: the caller is told.
            self.error = _source_failed(exc)
        if self.error is not None:
            self._emit(Notice(NoticeKind.SOURCE_FAILED, str(self.error)))
        self._stats.last_token_s = self._since_start()
        self._text.append(self._half)
        self._cut([*self._cleaner.feed(self._half), *self._cleaner.finish()])
        self._add(self._fragmenter.finish())
        self._utterance.finish()
        self._go_on()

    def cut_clause(self) -> bool:
        """Have text up to the last clause end, rather than wait for the sentence. Whether there was any."""
        if not self._cuts_clauses or self._utterance.backlog_chars:
            return False
        fragments = self._fragmenter.release(clause=True)
        self._add(fragments)
        return bool(fragments)

    def make_room(self) -> None:
        """Some text has been sent: the source may be read on."""
        if self._utterance.backlog_chars <= BACKLOG_CHARS:
            self._room.set()

    def stop(self) -> None:
        """The turn is over: nothing is let go any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _read_no_more(self) -> None:
        self._reading = False

    async def _wait_for_room(self) -> None:
        """Text comes faster than it is spoken: do not read on for a while. The source is not to blame for that silence."""
        self._reading = False
        self._give_up_at(None)
        self._room.clear()
        await self._room.wait()
        self._last_item_at = self._loop.time()
        self._give_up_at(self._last_item_at + self._token_s)
        self._reading = True

    def _give_up_at(self, when: float | None) -> None:
        """When a source that gives nothing is taken for dead; None: never."""
        with contextlib.suppress(RuntimeError):  # it is dead: it is being closed
            self._silent.reschedule(when)

    def _take(self, item: str | Aside) -> None:
        now = self._last_item_at = self._loop.time()
        if self._timer is None:  # whatever the source gives is a sign of life, an empty text too
            self._timer = self._loop.call_at(now + CHECK_S, self._check)
        if not isinstance(item, str):
            if not isinstance(item, Aside):
                raise LocalProtocolError(f"the source gave a {type(item).__name__}", hint="a source gives str or Aside")
            self._emit(item)
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
            self._stats.first_token_s = self._since_start()
        self._last_token_at = now
        self._text.append(item)
        self._stats.source_chars += len(item)
        before = self._stats.fragments
        self._cut(self._cleaner.feed(item))
        if self.hungry:
            self.cut_clause()
        if self._stats.fragments > before:
            self._go_on()

    def _cut(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if fragments := self._fragmenter.feed(piece):
                self._add(fragments)

    def _add(self, fragments: list[Fragment]) -> None:
        for fragment in fragments:
            self._utterance.add(fragment)
        if fragments:
            if self._stats.first_fragment_s is None:
                self._stats.first_fragment_s = self._since_start()
            self._stats.fragments += len(fragments)

    def _check(self) -> None:
        """The model may be pausing: let go of what is held, when its time has come.

        A timer and not a timeout around the source: a pause never disturbs the source, and a token costs no timer.
        """
        self._timer = None
        since, now = self._last_token_at, self._loop.time()
        if self._reading:
            self._give_up_at(self._last_item_at + self._token_s)
        gap_s = statistics.median(self._token_gaps) if self._token_gaps else 0.0
        before = self._stats.fragments
        # Times are compared, as the timer is set by one: a difference of two can be a little less than what they differ by.
        if now >= since + pause_s(self._cleaner.holding.hold, gap_s):
            self._cut(self._cleaner.release())
        if now >= since + pause_s(self._fragmenter.holding.hold, gap_s):
            self._add(self._fragmenter.release())
        if self._stats.fragments > before:
            self._go_on()
        holds = (self._cleaner.holding.hold, self._fragmenter.holding.hold)
        due_at = since + min(pause_s(hold, gap_s) for hold in holds)
        if now < since + CHECK_S:
            due_at = since + CHECK_S  # the model is writing
        if now < due_at < math.inf:
            self._timer = self._loop.call_at(due_at, self._check)


def _source_failed(exc: BaseException) -> SourceError:
    error = SourceError(f"the source failed with {type(exc).__name__}")
    error.__cause__ = exc
    return error
