"""Where in a text the words are whose times an endpoint tells, and where in a repeat of it the listener was.

Vendors write words as they like: with or without punctuation, in parts, numbers as words. So words are found in the text that
was sent by their letters, in order; one that is not found is passed over.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..messages import Word

__all__ = ["Known", "Mark", "Place", "cut_raw", "find_words", "resume_at", "time_of", "word_end"]

REACH_CHARS = 60  # ahead, in which a word is looked for
MARKUP_CHARS = 300  # the same where links and markup may be in between
UNTOLD_S = 1.5  # of audio whose words are not known yet, at most


class Mark(NamedTuple):
    """The letters of a word, or of a part of one: from and to, in characters of a text and in seconds of its audio."""

    begin: int
    end: int
    start_s: float
    end_s: float


def find_words(words: Iterable[Word], text: str, after: Mark | None, base_s: float) -> list[Mark]:
    """Return the places of words that come after the word `after`. `base_s`: from where their times count."""
    marks: list[Mark] = []
    at, time_s = (after.end, after.end_s) if after else (0, 0.0)
    for word in words:
        found = _find(_letters(word.text), text, at)
        if found is not None:
            # The marks at its ends have their share of the time: a part of a word may come with them or without.
            each_s = (word.end_s - word.start_s) / len(word.text)
            before = next(n for n, char in enumerate(word.text) if char.isalnum())
            behind = next(n for n, char in enumerate(reversed(word.text)) if char.isalnum())
            start_s = max(time_s, base_s + word.start_s + before * each_s)
            time_s = max(start_s, base_s + word.end_s - behind * each_s)
            at = found[1]
            marks.append(Mark(*found, start_s, time_s))
    return marks


def cut_raw(said: str, at: int, raw: str) -> int:
    """Where in `raw`, of which `said` is the cleaned form, the first word begins that is not wholly in `said[:at]`."""
    place = 0
    for word in re.finditer(r"\S+", said):
        found = _find(_letters(word.group()), raw, place, MARKUP_CHARS)
        if found is None:
            continue
        if word.end() > at:
            begin = found[0]
            while begin > place and not (raw[begin - 1].isspace() or raw[begin - 1].isalnum()):
                begin -= 1  # the markup of that word
            return begin if place else 0
        place = found[1]
    return len(raw)


def _letters(text: str) -> list[str]:
    return [char.lower()[0] for char in text if char.isalnum()]


def _find(letters: list[str], text: str, at: int, reach: int = REACH_CHARS) -> tuple[int, int] | None:
    """From and to of the nearest place where these letters are, at the start of a word or right here."""
    if not letters:
        return None
    for begin in range(at, min(len(text), at + reach)):
        if text[begin].isalnum() and (begin == at or not text[begin - 1].isalnum()):
            end = _match(letters, text, begin)
            if end is not None:
                return begin, end
    return None


def _match(letters: list[str], text: str, at: int) -> int | None:
    for letter in letters:
        while at < len(text) and not text[at].isalnum():
            at += 1
        if at == len(text) or text[at].lower()[0] != letter:
            return None
        at += 1
    return at


def word_end(text: str, at: int) -> int:
    """`at`, or behind the marks that follow there."""
    while at < len(text) and not (text[at].isspace() or text[at].isalnum()):
        at += 1
    return at


def time_of(marks: Sequence[Mark], char: int, seconds_per_char: float) -> float:
    """When a character is said that begins a word. Exact where that word is known, else reckoned from the one before it."""
    n = bisect_left(marks, char, key=lambda mark: mark.begin)
    if n < len(marks) and marks[n].begin - char <= 3:  # quotes and brackets make no sound
        return marks[n].start_s
    if n:
        return marks[n - 1].end_s + max(0, char - marks[n - 1].end) * seconds_per_char
    return char * seconds_per_char


class Known(StrEnum):
    """What is known of the place where something broke off."""

    WORD = "word"  # in a word whose times are known
    PAUSE = "pause"  # behind one
    NOTHING = "nothing"  # the times of the last words had not come


class Place(NamedTuple):
    """A place in a repeat, in seconds."""

    at_s: float
    known: Known


def resume_at(heard: Sequence[Mark], repeat: Sequence[Mark], at_s: float, *, told: bool) -> Place | None:
    """Where a repeat goes on for a listener who has heard the first take up to `at_s`.

    `told`: the times of words come before their audio, so that there was none after the last of `heard`. None while the place
    cannot be told: more of the repeat's words have to come.
    """
    n = bisect_right(heard, at_s, key=lambda mark: mark.start_s) - 1
    if n < 0:
        return Place(min(at_s, repeat[0].start_s), Known.PAUSE) if repeat else None
    last = heard[n]
    if at_s < last.end_s:  # the same share of the word
        char = last.begin + (at_s - last.start_s) / (last.end_s - last.start_s) * (last.end - last.begin)
        same = next((mark for mark in repeat if mark.begin <= char < mark.end), None)
        return None if same is None else Place(_within(same, char), Known.WORD)
    # Behind it: in a pause or, if the times of more words had not come, in one of those.
    behind = bisect_left(repeat, last.end, key=lambda mark: mark.begin)
    past_s = at_s - last.end_s
    if not behind or repeat[behind - 1].end < last.end:
        return None
    due_s = _within(repeat[behind - 1], last.end) + past_s  # the repeat may come in other parts
    if told or n + 1 < len(heard):
        return Place(min(due_s, repeat[behind].start_s), Known.PAUSE) if behind < len(repeat) else None
    return Place(due_s, Known.NOTHING) if past_s <= UNTOLD_S else None


def _within(mark: Mark, char: float) -> float:
    """When a character of a word is said."""
    return mark.start_s + (char - mark.begin) / (mark.end - mark.begin) * (mark.end_s - mark.start_s)
