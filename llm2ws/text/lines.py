"""Judge the ends of lines, structure or soft wrap, in markdown as models write it and in cleaned text."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .boundaries import CLOSERS, EMOJI, LEAD, SPEAKABLE, STOPS, SURE, Verdict, View, cut, go_on, is_lower, match_end, wait
from .fragments import Hold

__all__ = ["Line", "judge_line", "line_kind"]

_HEAD = re.compile(
    r"[ \t\r>]*(?:(?P<fence>```+|~~~+)|(?P<closed>\#{1,6}[ \t]|\|)"
    r"|(?P<item>(?:[-*+•‣◦▪–—]|\(?\d{1,3}[.)]|\(?[A-Za-z][.)])[ \t]))"
)
_MAY_BE_HEAD = re.compile(r"[ \t\r>]*(?:[-*+•‣◦▪–—`~#]{1,6}|\(?\d{1,3}[.)]?|\(?[A-Za-z][.)]?)?\Z")
_ENDED = re.compile(f"[{STOPS}{SURE}][{CLOSERS}*_~`{EMOJI}]*\\Z")
_LETTER = re.compile(r"[^\W\d_]")
_SPACE = re.compile(r"\s*")
# Text is wrapped at 60 to 100 columns. A line that ends far from there was ended on purpose.
_SHORT: Final = 50
_LONG: Final = 110
_STOP_ENDS: Final = "a full stop at the end of a line"
_ITEM_ENDS: Final = "the end of a list"


class Line(NamedTuple):
    """What kind of line it is, as far as its first characters tell."""

    closed: bool  # its end is an end without looking further: a heading, a table row, a fence
    item: bool  # a list item
    fence: str  # the fence that it opens or closes, "" for none


_TEXT: Final = Line(closed=False, item=False, fence="")


def line_kind(text: str, start: int, end: int) -> Line:
    """Return the kind of the line `text[start:end]`."""
    head = _HEAD.match(text, start, end)
    if head is None:
        return _TEXT
    fence = "" if head["fence"] is None or "`" in text[head.end() : end] else head["fence"][:3]
    return Line(head["closed"] is not None or fence != "", head["item"] is not None, fence)


def judge_line(view: View, at: int, columns: int, line: Line) -> Verdict:
    """Judge the line feed at `at`, after a line of so many columns."""
    text, start, _, _, _, _ = view
    place = start + len(text[start:at].rstrip())
    word = place > start and text[place - 1].isalnum()  # ends the line
    if not word and SPEAKABLE.search(text, start, place) is None:
        return go_on(at + 1)
    if line.closed:
        return cut(place, "a line that is one: heading, table row, code")
    if text[place - 1] in ":：\\" or text[at - 2 : at] == "  ":
        return cut(place, "the end of a line")
    ended = not word and _ENDED.search(text, max(start, place - 12), place) is not None
    if columns > _LONG or (columns < _SHORT and (line.item or ended or not _begins_with_capital(text, start, place))):
        return cut(place, "the end of a line")
    return _by_next_line(view, at, place, columns, _STOP_ENDS if ended else _ITEM_ENDS if line.item else "")


def _by_next_line(view: View, at: int, place: int, columns: int, why: str) -> Verdict:
    """Judge the line feed at `at`, after so many columns, by the next line.

    `why` the line ends if the next one begins with a capital; "" if that alone does not end it.
    """
    text, end, short = view.text, view.end, columns < _SHORT
    following = match_end(_SPACE, text, at + 1, end)
    blank = "\n" in text[at + 1 : following]
    if following >= end and (short or not blank):
        return wait(place, Hold.SURE if short or why else Hold.CAPITAL, "the next line tells")
    if short and not blank and is_lower(text[following]):
        return go_on(at + 1)  # a line that began with a capital goes on without one
    if short or blank:
        return cut(place, "the end of a line" if short else "a blank line")
    if _MAY_BE_HEAD.match(text, following, end):
        return wait(place, why="the next line tells")
    if _HEAD.match(text, following, end) is not None:
        return cut(place, "the end of a line before a list item, heading or table")
    lead = match_end(LEAD, text, following, end)
    if lead >= end:
        return wait(place, why="the next line tells")
    ends = why == _STOP_ENDS or (why == _ITEM_ENDS and following == at + 1)
    return cut(place, why) if ends and not is_lower(text[lead]) else go_on(at + 1)


def _begins_with_capital(text: str, start: int, end: int) -> bool:
    letter = _LETTER.search(text, start, end)
    return letter is not None and letter[0].isupper()
