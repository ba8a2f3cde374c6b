"""Patterns for words that are to be said differently: names, abbreviations, what a voice gets wrong.

The keys become a tree of characters, so that finding one of a thousand costs no more than finding one of ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["half_pattern", "whole_pattern"]

_NEVER: Final = "(?!)"


class _Node:
    """What may follow the characters so far."""

    __slots__ = ("after", "ends")

    def __init__(self) -> None:
        self.after: dict[str, _Node] = {}
        self.ends = False  # a key ends here


def whole_pattern(keys: Iterable[str]) -> str:
    """Return a pattern for the longest of the keys, as a whole word where it begins or ends like one."""
    return _pattern(keys, half=False)


def half_pattern(keys: Iterable[str]) -> str:
    """Return a pattern for what stands at the end of the text and may become one of the keys, or a longer one."""
    return _pattern(keys, half=True)


def _pattern(keys: Iterable[str], *, half: bool) -> str:
    root = _Node()
    for key in keys:
        node = root
        for char in key:
            node = node.after.setdefault(char, _Node())
        node.ends = True
    ways = [("(?<!\\w)" if _in_word(char) else "") + _branch(char, node, half=half) for char, node in root.after.items()]
    return "|".join(ways) or _NEVER


def _branch(char: str, node: _Node, *, half: bool) -> str:
    ways = [_branch(following, after, half=half) for following, after in node.after.items()]
    boundary = "(?!\\w)" if _in_word(char) else ""
    if not half:
        return re.escape(char) + f"(?:{'|'.join([*ways, boundary] if node.ends else ways)})"
    if ways or boundary:
        ways.insert(0, "\\Z")
    return re.escape(char) + f"(?:{'|'.join(ways) or _NEVER})"


def _in_word(char: str) -> bool:
    return char == "_" or char.isalnum()
