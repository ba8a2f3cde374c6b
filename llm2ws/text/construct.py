"""The form of one construct of markup: what it looks like, whole and half arrived."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Construct", "beginnings", "construct"]


class Construct(NamedTuple):
    """Markup that begins with certain characters.

    `half` must match to the end of the buffer for as long as more text could change what `whole` says; that alone makes the
    result independent of how the text is chunked.
    """

    name: str  # of the function in constructs.py that takes it
    first: str  # the characters it may begin with, after the indentation if it is a block
    rule: str  # the fields of Rules that switch it
    whole: re.Pattern[str]
    half: re.Pattern[str]
    why: str
    bound: int  # characters within which it must be whole
    paused: bool  # when the model pauses it is decided as at the end of the text


def construct(
    name: str, first: str, rule: str, whole: str, half: str, why: str, *, bound: int = 300, paused: bool = False
) -> Construct:
    """Return the construct with its patterns compiled."""
    return Construct(name, first, rule, re.compile(whole), re.compile(half), why, bound, paused)


def beginnings(mark: str) -> str:
    """Return a pattern for the beginnings of the mark at the end of the buffer."""
    return f"(?:{'|'.join(re.escape(mark[:size]) for size in range(1, len(mark)))})\\Z"
