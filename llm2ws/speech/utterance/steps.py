"""What a turn does next: one of three acts, or waiting for one of several things to become due."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

__all__ = ["Act", "Due", "Step", "Wait"]


class Act(Enum):
    """What can be done at once."""

    SPEAK = auto()  # send the next text
    FLUSH = auto()  # ask for the audio of what was sent
    END = auto()  # the same, and no more text comes


@dataclass(frozen=True, slots=True)
class Due:
    """The time at which all of some conditions are met: a step that depends on them has to be chosen then.

    The time itself changes while the listener plays and audio comes; the conditions do not.
    """

    at: float = -math.inf  # not before, in monotonic seconds
    low_s: float = math.inf  # at most so many seconds of audio are still to be heard ...
    flushed: bool = False  # ... of what was flushed, when the time from a Flush to its audio is over; else of all that was sent
    quiet_s: float = 0.0  # neither text of the turn was sent nor audio came for so long


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done before one of `dues` is due, or text comes.

    `until`: when that is, as far as is known now, in monotonic seconds; inf when it depends on something else. `for_ack`:
    an ack may allow more. `cut`: the listener is about to hear silence and there is nothing to send: cut at a clause, as soon
    as there is one.
    """

    until: float = math.inf
    dues: tuple[Due, ...] = ()
    for_ack: bool = False
    cut: bool = False


Step = Act | Wait
