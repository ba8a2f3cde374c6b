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


def explain(text: str, clean: Cleaner, cutter: Fragmenter, *, as_json: bool) -> None:
    """Write each fragment of a text to standard output, with the places that were held; `as_json`: a JSON object a line."""
    for fragment, holds in _fragments(text, clean, cutter):
        if as_json:
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


def _fragments(text: str, clean: Cleaner, cutter: Fragmenter) -> Iterator[tuple[Fragment, list[_Hold]]]:
    """Yield each fragment, and what was held before it could be cut."""
    holds: list[_Hold] = []
    for token in re.finditer(r"\s*\S{1,6}|\s+", text):  # of the size in which models write
        for piece in clean.feed(token[0]):
            for fragment in cutter.feed(piece):
                yield fragment, holds
                holds = []
        for hold, why in (clean.holding, cutter.holding):
            if hold != "nothing" and (not holds or holds[-1].why != why):
                holds.append(_Hold(text[max(0, token.end() - 20) : token.end()], why))
    for fragment in [fragment for piece in clean.finish() for fragment in cutter.feed(piece)] + cutter.finish():
        yield fragment, holds
        holds = []
