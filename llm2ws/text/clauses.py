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
_WORD_BEFORE = re.compile(r"([^\W\d_]+)(\.?)\Z")
_BEFORE_SPACE = re.compile(r"(?<=\S)(?=\s)")
_PROTECTED = re.compile(rf"</?[A-Za-z!?][^<>\n]{{0,{PROTECTED_CHARS}}}(?:>|\Z)|\\\{{[^}}\n]{{0,{PROTECTED_CHARS}}}(?:\}}|\Z)")


def judge_clause(view: View, at: int, floor: int) -> Verdict:
    """Judge clause punctuation or white space at `at`, for the first fragment of a turn."""
    text, start, end, _, _, _ = view
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
    """Judge a question mark, exclamation mark or ellipsis for the first fragment, where it will do whatever follows.

    None: it is to be judged as in any other fragment.
    """
    text, start, end, _, _, _ = view
    if text[at] == "." and text[at - 1] != ".":
        return None
    tail = match_end(TAIL, text, at + 1, end)
    if may_grow(text, tail, end):
        return wait(tail, Hold.CAPITAL, "closing marks may follow")
    if not text[tail].isspace() or width(text, start, tail) < floor * _PUNCTUATION:
        return None
    return cut(tail, "a mark that may end a clause", Boundary.SENTENCE if text[at] in "?!" else Boundary.CLAUSE)


def _judge_breath(view: View, at: int, floor: int) -> Verdict:
    """Judge white space: after a dash; after a date and time; and where no punctuation came in time, before a conjunction."""
    text, start, _, _, _, _ = view
    before = text[at - 1]
    if 2 * (at - start) < floor * _CONJUNCTION and before not in _BREATH_MARKS:
        return go_on(at + 1)  # too early for a conjunction, even if all characters are wide
    spoken = SPEAKABLE.search(text, start, at)
    columns = 0 if spoken is None else width(text, spoken.start(), at)
    if columns >= floor and before in _DASHES and text[at - 2].isspace():
        return cut(at, "a dash", Boundary.CLAUSE)
    if columns >= floor and before in _STAMP_ENDS and _STAMP.search(text, max(start, at - 32), at):
        return _after_stamp(view, at)
    if columns < floor * _CONJUNCTION:
        return go_on(at + 1)
    if text[at - 2 : at] == "--":
        return cut(at, "a dash", Boundary.CLAUSE)
    return _before_conjunction(view, at, joins=columns >= floor * _COORDINATOR)


def _before_conjunction(view: View, at: int, *, joins: bool) -> Verdict:
    """Judge white space by the word behind it; `joins`: before an "and" will do, too."""
    text, start, end, _, words, _ = view
    word = _whole_word(text, at + 1, end)
    if word == "":
        return wait(at)
    behind = at + 1 + len(word or "")
    conjunction = word in words.conjunctions
    if word is None or not text[behind].isspace() or not (conjunction or word in words.coordinators):
        return go_on(at + 1)
    before = _LAST_WORD.search(text, max(start, at - 20), at + 1)
    if (before is not None and before[0].lower() in words.function_words) or not (conjunction or joins):
        return go_on(at + 1)  # "if and when", "each and every"
    subject = None if conjunction else _whole_word(text, behind + 1, end)
    if subject == "":
        return wait(at)
    if not conjunction and (subject is None or subject.lower() not in words.starters):
        return go_on(at + 1)  # two nouns, most likely
    return cut(at, "before a conjunction", Boundary.CLAUSE)


def _whole_word(text: str, at: int, end: int) -> str | None:
    """Return the word that begins at `at`, None if there is none, "" if it may go on."""
    found = WORD.match(text, at, end)
    if at >= end or (found is not None and found.end() >= end):
        return ""
    return None if found is None else found[0]


def _after_stamp(view: View, at: int) -> Verdict:
    """Judge white space after a date and a time of day, "AM" and "PM" of which may follow."""
    if at + 1 >= view.end or view.text[at + 1 : at + 3].lower() in ("a", "p", "am", "pm"):
        return wait(at) if at + 3 >= view.end else go_on(at + 1)
    return cut(at, "a date and time", Boundary.CLAUSE)


def last_clause_end(text: str, start: int, end: int, floor: int) -> int:
    """Return the last clause end in `text[start:end]`, `floor` characters or more after `start`; 0 if there is none."""
    return _last(_CLAUSE_END, text, start, end, floor)


def columns_end(text: str, start: int, columns: int) -> int:
    """Return where so many columns of speech end.

    What stands before the first word does not count, nor do marks above and below letters.
    """
    spoken = SPEAKABLE.search(text, start)
    begin = len(text) if spoken is None else spoken.start()
    return begin + columns + sum(1 for _ in _MARK.finditer(text, begin, begin + columns))


def best_place(text: str, start: int, end: int, words: Words) -> int:
    """Return where to cut `text[start:end]`, which is too long.

    The best place is a clause end past its first quarter; then, in its second half, before a conjunction or another function
    word; then white space; then between two graphemes.
    """
    place = (
        last_clause_end(text, start, end, (end - start) // 4)
        or _before_function_word(text, start, end, words)
        or _before_space(text, start, end, words)
    )
    if place:
        return place
    spans = _protected_spans(text, start, end)
    return next((at for at in range(end, start, -1) if is_grapheme_break(text, at) and _free(at, spans)), end)


def _before_space(text: str, start: int, end: int, words: Words) -> int:
    """Return the last white space; if it is in the second half, one that follows no function word and no abbreviation."""
    spans = _protected_spans(text, start, end)
    places = [at for found in _BEFORE_SPACE.finditer(text, start, end) if (at := found.end()) > start and _free(at, spans)]
    for place in reversed(places):
        if place < (start + end) // 2:
            break
        before = _WORD_BEFORE.search(text, max(start, place - 20), place)
        if before is None or not (before[2] or before[1].lower() in words.function_words):
            return place
    return places[-1] if places else 0


def _before_function_word(text: str, start: int, end: int, words: Words) -> int:
    """Return the place before the last conjunction, or the last function word that follows no other; 0 if there is none."""
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
