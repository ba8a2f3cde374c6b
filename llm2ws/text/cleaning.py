"""The state of the Cleaner within one turn."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from .fragments import Held, Hold
from .rules import Rules
from .spacing import Said

__all__ = ["BEHIND", "NOTHING", "Literal", "More", "State"]

BEHIND: Final = 24  # characters that stay in the buffer for looking back
NOTHING: Final = Held(Hold.NOTHING, "nothing is held")


class More(Enum):
    """What may come after the end of the buffer."""

    LIKELY = 1
    LATER = 2  # the model paused: what is most likely complete is taken as complete
    NEVER = 3  # the end of the turn


class Literal(NamedTuple):
    """A stretch in which nothing is markup."""

    end: re.Pattern[str]
    half: re.Pattern[str]  # matches to the end of the buffer while `end` may still come
    said: bool = False  # the stretch is said
    end_said: bool = False  # what ends it is said
    begin: int = -1  # where it begins in the model's text
    otherwise: Literal | None = None  # takes its place if its end is found where it begins


class State:
    """One turn: what is not decided yet, what is open, what was said."""

    def __init__(self, rules: Rules, code_phrase: str) -> None:
        self.rules = rules
        self.code_phrase = code_phrase
        self.buf = "\n" * BEHIND  # characters to look back at, then what is not decided yet
        self.at = BEHIND  # where in `buf` the undecided begins
        self.base = -BEHIND  # where `buf` begins in the model's text
        self.more = More.LIKELY
        self.held = NOTHING
        self.said = Said()
        self.line_start = True
        self.first = (
            0  # in the model's text: where the first character of the line stands, if it is no mark of a list or heading
        )
        self.blank = False  # a blank line stands before the line
        self.quoted = False  # the line
        self.item = 0  # columns before the text of the list item
        self.paragraph = False  # the end of this line is the end of a paragraph
        self.heading = False
        self.table = False  # a rule row came: lines are rows, with or without a bar at the start
        self.row = False
        self.literal: Literal | None = None
        self.nested = 0  # thoughts that are open within the thought
        self.ticks = 0  # how many backticks will close the code span; 0 outside
        self.open = dict.fromkeys("*_~=", 0)  # markers of emphasis
        self.opener = -1  # in the model's text: where emphasis began that begins a sentence
        self.pictograph = ""  # the name of the first one, which is said if nothing else is
        self.cited = -1  # in the model's text: where the mark of a source ended
        self.link = (-1, -1)  # in the model's text: where the text of the link ends, and where the link does

    def say(self, at: int, end: int) -> int:
        self.said.say(self.buf[at:end], self.base + at)
        return end

    def put(self, text: str, at: int, end: int) -> int:
        self.said.put(text, self.base + at, self.base + end)
        return end

    def hold(self, why: str, hold: Hold = Hold.DOUBT) -> int:
        self.held = Held(hold, why)
        return -1

    def is_open(self, mark: str) -> bool:
        """Return whether what comes next may well end what this marker opened."""
        return self.ticks > 0 if mark == "`" else self.open.get(mark, 0) > 0

    def before(self, at: int) -> str:
        return self.buf[at - 1] if at else "\n"

    def after(self, at: int) -> str:
        return self.buf[at] if at < len(self.buf) else "\n"
