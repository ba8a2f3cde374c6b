"""What the turns of a conversation share: how they are spoken, and what one leaves to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..audio import AudioFormat
from ..links.endpoint import Endpoint
from ..speech.slot import Listener, Slot
from ..speech.utterance.groups import Resume
from ..speech.utterance.pacing import Pace
from ..speech.utterance.utterance import SECONDS_PER_CHAR
from ..text.cleaner import Cleaner
from ..text.fragmenter import Fragmenter
from ..text.fragments import Policy
from .events import Done

__all__ = ["ConversationState", "SlotPool", "TurnOptions"]


class SlotPool(Protocol):
    """Where turns get their slots; `links.pool.Pool` is the one over connections."""

    async def lease(
        self,
        endpoints: Sequence[Endpoint],
        listener: Listener,
        *,
        last: object = None,
        avoid: object = None,
        client: Hashable = None,
    ) -> tuple[Slot, Endpoint]:
        """Return a slot at the first of `endpoints` that can be had, and which one that is.

        `last`: the `place` of the slot to prefer. `avoid`: that of the slot which the turn has and would leave.
        `client`: whom the turn is for; None for nobody's.
        Raises ConnectFailed when there is none, ConfigError for what cannot be asked for.
        """

    async def warm(self, endpoint: Endpoint) -> None:
        """Make an endpoint ready before it is needed. Raises like `lease`."""


@dataclass(slots=True)
class ConversationState:
    """Which turn may speak, and what it leaves to the next one."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by the turn that speaks
    place: object = None  # of the last slot that carried a turn
    seconds_per_char: float = SECONDS_PER_CHAR  # how fast the voice speaks, as far as it has shown


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How the turns of a conversation are spoken. `Conversation` says what each means."""

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
    on_done: Callable[[Done], None] | None = None
    client: Hashable = None
    conversation: ConversationState = field(default_factory=ConversationState)

    @property
    def format(self) -> AudioFormat:
        """The format of the audio of all endpoints."""
        return self.endpoints[0].dialect.format

    @property
    def max_chars(self) -> int | None:
        """The longest text that all endpoints take, None for any length."""
        limits = [endpoint.limits or endpoint.dialect.limits for endpoint in self.endpoints]
        allowed = [n for limit in limits for n in (limit.chars_per_speak, limit.chars_per_window) if n is not None]
        return min(allowed, default=None)
