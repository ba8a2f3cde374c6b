"""A turn for a client: within the client's limits, counted and logged, and told when the daemon stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from enum import StrEnum

from aiohttp import web

from ..sources.aside import Aside
from ..sources.inlet import Inlet
from ..turn import Audio, Conversation, NoticeKind, Outcome, Turn, TurnEvent
from ..watch.log import turn_line
from .access import Client
from .daemon import CLIENT, DAEMON, Daemon, drained

Source = AsyncIterable[str | Aside]

__all__ = ["TOLD", "Speaking", "Stopped", "count_tokens", "speaking", "until_deadline"]

_log = logging.getLogger("llm2ws.turn")

# Notices in the middle of a turn that a client is told of. A failed source is the turn's error, at its end.
TOLD = frozenset(NoticeKind) - {NoticeKind.SOURCE_FAILED}

_WATERFALL = (
    *("first_token_s", "first_fragment_s", "connected_s", "first_speak_s", "first_flush_s", "first_audio_s"),
    *("last_token_s", "done_s", "audio_s"),
)


class Stopped(StrEnum):
    """Why a turn was ended before its time, and not by its client."""

    TEXT = "text limit"  # the answer is longer than the client may have; what came before is spoken
    SPEECH = "speech limit"  # it has had all the speech that it may have
    SHUTDOWN = "shutdown"  # the daemon stops


class Speaking:
    """A turn in progress. Take its `events()`; `stopped` tells why it ended early, None where it did not."""

    def __init__(self, conversation: Conversation, source: Source, client: Client, daemon: Daemon) -> None:
        self.stopped: Stopped | None = None
        self.turn: Turn = conversation.turn(self._within_limit(source))
        self._client = client
        self._daemon = daemon
        self._gaps, self._gap_s = 0, 0.0
        self._heard_until = 0.0  # by a listener who began with the first audio
        self._handed_s = 0.0

    async def events(self) -> AsyncGenerator[TurnEvent, None]:
        """Those of the turn. Its error is raised after `Done`, like the turn does it."""
        limit_s = self._client.limits.turn_speech_s
        now = asyncio.get_running_loop().time
        async with aclosing(self.turn.events()) as events:
            async for event in events:
                if isinstance(event, Audio):
                    seconds = self.turn.format.seconds(len(event.data))
                    if event.at_s + seconds > limit_s or self._client.speech_left_s <= 0:
                        await self.stop(Stopped.SPEECH)
                        continue
                    self._client.spoke(seconds)
                    self._listen(seconds, now())
                yield event

    async def stop(self, why: Stopped = Stopped.SHUTDOWN) -> None:
        """End it now: its source is closed, its endpoint told. `Done` is still to come."""
        if self.stopped is None and self.turn.outcome is None:
            self.stopped = why
        await self.turn.interrupt()

    def _listen(self, seconds: float, now: float) -> None:
        self._handed_s += seconds
        gap_s = now - self._heard_until
        if self._heard_until and gap_s > 0.02:
            self._gaps += 1
            self._gap_s += gap_s
        self._heard_until = max(self._heard_until, now) + seconds

    async def _within_limit(self, source: Source) -> AsyncGenerator[str | Aside, None]:
        """The text, until the client has had as much as it may."""
        left = self._client.limits.text_chars
        items = aiter(source)
        try:
            async for item in items:
                if isinstance(item, Aside):
                    if item.kind == "finish":
                        count_tokens(self._daemon, item.data.get("usage"))
                else:
                    left -= len(item)
                    if left < 0:
                        self.stopped = Stopped.TEXT
                        yield item[:left]
                        return
                yield item
        finally:
            if isinstance(items, AsyncGenerator | Inlet):
                await items.aclose()

    @property
    def waterfall(self) -> dict[str, float]:
        """Where the time went: seconds from the start of the turn, of what happened."""
        values = asdict(self.turn.stats)
        return {name: round(values[name], 4) for name in _WATERFALL if values[name] is not None}

    @property
    def server_timing(self) -> str:
        """The same, as the header of that name."""
        return ", ".join(f"{step.removesuffix('_s')};dur={seconds * 1000:.0f}" for step, seconds in self.waterfall.items())

    def ended(self, face: str) -> None:
        """Count it and log it. Called once."""
        stats = self.turn.stats
        outcome = str(self.stopped or self.turn.outcome or Outcome.INTERRUPTED)
        spoken = self.turn.spoken
        # Of what was sent, what never came out as speech. Within a turn that is complete, all of it did.
        done = self.turn.outcome is Outcome.DONE
        unheard = 0 if done else max(0, stats.sent_chars - len(spoken.split(self._handed_s).heard))
        values = asdict(stats)
        self._daemon.metrics.turn_ended(
            face=face, outcome=outcome, stats=values, wasted_chars=unheard, gaps=self._gaps, gap_s=self._gap_s
        )
        if _log.isEnabledFor(logging.INFO):
            fields = {"face": face, "client": self._client.name, "outcome": outcome, **values}
            fields |= {"gaps": self._gaps, "gap_s": self._gap_s, "wasted_chars": unheard}
            _log.info("%s", turn_line(fields))


def count_tokens(daemon: Daemon, usage: object) -> None:
    """Count what an LLM says that an answer took, in the words of Chat Completions."""
    if isinstance(usage, Mapping):
        for kind in ("prompt", "completion"):
            if isinstance(n := usage.get(f"{kind}_tokens"), int) and n > 0:
                daemon.metrics.tokens(kind, n)


@asynccontextmanager
async def until_deadline(request: web.Request) -> AsyncIterator[None]:
    """For an answer that is not a turn. When the daemon cannot wait for it any longer, its block is cancelled.

    Raises Problem then.
    """
    daemon = request.app[DAEMON]
    limit = asyncio.timeout(None)

    async def stop() -> None:
        limit.reschedule(0)

    try:
        async with limit:
            daemon.turns.add(stop)
            try:
                yield
            finally:
                daemon.turns.discard(stop)
    except TimeoutError:
        if not limit.expired():
            raise
        raise drained() from None


@asynccontextmanager
async def speaking(request: web.Request, conversation: Conversation, source: Source, *, face: str) -> AsyncIterator[Speaking]:
    """Speak what `source` gives, for the client of `request`. Leaving the block before the end interrupts.

    Raises Problem when the client has no speech left.
    """
    client, daemon = request[CLIENT], request.app[DAEMON]
    client.check_speech()
    one = Speaking(conversation, source, client, daemon)
    daemon.turns.add(one.stop)
    try:
        async with one.turn:
            yield one
    finally:
        daemon.turns.discard(one.stop)
        one.ended(face)
