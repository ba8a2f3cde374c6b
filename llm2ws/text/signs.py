"""Signs that carry words: arrows and comparisons in prose, marks in the cells of tables, notes, suits, styled letters."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from .cleaning import BEHIND, More, State
from .fragments import Hold
from .languages import guess
from .latex import SIGNS
from .markup import EMOJI

__all__ = ["RUN_CHARS", "SIGN_CHARS", "SIGN_SPOTS", "name_of", "pictograph", "sign"]

# Said as they are by every voice, or part of a number.
_SPOKEN: Final = "×÷±−"
_ARROWS: Final = "→⟶➔➜➝➞⇒⟹➙➛"  # within text a step from one thing to the next, which a comma says in every language
_PROSE: Final = {"←": "left", "⟵": "left", "⇐": "left", "↔": "and"}  # otherwise than in formulas
_DRAWN: Final = "\u2500-\u259f"  # boxes, blocks, bars of progress
_MATHEMATICAL: Final = "\U0001d400-\U0001d7ff"
# Letters and digits of other styles: mathematical, enclosed, of full width, in squares.
_STYLED: Final = "\u2460-\u24ff\u2102\u210a-\u2113\u2115\u2119-\u211d\u2124\u2128\u212c\u212d\u212f-\u2131\u2133\u2134"
_WIDE: Final = "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a"
_SQUARED: Final = "\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189"
_PLAIN_SIGNS: Final = "".join(sign for sign in SIGNS if sign not in _SPOKEN) + "➙➛" + _DRAWN + _WIDE
SIGN_CHARS: Final = _PLAIN_SIGNS + _MATHEMATICAL + _STYLED + _SQUARED + "^"
# Signs and pictographs, with as few ranges as can be: each costs time for each character of the text.
SIGN_SPOTS: Final = "\\^" + _PLAIN_SIGNS + _STYLED + EMOJI.replace("\U0001f000", "\U0001d400")

RUN_CHARS: Final = 64  # of pictographs that are looked at together
_VERB: Final = re.compile(r"(?:\b(?:am|are|be|been|being|is|was|were)|[(\[,:;])\s*\Z")
_BASE: Final = re.compile(r"(?:(?<![\w^.])[^\W\d_]|\d|\))\Z")
_POWER: Final = re.compile(r"\^(?:\{(-?\w{1,8})\}|\((-?\w{1,8})\)|(-?(?:\d{1,8}|[a-z](?![a-zA-Z]))))(?![\w^])")
_HALF_POWER: Final = re.compile(r"\^[{(]?-?\w{0,8}[})]?\Z")
_FOLLOWING: Final = re.compile(r"[ \t]*(?:(?P<next>\S)|\r?\n|(?P<open>\r?\Z))")

_NOTES: Final = {"♯": "sharp", "♭": "flat", "♮": "natural"}
_NOTE: Final = re.compile(r"(?:\A|[^\w])[A-Ga-g]\Z")
_SUITS: Final = dict(zip("♠♥♦♣♤♡♢♧", ["spades", "hearts", "diamonds", "clubs"] * 2, strict=True))
_CARD: Final = re.compile(r"(?:\A|[^\w])(?:[AKQJ2-9]|10)\Z")
_STARRED: Final = re.compile(r"\d ?\Z")
_HEARTS: Final = "❤♥💙💚💛💜🧡🖤💗💖💕"
_LOVER: Final = re.compile(r"(?:\A|\W)(?:I|[Ww]e|[Yy]ou|They|they) ?\Z")
_CHECKS: Final = "✅✔✓☑🗸"
_CROSSES: Final = "❌✗✘✖❎☒🗙"
_STOPS: Final = re.compile(r"[.!?]")
_KEYCAP: Final = "\u20e3"


def sign(state: State, at: int) -> int:
    """Say a sign in words, or a styled letter as a plain one."""
    char = state.buf[at]
    if char == "^":
        return _power(state, at)
    if "\u2500" <= char <= "\u259f":
        state.said.drop(apart=True)
        return at + 1
    if char not in SIGNS and char not in _ARROWS:
        return _plain(state, at)
    following = _FOLLOWING.match(state.buf, at + 1)
    assert following is not None
    if following["open"] is not None and state.more is More.LIKELY:
        return state.hold("the next word tells", Hold.SURE)
    if char in _ARROWS:
        state.said.drop(apart=True)
        if following["next"] and state.said.newlines == 0 and state.said.last not in ".,:;!?":
            state.put(", ", at, at + 1)
            state.said.drop()
        return at + 1
    word = _PROSE.get(char) or SIGNS[char]
    if word.startswith("is ") and (_VERB.search(state.buf[max(0, at - BEHIND) : at]) or state.said.newlines):
        word = word[3:]
    return put_word(state, word, at, at + 1)


def put_word(state: State, word: str, at: int, end: int) -> int:
    """Say a word with a space before it, and one behind it if a letter or a digit follows."""
    if state.said.last not in ("", " ", "\n", "(") and not state.said.waits:
        word = " " + word
    state.put(word, at, end)
    state.said.drop(apart=True)
    return end


def _power(state: State, at: int) -> int:
    """Say the power of a number or of a variable of one letter: "10^6", "x^2"."""
    if _BASE.search(state.buf[max(0, at - BEHIND) : at]) is None:
        return at
    if state.more is More.LIKELY and _HALF_POWER.match(state.buf, at):
        return state.hold("a power may follow", Hold.SURE)
    found = _POWER.match(state.buf, at)
    if found is None:
        return at
    power = found[1] or found[2] or found[3]
    return put_word(state, {"2": "squared", "3": "cubed"}.get(power, f"to the power of {power}"), at, found.end())


def _plain(state: State, at: int) -> int:
    char = state.buf[at]
    squared = "\U0001f130" <= char <= "\U0001f189"
    return state.put(chr(ord("A") + (ord(char) - 0x1F130) % 32) if squared else unicodedata.normalize("NFKC", char), at, at + 1)


def name_of(char: str) -> str:
    """Return what a pictograph is called, "" if it has no name."""
    if char in _CHECKS:
        return "yes"
    if char in _CROSSES:
        return "no"
    return unicodedata.name(char, "").lower().removesuffix(" sign").removesuffix(" symbol")


def pictograph(state: State, at: int, end: int) -> int:
    """Drop pictographs, but for those that are words; between two sentences a stop takes their place."""
    run, behind = state.buf[at:end], state.buf[max(0, at - BEHIND) : at]
    following = _FOLLOWING.match(state.buf, end)
    assert following is not None
    if state.more is More.LIKELY and ((end == len(state.buf) and end - at < RUN_CHARS) or following["open"] is not None):
        return state.hold("the next word tells", Hold.SURE)
    word, size = _word_of(run, behind, following)
    if not word and state.row and behind.rstrip(" \t")[-1:] == "|" and following["next"] in ("|", None):
        word, size = name_of(run[0]), len(run)
    if word:
        return put_word(state, word, at, at + size)
    if state.said.newlines and state.paragraph and run[0] in _CROSSES and following["next"]:
        return state.put("no:", at, end)
    return _drop_pictographs(state, at, end, ends=_separates(run, behind, following))


def _drop_pictographs(state: State, at: int, end: int, *, ends: bool) -> int:
    """Drop pictographs; a stop takes their place where they end a sentence."""
    state.said.drop(apart=True)
    plain = state.buf[at:end].strip("\ufe0f\ufe0e\u20e3")
    if ends and (state.said.last.isalnum() or state.said.last == ")"):
        state.said.forget_gap()
        state.put(".", at, end)
        state.said.drop(apart=True)
    elif plain:
        state.pictograph = state.pictograph or name_of(plain[0])
    return end


def _word_of(run: str, behind: str, following: re.Match[str]) -> tuple[str, int]:
    """Return the word that a pictograph stands for where it is, and how many characters that takes; "" for none."""
    first = run[0]
    if first in _NOTES and _NOTE.search(behind):
        return _NOTES[first], 1
    if first in _SUITS and _CARD.search(behind):
        return f"of {_SUITS[first]}", len(run)
    if first == "★" and _STARRED.search(behind):
        return "stars", len(run)
    if first in _HEARTS and _LOVER.search(behind) and following["next"] is not None and following["next"].isalnum():
        return "love", len(run)
    return "", 0


def _separates(run: str, behind: str, following: re.Match[str]) -> bool:
    """Return whether what stands behind the pictographs begins like a sentence."""
    if following["next"] is None or not following["next"].isupper() or _KEYCAP in run:
        return False
    language = guess("", _STOPS.split(behind)[-1])
    return not (language is not None and language.nouns_have_capitals)
