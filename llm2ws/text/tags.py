"""What becomes of tags: dropped, with what they enclose or without, or said where they are words of a sentence."""

from __future__ import annotations

import re
from typing import Final

from .cleaning import More, State
from .enclosed import close, element, removed, spaced
from .machinery import CALLS, RAW_TAGS, THINKS
from .markup import BREAKING_TAGS, HTML_TAGS

__all__ = ["placeholder", "tag"]


def placeholder(state: State, found: re.Match[str]) -> int:
    """Say the words of a placeholder."""
    return found.start() if state.before(found.start()).isalnum() else state.put(found["words"], *found.span())


_AFTER_PLACEHOLDER: Final = re.compile(r" (?:[^\WA-Z]|\Z)|[.,;:!?)\"'”’]|\Z")


def _is_placeholder(state: State, found: re.Match[str]) -> bool:
    """Return whether an unknown name in angle brackets stands in a sentence, where it is a word: "Greet <name> first."."""
    before = state.before(found.start())
    if found.group()[1] == "/" or "=" in found.group() or before.isalnum() or before in ".!?>":
        return False
    starts = state.first == state.base + found.start() or state.said.last in ".!?:"
    follows = _AFTER_PLACEHOLDER.match(state.buf, found.end())
    return follows is not None and not (starts and (follows.group()[:1] != " " or not state.said.last))


def tag(state: State, found: re.Match[str]) -> int:
    """Drop a tag, whatever its name: models wrap answers in tags of their own."""
    at, name, attributes = found.start(), found["name"].lower(), found.group()[1 + len(found["name"]) :]
    thinks = THINKS.search(name) is not None or (name == "details" and 'type="reasoning"' in attributes)
    calls = CALLS.search(name) is not None
    if not (state.rules.think if thinks else state.rules.html) or (attributes[:1] == "=" and not calls):
        return at
    opens = found.group()[1] != "/" and not found.group().endswith("/>")
    if thinks or calls or name in RAW_TAGS:
        after = element(state, found, name) if opens else close(state, found)
        return after if after != at else state.put(found["name"], *found.span())  # only mentioned: its name is a word
    return _known(state, found, name, opens=opens) if name in HTML_TAGS else _unknown(state, found, opens=opens)


def _known(state: State, found: re.Match[str], name: str, *, opens: bool) -> int:
    """Drop a tag of HTML, and say what stands at its edge."""
    said = BREAKING_TAGS.get(name, "")
    if said and state.said.newlines == 0 and (opens or said != ", "):
        state.said.drop()
        state.put(said, *found.span())
    return removed(state, found)


def _unknown(state: State, found: re.Match[str], *, opens: bool) -> int:
    """Drop a tag of the model's own, or say its name where that is a word."""
    if opens and state.before(found.start()).isalnum():
        return found.start()  # List<int>
    if state.more is More.LIKELY and len(state.buf) < found.end() + 2:
        return state.hold("may be a placeholder")
    if _is_placeholder(state, found):
        return state.put(re.sub(r"[-_.]+", " ", found["name"]), *found.span())
    return spaced(state, found)
