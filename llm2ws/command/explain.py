"""Where a text is cut, and why: what `llm2ws explain` shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .report import emit

if TYPE_CHECKING:
    from ..text.cleaner import Cleaner
    from ..text.fragmenter import Fragmenter
    from ..text.fragments import Fragment

__all__ = ["explain"]


class _Hold(NamedTuple):
    """A place at which more text had to be seen before it could be cut: the text before that place, and why."""

    after: str
    why: str


class _LeftOut(NamedTuple):
    """A stretch of the text that is not spoken: its span, in characters, and what it holds."""

    start: int
    end: int
    text: str


def explain(text: str, clean: Cleaner, cutter: Fragmenter, *, as_json: bool) -> None:
    """Write each fragment of a text to standard output, with the places that were held, and what is left out between them.

    `as_json`: a JSON object a line.
    """
    for fragment, holds in _fragments(text, clean, cutter):
        if isinstance(fragment, _LeftOut):
            if as_json:
                emit({"left_out": [fragment.start, fragment.end], "text": fragment.text})
            else:
                print(f"    left out  {_quoted(fragment.text)}  {fragment.start}-{fragment.end}")
        elif as_json:
            fields = {
                "index": fragment.index,
                "boundary": fragment.boundary,
                "why": fragment.why,
                "span": [fragment.start, fragment.end],
                "text": fragment.text,
            }
            emit(fields | {"held": [hold._asdict() for hold in holds]})
        else:
            where = f"{fragment.start}-{fragment.end}"
            print(f"{fragment.index:3} {fragment.boundary:9} {_quoted(fragment.text)}  {where}: {fragment.why}")
            for hold in holds:
                print(f"    held      after {_quoted(hold.after)}: {hold.why}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _fragments(text: str, clean: Cleaner, cutter: Fragmenter) -> Iterator[tuple[Fragment | _LeftOut, list[_Hold]]]:
    """Yield each fragment with what was held before it could be cut; and, as soon as it is known, what is left out."""
    holds: list[_Hold] = []
    at = 0  # the end of the text whose fate is known
    for token in re.finditer(r"\s*\S{1,6}|\s+", text):  # of the size in which models write
        for piece in clean.feed(token[0]):
            yield from ((stretch, []) for stretch in _left_out(text, at, piece.start))
            at = piece.end
            for fragment in cutter.feed(piece):
                yield fragment, holds
                holds = []
        for hold, why in (clean.holding, cutter.holding):
            if hold != "nothing" and (not holds or holds[-1].why != why):
                holds.append(_Hold(text[max(0, token.end() - 20) : token.end()], why))
    for piece in clean.finish():
        yield from ((stretch, []) for stretch in _left_out(text, at, piece.start))
        at = piece.end
        for fragment in cutter.feed(piece):
            yield fragment, holds
            holds = []
    for fragment in cutter.finish():
        yield fragment, holds
        holds = []
    yield from ((stretch, []) for stretch in _left_out(text, at, len(text)))


def _left_out(text: str, start: int, end: int) -> list[_LeftOut]:
    """Return what lies between two pieces of spoken text, unless it is only spaces and marks, such as those of markup."""
    stretch = text[start:end]
    return [_LeftOut(start, end, stretch.strip())] if any(char.isalnum() for char in stretch) else []
