"""How the turns of a conversation are spoken: what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..audio import AudioFormat
from ..links.endpoint import Endpoint
from ..speech.slot import Listener, Slot
from ..speech.utterance.pacing import Pace
from ..speech.utterance.utterance import SECONDS_PER_CHAR, Resume
from ..text.cleaner import Cleaner
from ..text.fragmenter import Fragmenter
from ..text.fragments import Policy

__all__ = ["Floor", "SlotPool", "Voicing"]


class SlotPool(Protocol):
    """Where turns get their slots; `links.pool.Pool` is the one over connections."""

    async def lease(
        self, endpoints: Sequence[Endpoint], listener: Listener, *, last: object = None, avoid: object = None
    ) -> tuple[Slot, Endpoint]:
        """Return a slot at the first of `endpoints` that can be had, and which one that is.

        `last`: the `place` of the slot to prefer. `avoid`: that of the slot which the turn has and would leave.
        Raises ConnectFailed when there is none, ConfigError for what cannot be asked for.
        """

    async def warm(self, endpoint: Endpoint) -> None:
        """Make an endpoint ready before it is needed. Raises like `lease`."""


@dataclass(slots=True)
class Floor:
    """Which turn may speak, and what it leaves to the next one."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    place: object = None  # of the last slot that carried a turn
    seconds_per_char: float = SECONDS_PER_CHAR  # how fast the voice speaks, as far as it has shown


@dataclass(frozen=True, slots=True)
class Voicing:
    """What the turns of a conversation share."""

    endpoints: tuple[Endpoint, ...]
    policy: Policy
    pace: Pace
    cleaner: Callable[[], Cleaner]
    fragmenter: Callable[[Policy], Fragmenter]
    resume: Resume
    spill: bool
    ahead_s: float
    slow_consumer_s: float
    token_s: float
    floor: Floor = field(default_factory=Floor)

    @property
    def format(self) -> AudioFormat:
        return self.endpoints[0].dialect.format

    @property
    def max_chars(self) -> int | None:
        """The longest text that all endpoints take, None for any length."""
        limits = [endpoint.limits or endpoint.dialect.limits for endpoint in self.endpoints]
        allowed = [n for limit in limits for n in (limit.chars_per_speak, limit.chars_per_window) if n is not None]
        return min(allowed, default=None)
