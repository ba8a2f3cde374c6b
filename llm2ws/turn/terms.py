"""How the turns of a conversation are spoken: what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from ..audio import AudioFormat
from ..links.connection import Connection
from ..links.pool import Endpoint
from ..speech.utterance.pacing import Pace
from ..speech.utterance.utterance import SECONDS_PER_CHAR, Resume
from ..text.cleaner import Cleaner
from ..text.fragmenter import Fragmenter
from ..text.fragments import Policy

__all__ = ["Floor", "Voicing"]


@dataclass(slots=True)
class Floor:
    """Which turn may speak, and what it leaves to the next one."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: Connection | None = None  # the last one that carried a turn
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
