"""A turn that is spoken for a client: within the client's limits, counted and logged, and ended when the daemon stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from enum import StrEnum

from aiohttp import web

from ..errors import Llm2wsError
from ..sources.aside import Aside
from ..sources.inlet import Inlet
from ..turn import Audio, Conversation, Done, NoticeKind, Outcome, Turn, TurnEvent
from ..watch.log import log_turn
from .access import ApiClient
from .daemon import CLIENT, DAEMON, Daemon
from .problems import draining_problem, to_problem

__all__ = ["CLIENT_NOTICES", "ClientTurn", "StopReason", "count_tokens", "speak_to_client", "until_deadline"]

Source = AsyncIterable[str | Aside]

_log = logging.getLogger("llm2ws.turn")

# Notices that are passed on to clients. A failed source is none of them: it is the turn's error, at its end.
CLIENT_NOTICES = frozenset(NoticeKind) - {NoticeKind.SOURCE_FAILED}

# The statuses of problems that are a client's mistake, such as a voice that the endpoint does not have. A model that is missing
# at the LLM's server (404) is none: the settings name it.
_CLIENTS_MISTAKES = frozenset({400, 413, 422})

# What of a turn's statistics says where the time went.
_WATERFALL = (
    *("first_token_s", "first_fragment_s", "connected_s", "first_speak_s", "first_flush_s", "first_audio_s"),
    *("last_token_s", "done_s", "audio_s"),
)


class StopReason(StrEnum):
    """Why the daemon ended a turn before its end."""

    TEXT = "text limit"  # The answer is longer than the client may have; what came before is spoken.
    SPEECH = "speech limit"  # The client has had all the speech that it may have.
    SHUTDOWN = "shutdown"  # The daemon stops.


class ClientTurn:
    """A turn that is spoken for a client. `face`: the name of the API in metrics and logs."""

    def __init__(self, conversation: Conversation, source: Source, client: ApiClient, daemon: Daemon, *, face: str) -> None:
        self._limit: StopReason | None = None  # The client's limit at which the turn was cut.
        self._shutdown = False
        self._error: Llm2wsError | None = None
        self.turn: Turn = conversation.turn(self._within_limit(source), on_done=self._record)
        self._face = face
        self._client = client
        self._daemon = daemon
        self._gaps, self._gap_s = 0, 0.0
        self._plays_until = 0.0  # When a player that began with the first audio has played all that was sent.
        self._sent_s = 0.0  # Audio that was sent to the client.

    async def events(self) -> AsyncGenerator[TurnEvent, None]:
        """Yield the turn's events within the client's limits. Raises the turn's error after `Done`, as the turn does."""
        limit_s = self._client.limits.turn_speech_s
        now = asyncio.get_running_loop().time
        try:
            async with aclosing(self.turn.events()) as events:
                async for event in events:
                    if isinstance(event, Audio):
                        seconds = self.turn.format.seconds(len(event.data))
                        if event.at_s + seconds > limit_s or self._client.speech_left_s <= 0:
                            self._limit = self._limit or StopReason.SPEECH
                            await self.turn.interrupt()
                            continue
                        self._client.spoke(seconds)
                        self._measure_gaps(seconds, now())
                    yield event
        except Llm2wsError as exc:
            self._error = exc
            raise

    async def stop(self) -> None:
        """End the turn now, because the daemon stops. `Done` is still to come."""
        self._shutdown = True
        await self.turn.interrupt()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the daemon cut the turn; None when everything was spoken and given out, or the client left."""
        cut_by_shutdown = self._shutdown and self.turn.outcome is Outcome.INTERRUPTED
        return self._limit or (StopReason.SHUTDOWN if cut_by_shutdown else None)

    def _measure_gaps(self, seconds: float, now: float) -> None:
        self._sent_s += seconds
        gap_s = now - self._plays_until
        if self._plays_until and gap_s > 0.02:
            self._gaps += 1
            self._gap_s += gap_s
        self._plays_until = max(self._plays_until, now) + seconds

    async def _within_limit(self, source: Source) -> AsyncGenerator[str | Aside, None]:
        """Yield the text until the client has had as much as it may, and count the LLM's tokens."""
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
                        self._limit = StopReason.TEXT
                        yield item[:left]
                        return
                yield item
        finally:
            if isinstance(items, AsyncGenerator | Inlet):
                await items.aclose()

    @property
    def waterfall(self) -> dict[str, float]:
        """Where the time went: for each step that was reached, seconds from the start of the turn."""
        values = asdict(self.turn.stats)
        return {name: round(values[name], 4) for name in _WATERFALL if values[name] is not None}

    @property
    def server_timing(self) -> str:
        """The waterfall as the value of a Server-Timing header."""
        return ", ".join(f"{step.removesuffix('_s')};dur={seconds * 1000:.0f}" for step, seconds in self.waterfall.items())

    def _record(self, done: Done) -> None:
        """Count and log the turn when it is over."""
        stats = done.stats
        outcome = str(self.stop_reason or done.outcome)
        if self._error is not None and to_problem(self._error).status in _CLIENTS_MISTAKES:
            outcome = "refused"
        # Characters that were sent to the endpoint and not heard as speech; in a complete turn all were heard.
        heard_chars = stats.sent_chars if done.outcome is Outcome.DONE else len(done.spoken.split(self._sent_s).heard)
        unheard = max(0, stats.sent_chars - heard_chars)
        values = asdict(stats)
        self._daemon.metrics.turn_ended(
            face=self._face, outcome=outcome, stats=values, wasted_chars=unheard, gaps=self._gaps, gap_s=self._gap_s
        )
        if _log.isEnabledFor(logging.INFO):
            fields = {"face": self._face, "client": self._client.name, "outcome": outcome, **values}
            fields |= {"gaps": self._gaps, "gap_s": self._gap_s, "wasted_chars": unheard}
            log_turn(_log, fields)


def count_tokens(daemon: Daemon, usage: object) -> None:
    """Count the tokens of an answer. `usage`: what the LLM says it used, in the words of Chat Completions."""
    if isinstance(usage, Mapping):
        for kind in ("prompt", "completion"):
            if isinstance(n := usage.get(f"{kind}_tokens"), int) and n > 0:
                daemon.metrics.tokens(kind, n)


@asynccontextmanager
async def until_deadline(request: web.Request) -> AsyncIterator[None]:
    """Cancel the block, which makes an answer that is not a turn, when the daemon cannot wait for it any longer.

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
        raise draining_problem() from None


@asynccontextmanager
async def speak_to_client(
    request: web.Request, conversation: Conversation, source: Source, *, face: str
) -> AsyncIterator[ClientTurn]:
    """Speak what `source` gives for the client of `request`. Leaving the block before the end interrupts the turn.

    `face`: the name of the API in metrics and logs. Raises Problem when the client has no speech left.
    """
    client, daemon = request[CLIENT], request.app[DAEMON]
    client.check_speech()
    client_turn = ClientTurn(conversation, source, client, daemon, face=face)
    daemon.turns.add(client_turn.stop)
    try:
        async with client_turn.turn:
            yield client_turn
    finally:
        daemon.turns.discard(client_turn.stop)
