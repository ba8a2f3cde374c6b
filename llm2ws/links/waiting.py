"""In which order turns get what is scarce, and how many connections an account seems to have.

Pure: `now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["FairQueue", "LearnedLimit", "Waiting"]

RAISE_S = 30.0  # After so long, one connection more than an account grants is asked for.
REGAIN_S = 1.0  # The same for as many as it has granted before: it may count a closed one a little longer.


class LearnedLimit:
    """How many connections an account grants at once, as its refusals tell. None is known before the first."""

    def __init__(self) -> None:
        self._limit: int | None = None
        self._most = 0  # were granted at once
        self._since = 0.0

    def refused(self, n_open: int, now: float) -> None:
        """Count a connection that was refused (HTTP 429) while so many were open."""
        self._limit, self._since = n_open, now

    def granted(self, n_open: int, now: float) -> None:
        """Count a connection that was granted, with which so many are open."""
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
    """A turn that waits. `client`: whom it is for; turns with None are for a client each."""

    round: int

    @property
    def client(self) -> Hashable: ...


_W = TypeVar("_W", bound=Waiting)


class FairQueue(Generic[_W]):
    """Turns in the order in which they are served: clients take turns, and within a round the first to come is first."""

    def __init__(self) -> None:
        self._turns: list[_W] = []
        self._round = 0

    def __iter__(self) -> Iterator[_W]:
        return iter(tuple(self._turns))

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, turn: _W) -> None:
        """Queue a turn, one round behind the last one of the same client."""
        rounds = [other.round for other in self._turns if turn.client is not None and other.client == turn.client]
        turn.round = max([self._round, *(n + 1 for n in rounds)])
        at = next((n for n, other in enumerate(self._turns) if other.round > turn.round), len(self._turns))
        self._turns.insert(at, turn)

    def remove(self, turn: _W) -> None:
        """Take a turn off the queue, if it is there."""
        if turn in self._turns:
            self._turns.remove(turn)
            self._round = self._turns[0].round if self._turns else self._round
