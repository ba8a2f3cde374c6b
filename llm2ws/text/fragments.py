"""The words in which the parts of `text/` talk: Piece, Fragment, Boundary, Policy, Hold.

    model's text -> Cleaner -> Pieces -> Fragmenter -> Fragments

Positions are offsets in characters (code points) into the model's whole text of one turn.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Boundary", "Fragment", "Held", "Hold", "Piece", "Policy"]


class Policy(StrEnum):
    """How far an endpoint wants the text cut."""

    TOKEN = "token"  # as it comes, untouched: the endpoint finds the boundaries itself
    WORD = "word"  # at white space
    CLAUSE_FIRST = "clause-first"  # the first fragment at a clause end, all later ones at sentence ends
    SENTENCE = "sentence"  # at sentence ends and line structure


class Boundary(StrEnum):
    """Why a fragment ended where it did."""

    SENTENCE = "sentence"  # a sentence end, or a line that is one: a heading, a list item
    CLAUSE = "clause"  # comma, colon, dash, before a conjunction
    LENGTH = "length"  # the maximum length; the best place before it
    PAUSE = "pause"  # `release` was called: the model paused, or the listener is about to run dry
    END = "end"  # the text ended
    WORD = "word"  # the policies WORD and TOKEN: no claim about the language


class Hold(StrEnum):
    """What the last characters may turn out to be; decides how long a pause of the model is waited out."""

    NOTHING = "nothing"  # no place to cut is in sight
    SURE = "sure"  # a sure end: only closing quotes or brackets may still belong to it
    CAPITAL = "capital"  # an end, if the next word begins like a sentence
    DOUBT = "doubt"  # perhaps a number, an initial, an abbreviation, a half-open marker


class Held(NamedTuple):
    """What is being held back, and why: for pacing, and for a person who asks (`llm2ws explain`)."""

    hold: Hold
    why: str  # a few words: "a capital may follow", "may be an abbreviation"


class Piece(NamedTuple):
    """Clean text and the span of the model's text that it stands for.

    If `len(text) == end - start`, each character stands for the one at the same place. Otherwise the text as a whole replaces
    the span (a link's host, a phrase for a code block) and the span is not divided.
    Spans rise: no Piece starts before the previous one ended; what lies between two spans was dropped.
    """

    text: str
    start: int
    end: int


class Fragment(NamedTuple):
    """A stretch of clean text to be sent as one Speak.

    All `text`s of a turn joined give the cleaned text exactly: white space around a cut is kept (at the start of the
    fragment after it) and made into separators only when the fragment is sent.
    """

    index: int  # type: ignore[assignment]  # counts from 0 in each turn; in the place of a tuple's index()
    text: str
    start: int
    end: int
    boundary: Boundary
    why: str  # a few words for `llm2ws explain`: "'.' before a capital"
