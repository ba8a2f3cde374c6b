"""The connections of one speech endpoint, and how opening them has failed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ..errors import ConnectFailed
from .breaker import Breaker
from .connection import Connection, LinkEnded
from .endpoint import Endpoint

__all__ = ["QUICK_DEATHS", "Connections", "Opening"]

QUICK_DEATH_S = 5.0  # A connection that ends sooner and gave no audio was never any good.
QUICK_DEATHS = 3


@dataclass(slots=True, eq=False)
class Opening:
    """A connection that is being opened. Times are monotonic seconds.

    `patient`: it is tried until `connect_s` has passed, not once. `spare`: the turn that it is for has a place with little left
    of its limits, and takes that if the opening fails.
    """

    patient: bool
    spare: bool
    until: float  # how long it waits for the quota
    queued: bool = False  # it waits for the quota
    began_at: float | None = None  # its handshake
    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Stop opening it."""
        if self.task is not None:
            self.task.cancel()


@dataclass(slots=True)
class Connections:
    """The connections of one endpoint: those that are open, those that are being opened. Times are monotonic seconds."""

    endpoint: Endpoint
    used_at: float  # last
    users: int = 0  # turns that wait for a place
    open: list[Connection] = field(default_factory=list)  # the oldest first
    leased_at: dict[Connection, float] = field(default_factory=dict)
    openings: list[Opening] = field(default_factory=list)
    no_spare_until: float = 0.0  # one more was refused while others were open
    breaker: Breaker = field(default_factory=Breaker)
    _failed_at: float = float("-inf")
    _quick_deaths: list[LinkEnded] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether there are connections, and none of them is used."""
        return not self.users and not self.openings and any(c.idle for c in self.open) and not any(c.busy for c in self.open)

    @property
    def turns_at_once(self) -> int:
        """How many places a connection has."""
        return self.endpoint.dialect.traits.turns_at_once

    @property
    def coming(self) -> int:
        """How many places there will be soon: handshakes under way, and interruptions that are about to be confirmed."""
        clearing = sum(connection.clearing for connection in self.open)
        return clearing + self.turns_at_once * (len(self.openings) - self.queued)

    @property
    def queued(self) -> int:
        """How many wait for the quota before they are opened."""
        return sum(opening.queued for opening in self.openings)

    def failed(self, opening: Opening, now: float) -> None:
        """Count a failed handshake. Those that overlap are one try: they say the same thing about the endpoint."""
        if opening.began_at is None or opening.began_at >= self._failed_at:
            self._failed_at = now
            self.breaker.failed(now)

    def judge(self, connection: Connection, now: float) -> None:
        """Draw the conclusions from how a connection ended."""
        ended = connection.ended
        if ended is None or ended.ours or ended.interrupted:
            return  # An interruption that is not confirmed, before there can be audio, is no sign of bad health.
        if connection.audio_came or connection.age_s > QUICK_DEATH_S:
            self._quick_deaths.clear()
        else:
            self._quick_deaths.append(ended)
            self.breaker.failed(now)

    def check_deaths(self) -> None:
        """Raise ConnectFailed for an endpoint that accepts and hangs up at once: to wait and try again does not help there."""
        if len(self._quick_deaths) >= QUICK_DEATHS:
            why = self._quick_deaths[-1].why
            self._quick_deaths.clear()
            raise ConnectFailed(f"the connection ended {QUICK_DEATHS} times without audio: {why.what}", hint=why.hint)
