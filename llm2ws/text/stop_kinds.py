"""Tell by the word before a full stop whether a sentence ends there: an ordinary word, an abbreviation, a number."""

from __future__ import annotations

import re
from typing import Final, Literal

from .boundaries import WIDE, View

__all__ = ["LIST_NUMBER", "VOWEL", "Kind", "kind_of_word"]

# The word before a full stop, back to white space or an opening mark; matched on the reversed text, where it begins.
_BEFORE = re.compile(r"[^\s()\[\]{}\"“”„«»‹›*_~`/,;:—–<>!?¡¿…]+")
# One character that is no initial: a sign, the end of a path or of a Hebrew acronym, "A/B", "https://a.b/c", ארה"ב.
_NO_INITIAL = re.compile('/|.[%€£¥₹₽₺₴₩$¢]|(?<=[\u05d0-\u05ea])["”][\u05d0-\u05ea]')
_SPACED = re.compile(r"(?:^|[\s(])((?:[^\W\d_]{1,2}\.\s){1,3})\Z")  # "z. " before "B.", "и т. " before "д."
# Up to a full stop that only numbers an item: "1", "- **2", "iv", "b".
LIST_NUMBER = re.compile(r"[\s>]*(?:[-*+•⁃‣][ \t]*)?[*_(#]*[ ]?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})\Z")
_AFTER_NUMBER = re.compile(r"(?:\d|(?:^|\W)[IVXLC]{1,7})[ \u00a0]?\Z")
_WHEN = re.compile(r"\s*[^\W\d_]{1,2} (?:\d[\d:.,]*|[IVXLC]+)[ \u00a0]?")
_UNITS: Final = ("ms",)  # milliseconds, not a title
_RANKS: Final = ("cmdr", "col", "gen", "maj")
_RANK: Final = re.compile(r"\b(?:Lt|Maj|Brig|Col|Sgt)\.\s\Z")
_NAMES: Final = ("al", "art", "ed", "max", "pat")
_SPOONS: Final = ("oz", "tbs", "tbsp", "tsp")
_ELISION = re.compile(r"^[^\W\d_]{1,4}['’](?=[^\W\d_]{2})")  # French and Italian: "l'art. 5"
VOWEL = re.compile("[aeiouyäëïöüáéíóúàèìòùâêîôûãõåæøœıаеёиоуыэюяіїєαεηιουωάέήίόύώ]")
# Consonants of Thai and Lao; one open syllable of Bengali, Tamil, Telugu, Kannada or Malayalam, where it is an initial.
_SHORT_THERE = re.compile(
    "[\u0e01-\u0e2e\u0e81-\u0eae]{1,4}|[\u0985-\u09b9\u0b85-\u0bb9\u0c05-\u0c39\u0c85-\u0cb9\u0d05-\u0d39]"
    "[\u0981-\u0983\u09be-\u09cc\u0bbe-\u0bcc\u0c00-\u0c03\u0c3e-\u0c4c\u0c82\u0c83\u0cbe-\u0ccc\u0d02\u0d03\u0d3e-\u0d4c]*"
)
_LATIN_GREEK_CYRILLIC = re.compile("[a-zа-яα-ω]+\\Z")

# What the word before a full stop, or the stop itself, says about an end.
Kind = Literal[
    "sure",  # an ordinary word
    "never",  # "Dr.", "e.g.", the number of a list item
    "doubt",  # "Inc.", "U.S.", an initial: only before a word that begins sentences
    "ends",  # "etc.", "5 kg.": before a capital
    "number-follows",  # "No.", "p.": not before a number
    "ordinal",  # a small number in a language that writes "3. Juli"
    "ellipsis",
    "mark",  # a question or exclamation mark
]


def kind_of_word(view: View, at: int) -> Kind:
    """Return what the word before the full stop at `at` says."""
    text, start, _, origin, _, _ = view
    found = _BEFORE.match(text[max(start, at - 40) : at][::-1])
    if found is None:
        return "ellipsis" if text[at - 2 : at] == ". " else "sure"
    if origin >= 0 and LIST_NUMBER.match(text, origin, at):
        return "never"
    begin = at - found.end()
    written = text[begin:at]
    if len(written) == 1 and begin > start + 1 and _NO_INITIAL.match(text, begin - 1, at):
        return "sure"
    word = written.lower()
    if "'" in word or "’" in word:
        word = _ELISION.sub("", word)
    # Slices, so that what has been cut off makes no difference; longer than a match, so that ^ is where the fragment begins.
    spaced = _SPACED.search(text[max(start, begin - 13) : begin]) if len(word) <= 2 and word.isalpha() else None
    if spaced is not None:
        word = "".join(spaced[1].lower().split()) + word
    if word.isdigit():
        return "ordinal" if len(word) <= 2 and view.words.ordinal_nouns else "sure"
    if len(word) > 1 and word not in view.words.abbreviations and not _looks_short(written, word):
        return "sure"
    return _kind_of_abbreviation(view, begin, written, word)


def _kind_of_abbreviation(view: View, begin: int, written: str, word: str) -> Kind:
    """Return the kind of the abbreviation or initial that begins at `begin`; `word` is how the tables write it."""
    text, start, _, origin, words, _ = view
    after_number = _is_after_number(text[max(start, begin - 9) : begin])
    if (kind := _kind_of_name(written, word, text[max(start, begin - 6) : begin])) is not None:
        return kind
    if word in words.ends or (after_number and (word in words.may_end or len(word) == 1)):
        # "etc."; "5 min.", "350 F."; but hardly "At 5 p.m.", or "1 tbsp." before what is measured
        hardly = word in _SPOONS or (origin >= 0 and _WHEN.fullmatch(text, origin, begin))
        return "doubt" if hardly else "ends"
    if word in words.never:
        return "ends" if after_number and word in _UNITS else "never"
    initial = len(word) == 1 and written.isupper()
    if not initial and word in words.before_number and word not in words.may_end:
        return "number-follows"
    if word in words.may_end or _looks_short(written, word):
        return "ends" if after_number and "." not in word else "doubt"
    return "sure"


def _is_after_number(before: str) -> bool:
    return not before[-2:-1].islower() and _AFTER_NUMBER.search(before) is not None


def _kind_of_name(written: str, word: str, before: str) -> Kind | None:
    """Return the kind of a word that is an abbreviation only as it is written, or behind another one; None for others."""
    if word in _RANKS and _RANK.search(before):
        return "never"  # "Lt. Col."
    if (word == "app" and written != "App") or (word in _NAMES and written[0].isupper() and len(before) > 1):
        return "sure"  # the dog is called Max
    return None


def _looks_short(written: str, word: str) -> bool:
    """Return whether a word that no table knows has the form of an abbreviation."""
    if len(word) == 1:  # an initial
        return word.isalpha() and WIDE.match(word) is None and not "\uac00" <= word <= "\ud7a3"
    if "." in word:  # "B.Sc", but not "main.py", "3.11" or "$1.5M"
        return all(len(part) <= 3 and not part[-1:].isdigit() for part in word.split("."))
    if written.isupper():  # the doubled letters of a Spanish plural: "EE. UU."
        return len(word) == 2 and word[0] == word[1] and word not in ("ii", "xx")
    if word.endswith("str"):  # "Bahnhofstr."
        return True
    if _SHORT_THERE.fullmatch(word):
        return True
    return VOWEL.search(word) is None and _LATIN_GREEK_CYRILLIC.match(word) is not None  # "Mngr."
