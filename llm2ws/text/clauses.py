"""Where a clause ends, and where to cut what has become too long."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from .abbreviations import Words
from .boundaries import (
    CLAUSE,
    CLAUSE_WIDE,
    OPENERS,
    PROTECTED_CHARS,
    SPEAKABLE,
    STOPS,
    SURE,
    TAIL,
    WORD,
    Verdict,
    View,
    cut,
    go_on,
    is_grapheme_break,
    match_end,
    may_grow,
    wait,
    width,
)
from .fragments import Boundary, Hold

__all__ = ["best_place", "columns_end", "judge_clause", "judge_mark", "last_clause_end"]

# Times the floor, the fewest columns of a first fragment. Measured on the beginnings of sentences of prose and chat in thirteen
# languages: higher values made the first fragment later, lower ones made cuts where nobody breathes.
_PUNCTUATION: Final = 0.5
_CONJUNCTION: Final = 4.0
_COORDINATOR: Final = 5.0  # most of them join two nouns

_OPENER = re.compile(f"[{OPENERS}]")
_LAST_WORD = re.compile(r"[^\W\d_]+(?=\s+\Z)")
_WORDS = re.compile(r"(?<=\s)[^\W\d_]+(?=\s)")
_MARK = re.compile(r"[^\w\s\x00-\x7f]")  # the vowel signs of an Indian script, a typographic quotation mark
_DASHES: Final = "-–—"
_STAMP_ENDS: Final = "0123456789Mm"
_BREATH_MARKS: Final = _DASHES + _STAMP_ENDS
# A date and a time of day, as at the head of a mail or a line of a log.
_STAMP = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4},? (?:at )?\d{1,2}:\d\d(?::\d\d)?(?: ?[AaPp][Mm])?\Z")
# A full stop that has not ended a sentence may be that of an abbreviation: only behind a longer word, or of an ellipsis.
_CLAUSE_END = re.compile(
    f"(?:[{CLAUSE}{STOPS[1:]}]|(?:(?<=[^\\W\\d_]{{5}})|(?<=\\.))\\.)(?=\\s)|[{CLAUSE_WIDE}{SURE}]|(?<=\\s)-{{1,2}}(?=\\s)|(?<=\\S)(?=\\s*\n)"
)
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=\s)")
_PROTECTED = re.compile(rf"</?[A-Za-z!?][^<>\n]{{0,{PROTECTED_CHARS}}}(?:>|\Z)|\\\{{[^}}\n]{{0,{PROTECTED_CHARS}}}(?:\}}|\Z)")


def judge_clause(view: View, at: int, floor: int) -> Verdict:
    """Clause punctuation or white space at `at`, for the first fragment of a turn."""
    text, start, end, _, _ = view
    char, tail = text[at], at + 1
    if char.isspace():
        return _judge_breath(view, at, floor)
    if width(text, start, tail) < floor * _PUNCTUATION or SPEAKABLE.search(text, start, at) is None:
        return go_on(tail)
    if char in ",،，、" and text[at - 1].isalpha() and _OPENER.search(text, start, at) is None:
        return cut(tail, "the end of a clause", Boundary.CLAUSE)  # nothing is open that could close here
    tail = match_end(TAIL, text, tail, end)
    if may_grow(text, tail, end):
        return wait(tail, why="closing marks may follow")
    if char not in CLAUSE_WIDE and not text[tail].isspace():
        return go_on(tail)
    if char == "–" and not text[at - 1].isspace():
        return go_on(tail)
    return cut(tail, "the end of a clause", Boundary.CLAUSE)


def judge_mark(view: View, at: int, floor: int) -> Verdict | None:
    """For the first fragment, a question mark, exclamation mark or ellipsis will do, whatever follows. None: judge as usual."""
    text, start, end, _, _ = view
    if text[at] == "." and text[at - 1] != ".":
        return None
    tail = match_end(TAIL, text, at + 1, end)
    if may_grow(text, tail, end):
        return wait(tail, Hold.CAPITAL, "closing marks may follow")
    if not text[tail].isspace() or width(text, start, tail) < floor * _PUNCTUATION:
        return None
    return cut(tail, "a mark that may end a clause", Boundary.SENTENCE if text[at] in "?!" else Boundary.CLAUSE)


def _judge_breath(view: View, at: int, floor: int) -> Verdict:
    """White space: after a dash; after a date and time; and where no punctuation came in time, before a conjunction."""
    text, start, end, _, words = view
    if 2 * (at - start) < floor * _CONJUNCTION and text[at - 1] not in _BREATH_MARKS:
        return go_on(at + 1)  # too early for a conjunction, even if all characters are wide
    spoken = SPEAKABLE.search(text, start, at)
    columns = 0 if spoken is None else width(text, spoken.start(), at)
    if columns >= floor and text[at - 1] in _DASHES and text[at - 2].isspace():
        return cut(at, "a dash", Boundary.CLAUSE)
    if columns >= floor and text[at - 1] in _STAMP_ENDS and _STAMP.search(text, max(start, at - 32), at):
        return _after_stamp(view, at)
    if columns < floor * _CONJUNCTION:
        return go_on(at + 1)
    if text[at - 2 : at] == "--":
        return cut(at, "a dash", Boundary.CLAUSE)
    word = WORD.match(text, at + 1, end)
    if at + 1 >= end or (word is not None and word.end() >= end):
        return wait(at)
    if word is None or not text[word.end()].isspace():
        return go_on(at + 1)
    if word[0] not in words.conjunctions and word[0] not in words.coordinators:
        return go_on(at + 1)
    before = _LAST_WORD.search(text, max(start, at - 20), at + 1)
    if before is not None and before[0].lower() in words.function_words:
        return go_on(at + 1)  # "if and when", "each and every"
    if word[0] in words.conjunctions:
        return cut(at, "before a conjunction", Boundary.CLAUSE)
    if columns < floor * _COORDINATOR:
        return go_on(at + 1)
    subject = WORD.match(text, word.end() + 1, end)
    if word.end() + 1 >= end or (subject is not None and subject.end() >= end):
        return wait(at)
    if subject is None or subject[0].lower() not in words.starters:
        return go_on(at + 1)  # two nouns, most likely
    return cut(at, "before a conjunction", Boundary.CLAUSE)


def _after_stamp(view: View, at: int) -> Verdict:
    """White space after a date and a time of day, "AM" and "PM" of which may follow."""
    if at + 1 >= view.end or view.text[at + 1 : at + 3].lower() in ("a", "p", "am", "pm"):
        return wait(at) if at + 3 >= view.end else go_on(at + 1)
    return cut(at, "a date and time", Boundary.CLAUSE)


def last_clause_end(text: str, start: int, end: int, floor: int) -> int:
    """The last clause end in `text[start:end]`, `floor` characters or more after `start`; 0 if there is none."""
    return _last(_CLAUSE_END, text, start, end, floor)


def columns_end(text: str, start: int, columns: int) -> int:
    """Where so many columns of speech end: what stands before the first word, and marks above and below, do not count."""
    spoken = SPEAKABLE.search(text, start)
    begin = len(text) if spoken is None else spoken.start()
    return begin + columns + sum(1 for _ in _MARK.finditer(text, begin, begin + columns))


def best_place(text: str, start: int, end: int, words: Words) -> int:
    """Where to cut `text[start:end]`, too long: a clause end past its first quarter; in its second half, before a conjunction
    or another function word; white space; between graphemes."""
    place = (
        last_clause_end(text, start, end, (end - start) // 4)
        or _before_function_word(text, start, end, words)
        or _last(_BEFORE_SPACE, text, start, end, 1)
    )
    if place:
        return place
    spans = _protected_spans(text, start, end)
    return next((at for at in range(end, start, -1) if is_grapheme_break(text, at) and _free(at, spans)), end)


def _before_function_word(text: str, start: int, end: int, words: Words) -> int:
    """Before the last conjunction, or the last other function word that does not itself follow one; 0 if there is none."""
    spans = _protected_spans(text, start, end)
    other = 0
    middle = (start + end) // 2
    found = list(_WORDS.finditer(text, max(start, middle - 20), end))
    for before, following in reversed(list(pairwise(found))):
        at, word = following.start() - 1, following[0]
        if at < middle - 1 or before.end() != at or before[0].lower() in words.function_words or not _free(at, spans):
            continue
        if word in words.conjunctions or word in words.coordinators:
            return at
        if not other and word in words.function_words:
            other = at
    return other


def _last(pattern: re.Pattern[str], text: str, start: int, end: int, floor: int) -> int:
    spans = _protected_spans(text, start, end)
    places = (found.end() for found in pattern.finditer(text, start, end))
    return max((place for place in places if place - start >= floor and _free(place, spans)), default=0)


def _protected_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    return [found.span() for found in _PROTECTED.finditer(text, start, end)]


def _free(place: int, spans: list[tuple[int, int]]) -> bool:
    return all(not begin < place < stop for begin, stop in spans)
