"""Data: the characters and patterns by which text is cut; and the verdict on one candidate."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

from .abbreviations import Words
from .fragments import Boundary, Hold

__all__ = [
    "CANDIDATE",
    "CANDIDATE_FIRST",
    "CLAUSE",
    "CLAUSE_WIDE",
    "CLOSERS",
    "EMOJI",
    "LEAD",
    "NEWLINE",
    "OPENERS",
    "PLAIN",
    "PROTECTED_CHARS",
    "SPEAKABLE",
    "STOPS",
    "SURE",
    "TAIL",
    "WIDE",
    "WORD",
    "WORD_END",
    "Verdict",
    "View",
    "cut",
    "go_on",
    "is_grapheme_break",
    "is_lower",
    "is_stop_of_script",
    "match_end",
    "may_grow",
    "wait",
    "width",
]

# Ends in any context: CJK, full-width and half-width; Arabic, Urdu; danda; Ethiopic; Armenian; Khmer; Burmese; Tibetan;
# Mongolian; Syriac; Ol Chiki; Meetei Mayek; Vai; Bamum; Lisu; Thai; N'Ko; Coptic; Greek question mark.
SURE: Final = "。！？｡．؟۔।॥።፧፨։។៕။།༎᠃᠉܀܁܂᱾᱿꯫꘎꘏꛳꛷꓿๚๛߸⳹⁇\u037e"
# Ends only if white space follows: they also stand inside numbers, names and addresses.
STOPS: Final = ".!?…‽‼⁈⁉"
CLOSERS: Final = "\"'’”»›)\\]}」』）】》〉〕〗］｝＂＇"
OPENERS: Final = "\"'“„‘‚«‹(\\[{¿¡「『（【《〈〔〖［｛*_~`"
EMOJI: Final = (
    "\u200d\ufe0e\ufe0f\u20e3\u231a\u231b\u23e9-\u23fa\u2600-\u2712\u2714-\u2793\u27b0-\u27bf\u2b1b\u2b1c\u2b50\u2b55"
    "\U0001f000-\U0001faff\U000e0020-\U000e007f"
)
CLAUSE: Final = ",;:—–،؛，、；：၊፣፥፤՝"
CLAUSE_WIDE: Final = "，、；：၊፣፥፤՝—"
_THAI: Final = "\u0e01-\u0e2e\u0e30-\u0e3a\u0e40-\u0e45\u0e47-\u0e4e\u0e81-\u0ec4\u0ec8-\u0ecd"
_GREEK: Final = "\u0370-\u03ff\u1f00-\u1fff"
_ARMENIAN: Final = "\u0561-\u0587"
# After a letter of Greek a semicolon is the question mark; after one of Armenian a colon is often typed for the full stop.
_ENDS_THERE: Final = {";": re.compile(f"[{_GREEK}]"), ":": re.compile(f"[{_ARMENIAN}]")}

# The next place worth a thought: a stop, but for one right before a letter or digit of ASCII, as in 3.5 or a file name; what
# opens a tag; or, before white space or a closing quote, what may end a sentence only there: Thai and emoji, the stops of one
# script, the number of a list item. One character class first, so that the search is a plain scan.
_ANYWHERE: Final = f"{SURE}\n<\\\\"
_STOP: Final = f"(?<=[{STOPS}])(?![a-zA-Z0-9])"
_THERE: Final = f"(?<=[{_THAI}{EMOJI}])|(?<=[{_GREEK}];)|(?<=[{_ARMENIAN}]:)|(?<=\\s[0-9a-z]\\))|(?<=[0-9][0-9]\\))"
_BEFORE_SPACE: Final = f";:){_THAI}{EMOJI}"
PLAIN: Final = frozenset(STOPS + SURE + "\n<\\")
CANDIDATE: Final = re.compile(f'[{STOPS}{_ANYWHERE}{_BEFORE_SPACE}](?:{_STOP}|(?<=[{_ANYWHERE}])|(?=[ »”"])(?:{_THERE}))')
CANDIDATE_FIRST: Final = re.compile(
    f'[{STOPS}{_ANYWHERE}{_BEFORE_SPACE}{CLAUSE}\\s](?:{_STOP}|(?<=[{_ANYWHERE}{CLAUSE}\\s])|(?=[ »”"])(?:{_THERE}))'
)
NEWLINE: Final = re.compile("\n")
# For the policy WORD: before white space; after CJK punctuation.
WORD_END: Final = re.compile(
    f"(?<=\\S)(?=\\s)|(?<=[{SURE}{CLAUSE_WIDE}」』）】》])(?=[^\\s{SURE}{CLAUSE_WIDE}{CLOSERS}{STOPS}])"
)
SPEAKABLE: Final = re.compile(r"[^\W_]")

# Marks of sources: "[3]", "[2, 5]", "[^1]", "[cite: 3]", "【4†a】", "([a.org](https://a.org/))", and ChatGPT's own.
_MARK: Final = (
    r" ?\[(?:\^?\d{1,3}(?:(?:, ?| ?[-–] ?)\d{1,3}){0,6}|[a-z]{3,9}: ?\d[\d:,; -]{0,20})\]|【[^】\n]{1,80}】"
    r"| ?\(\[[^\[\]\n]{1,100}\]\([^()\s]{1,300}\)\)|:contentReference\[[^\[\]\n]{1,40}\]\{[^{}\n]{1,20}\}"
    "| ?\ue200[^\ue201\n]{1,200}\ue201"
)
# What still belongs to an ended sentence: more stops, closers, markup, marks of sources, emoji that touch it.
TAIL: Final = re.compile(
    f"(?:[{STOPS}{SURE}{CLOSERS}*_~`{EMOJI}¹²³⁰-⁹]|(?<=[{STOPS}])[“‘]|[ \u00a0\u202f]»| [\"'](?=\\s)|{_MARK})*"
)
# A mark of a source may be open.
_HALF_MARK: Final = re.compile(
    r" ?(?:\[\^?[\d, –-]{0,30}|\[[a-z]{0,9}(?:: ?[\d:,; -]{0,20})?|【[^】\n]{0,80}"
    r"|\((?:\[[^\[\]\n]{0,100}(?:\](?:\([^()\s]{0,300}\)?)?)?)?"
    r"|:c?[a-zA-Z]{0,15}(?:\[[^\[\]\n]{0,40}(?:\](?:\{[^{}\n]{0,20})?)?)?|\ue200[^\ue201\n]{0,200})\Z"
)
_DETACHED: Final = re.compile("[\"']?\\Z")  # after white space: a closing quote may stand there by itself
LEAD: Final = re.compile(f"(?:[-—–*•·]+ ?)?[{OPENERS}]*")
WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*['’]?")
WIDE: Final = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]")
# A tag, or one of Deepgram's inline pronunciations, `\{"word": ..., "pronounce": ...}`: never cut unless longer than this.
PROTECTED_CHARS: Final = 160


class View(NamedTuple):
    """What a judge may look at: `text[:end]`, of which `text[start:]` has not been cut off yet.

    It must never say CUT or NO on what a longer view could change; so the cuts do not depend on how the input is chunked.
    "Not there yet" (the view ends) and "not there" are different things throughout.
    """

    text: str
    start: int
    end: int
    origin: int  # where the sentence or the line begins; -1 if that has been sent
    words: Words
    recent: str = ""  # the end of what has been cut off, if the language is to be guessed


class Verdict(NamedTuple):
    """What to do about a candidate.

    CUT before `at`; NO, go on from `at`; or WAIT for more text, and if none comes cut before `at`.
    """

    at: int
    boundary: Boundary | None = None  # set: CUT
    hold: Hold | None = None  # set: WAIT
    why: str = ""


_new = tuple.__new__  # half the time of Verdict(...), and there is one for every stop of every text


def go_on(at: int) -> Verdict:
    """Say NO: nothing ends before `at`."""
    return _new(Verdict, (at, None, None, ""))


def cut(at: int, why: str, boundary: Boundary = Boundary.SENTENCE) -> Verdict:
    """Say CUT before `at`."""
    return _new(Verdict, (at, boundary, None, why))


def wait(at: int, hold: Hold = Hold.NOTHING, why: str = "the next word tells") -> Verdict:
    """Say WAIT; `hold` says what may end before `at`."""
    return _new(Verdict, (at, None, hold, why))


def match_end(pattern: re.Pattern[str], text: str, at: int, end: int) -> int:
    """Return where a match of this pattern at `at` ends; `at` itself if there is none."""
    found = pattern.match(text, at, end)
    return at if found is None else found.end()


def may_grow(text: str, tail: int, end: int) -> bool:
    """Return whether what begins at `tail` may turn out to belong to the mark before it: a footnote mark, a closing quote."""
    if tail >= end or _HALF_MARK.match(text, tail, end) is not None:
        return True
    return text[tail] in " \u00a0\u202f" and _DETACHED.match(text, tail + 1, end) is not None


def width(text: str, start: int, end: int) -> int:
    """Return the columns of `text[start:end]`, in which full-width characters count as two."""
    return end - start + sum(1 for _ in WIDE.finditer(text, start, end))


def is_stop_of_script(text: str, at: int) -> bool:
    """Return whether the semicolon or colon at `at` follows a letter of a script that ends sentences with it."""
    script = _ENDS_THERE.get(text[at])
    return script is not None and at > 0 and script.match(text, at - 1) is not None


def is_lower(char: str) -> bool:
    """Return whether the character is a small letter of a script that has capitals."""
    return char.islower() and not "\u10d0" <= char <= "\u10ff"  # Georgian is caseless in practice


def is_grapheme_break(text: str, at: int) -> bool:
    """Return whether a cut before `text[at]` leaves every grapheme whole. After UAX 29, erring towards no."""
    before, after = text[at - 1], text[at : at + 1]
    if not after or (after < "\u0300" and before < "\u0300"):
        return (before, after) != ("\r", "\n")
    if unicodedata.category(after)[0] == "M" or after in "\u200c\u200d" or "\U0001f3fb" <= after <= "\U0001f3ff":
        return False
    if before == "\u200d" or unicodedata.combining(before) == 9:  # joiner; virama, which joins consonants
        return False
    if "\u1160" <= after <= "\u11ff" or "\U000e0020" <= after <= "\U000e007f":  # Hangul vowels and finals; flag tags
        return False
    if "\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff":
        return False
    if "\U0001f1e6" <= after <= "\U0001f1ff":  # regional indicators pair up from the left
        count = 0
        while at - 1 - count >= 0 and "\U0001f1e6" <= text[at - 1 - count] <= "\U0001f1ff":
            count += 1
        return count % 2 == 0
    return True
