"""The turns that wait for a place at the endpoints of one account, and how many connections the account seems to have.

Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

__all__ = ["Account", "LearnedLimit", "Waiting"]

RAISE_S = 30.0  # after which one connection more than an account has granted is asked for
REGAIN_S = 1.0  # the same for as many as it has granted before: it may count a closed one a little longer


class LearnedLimit:
    """How many connections an account grants at once, as its refusals tell. None is known before the first."""

    def __init__(self) -> None:
        self._limit: int | None = None
        self._most = 0  # were granted at once
        self._since = 0.0

    def refused(self, n_open: int, now: float) -> None:
        """Another connection was refused (HTTP 429) while so many were open."""
        self._limit, self._since = n_open, now

    def granted(self, n_open: int, now: float) -> None:
        """A connection was granted, with which so many are open."""
        self._most = max(self._most, n_open)
        if self._limit is not None and n_open > self._limit:
            self._limit, self._since = n_open, now

    def at(self, now: float) -> float:
        """Return how many may be asked for; inf for any number."""
        if self._limit is None:
            return math.inf
        return self._limit + int((now - self._since) / self._raise_s)

    def rises_at(self, now: float) -> float:
        """Return when one more may be asked for; inf for never."""
        if self._limit is None:
            return math.inf
        return self._since + (int((now - self._since) / self._raise_s) + 1) * self._raise_s

    @property
    def _raise_s(self) -> float:
        return REGAIN_S if self._limit is not None and self._limit < self._most else RAISE_S


class Waiting(Protocol):
    """A turn that waits. `client`: whom it is for; None is nobody else's client."""

    client: Hashable
    round: int


_W = TypeVar("_W", bound=Waiting)


@dataclass(slots=True)
class Account(Generic[_W]):
    """The endpoints of one name: their voices and formats share the account's connections."""

    name: str
    learned: LearnedLimit = field(default_factory=LearnedLimit)
    waiting: list[_W] = field(default_factory=list)  # in the order in which they are served
    _round: int = 0

    def add(self, turn: _W) -> None:
        """Queue a turn: places go round by clients, and within a round by arrival."""
        rounds = [other.round for other in self.waiting if turn.client is not None and other.client == turn.client]
        turn.round = max([self._round, *(n + 1 for n in rounds)])
        at = next((n for n, other in enumerate(self.waiting) if other.round > turn.round), len(self.waiting))
        self.waiting.insert(at, turn)

    def remove(self, turn: _W) -> None:
        """Take a turn off the queue, if it is there. The rounds before its own are over."""
        if turn in self.waiting:
            self.waiting.remove(turn)
            self._round = min((other.round for other in self.waiting), default=self._round)
