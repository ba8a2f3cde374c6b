"""What is known of one speech endpoint: its connections, and how it has failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ..errors import ConnectFailed
from .breaker import Breaker
from .connection import Connection, LinkEnded

__all__ = ["QUICK_DEATHS", "Shelf"]

QUICK_DEATH_S = 5.0  # a connection that ends sooner and gave no audio was never any good
QUICK_DEATHS = 3


class _Failure(NamedTuple):
    """Why none could be opened: an error for each who waited for it. `retried`: that was tried for as long as it may."""

    error: Callable[[], ConnectFailed]
    retried: bool


@dataclass(slots=True)
class Shelf:
    """The connections of one endpoint. Times are those of the event loop."""

    used_at: float  # last
    users: int = 0  # who wait for a place or a connection
    connections: list[Connection] = field(default_factory=list)  # the oldest first
    leased_at: dict[Connection, float] = field(default_factory=dict)
    no_more_until: float = 0.0  # one more was refused while others were open
    breaker: Breaker = field(default_factory=Breaker)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _failure: _Failure | None = None  # the last one
    _quick_deaths: list[LinkEnded] = field(default_factory=list)

    @asynccontextmanager
    async def opening(self, *, retry: bool) -> AsyncIterator[None]:
        """One is opened at a time. When that fails, it has failed for all who wait: each would wait for those before it.

        `retry`: it may be tried for longer, and what was tried but once is no answer. Raises ConnectFailed.
        """
        before = self._failure
        async with self._opening:
            failure = self._failure
            if failure is not None and failure is not before and (failure.retried or not retry):
                raise failure.error()
            try:
                yield
            except ConnectFailed as exc:
                # Not the error itself, whose traceback holds the turn.
                error = partial(ConnectFailed, exc.what, hint=exc.hint, status=exc.status, retry_s=exc.retry_s)
                self._failure = _Failure(error, retry)
                raise

    def judge(self, connection: Connection, now: float) -> None:
        """Draw the conclusions from how a connection ended."""
        ended = connection.ended
        if ended is None or ended.ours or ended.interrupted:
            return  # an interruption that is not confirmed, before there can be audio, is no sign of bad health
        if connection.audio_came or connection.age_s > QUICK_DEATH_S:
            self._quick_deaths.clear()
        else:
            self._quick_deaths.append(ended)
            self.breaker.failed(now)

    def check_deaths(self) -> None:
        """Backoff does not help against an endpoint that accepts and hangs up at once: that is an error by name."""
        if len(self._quick_deaths) >= QUICK_DEATHS:
            why = self._quick_deaths[-1].why
            self._quick_deaths.clear()
            raise ConnectFailed(f"the connection ended {QUICK_DEATHS} times without audio: {why.what}", hint=why.hint)
