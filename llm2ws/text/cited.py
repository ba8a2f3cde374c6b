"""Marks of sources, "[3]" and the like: not spoken, unless they are a word of the sentence, as in "According to [1]"."""

from __future__ import annotations

import re
from typing import Final

from .abbreviations import BEFORE_REFERENCES
from .cleaning import BEHIND, State
from .enclosed import spaced

__all__ = ["citation", "linked_source", "raised"]

_SURE: Final = re.compile(r"cit|†|turn\d|\^|:")  # marks that are nothing else
_WORD: Final = re.compile(r"([^\W\d_]+)\W?\Z")
_STOP: Final = re.compile(r"[.!?…。！？][\"'”’»)\]*_」』]{0,3}\Z")
_LONG_WORD: Final = re.compile(r"(?<![\w.])([^\W\d_]{4,}|\d{2,})\Z")
_CALL: Final = re.compile(r"\w\([^\s()]*\)\Z")
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u2e80-\ua4cf\uac00-\ud7af\uff00-\uffef]")
# Behind these the mark is a word of the sentence.
_BEFORE_UNSPACED: Final = (
    "根据",
    "依据",
    "参见",
    "参考",
    "文献",
    "据",
    "见",
    "如",
    "在",
    "与",
    "和",
    "按照",
    "によると",
    "参照",
)
_UNITS: Final = ("km", "cm", "mm", "dm", "ft", "mi", "yd", "in")


def citation(state: State, found: re.Match[str]) -> int:
    """Drop the mark of a source, if it is one where it stands."""
    if not _is_source(state, found["mark"], found.start(), found["after"]):
        return found.start()
    end = found.end("mark")
    state.cited = state.base + end
    state.said.drop()
    return end


def _is_source(state: State, mark: str, at: int, after: str) -> bool:
    text = state.buf[max(0, at - BEHIND) : at]
    if _SURE.search(mark) or state.cited == state.base + at:
        return True
    if state.first == state.base + at or mark[1] == "0" or not text.strip() or mark[0] == "【":
        return mark[0] == "【" and state.first != state.base + at
    if text[-1] not in " \u00a0":
        return _is_attached(text, after)
    text = text.rstrip(" *_`~\u00a0")
    if state.cited == state.base + at - 1 or _STOP.search(text):
        return not after.strip()[:1].islower()
    word = _WORD.search(text)
    return text[-1:] in '%)”"’»' or (text[-1:].isalnum() and (word is None or word[1].lower() not in BEFORE_REFERENCES))


def _is_attached(text: str, after: str) -> bool:
    """Return whether a mark right behind the text is that of a source, and no index: "items[0]", "x[1].y"."""
    if _UNSPACED.match(text[-1]):
        return not text.endswith(_BEFORE_UNSPACED)
    if not text[-1].isalnum():
        return _CALL.search(text) is None and text[-1] in ".,;:!?…%”’»)*_\"'"
    word = _LONG_WORD.search(text)
    return word is not None and word[1].lower() not in BEFORE_REFERENCES and (not after.strip() or after[0] in " \n.,;:!?)[")


_HOST: Final = re.compile(r"\[(?:[\w-]+(?:\.[\w-]+)+(?:/[^\s\]]*)?|\d{1,3})\]\(|utm_source=")


def linked_source(state: State, found: re.Match[str]) -> int:
    """Drop links in brackets of their own that name a source by its host."""
    return spaced(state, found) if _HOST.search(found.group()) else found.start()


def raised(state: State, found: re.Match[str]) -> int:
    """Drop a raised number that marks a source; behind a number, a variable or a unit it is a power."""
    at, what = found.start(), found["what"]
    text = state.buf[max(0, at - BEHIND) : at]
    word = _WORD.search(text) if text[-1:].isalpha() else None
    if "[" in what or "*" in what or not (text[-1:].isalnum() or text[-1:] in ")]"):
        return spaced(state, found)
    if word is not None and len(word[1]) > 1 and word[1].lower() not in _UNITS:
        return spaced(state, found)
    said = {"2": " squared", "3": " cubed"}.get(what, f" to the power of {what.replace('−', '-')}")
    state.put(said, *found.span())
    state.said.drop(apart=True)
    return found.end()
