"""What other programs leave in the text: sequences of terminals, line feeds that were escaped twice, addresses of files."""

from __future__ import annotations

import re
from typing import Final

from .cleaning import BEHIND, More, State
from .construct import construct

__all__ = ["LEFTOVERS", "escaped_newline", "local_address", "terminal"]

_ADDRESS: Final = r"[^\s<>\"'`)\]}，。、“”]"
LEFTOVERS: Final = (
    construct(
        "terminal",
        "\x1b\x9b",
        "unseen",
        r"\x1b\[(?P<back>\d{1,2})D\x1b\[K\r?\n|(?:\x1b\[|\x9b)[0-?]{0,40}[ -/]{0,4}[@-~]"
        r"|\x1b[\]PX^_][^\x07\x1b\n]{0,250}(?:\x07|\x1b\\|(?=\n)|\Z)|\x1b[ -/]{0,4}[0-Z\\^-~]?",
        r"\x1b(?:\[\d{1,2}D\x1b(?:\[(?:K\r?)?)?|\[[0-?]{0,40}[ -/]{0,4}|[\]PX^_][^\x07\x1b\n]{0,250}\x1b?|[ -/]{0,4})?\Z"
        r"|\x1b\[\d{1,2}D\Z|\x9b[0-?]{0,40}[ -/]{0,4}\Z",
        "may be a sequence of a terminal",
        paused=True,
    ),
    construct(
        "escaped_newline",
        "\\",
        "escapes",
        r"(?:(?:\\r)?\\n)+(?=(?P<next>[^\\])|\Z)",
        r"\\(?:r(?:\\n?)?|n(?:\\r|\\n)*\\?)?\Z|(?:(?:\\r)?\\n)+\\?\Z",
        "may be a line feed",
        paused=True,
    ),
    construct(
        "local_address",
        ":",
        "urls",
        rf":/{{1,3}}{_ADDRESS}+",
        rf":(?:/{{0,3}}|/{{1,3}}{_ADDRESS}+)\Z",
        "an address may go on",
        bound=1000,
        paused=True,
    ),
)


def terminal(state: State, found: re.Match[str]) -> int:
    """Drop a sequence of a terminal; where it wraps a word, which is written again on the next line, also what is repeated."""
    at, end = found.span()
    back = int(found["back"] or 0)
    if back:
        if len(state.buf) < end + back and state.more is More.LIKELY:
            return state.hold("a word may be written again")
        if at >= back and state.buf[end : end + back] == state.buf[at - back : at]:
            return end + back
        return end - 1  # the line feed stays
    if found.group()[1:2] == "]":
        state.said.drop()
    return end


_TEXT_BEFORE: Final = re.compile(r"[.!?:;,)\]\"'”’*_…。！？]\Z")
_PATH_BEFORE: Final = re.compile(r"\\\S*\Z|(?<![^\W\d_])[A-Za-z]:\Z")


def escaped_newline(state: State, found: re.Match[str]) -> int:
    """Say a line feed that was escaped twice, unless it is part of a path."""
    at, count, after = found.start(), found.group().count("n"), found["next"] or " "
    behind = state.buf[max(0, at - BEHIND) : at]
    stops = _TEXT_BEFORE.search(behind) is not None or not behind.strip()
    if _PATH_BEFORE.search(behind) or not (count > 1 or (stops and not after.islower()) or after.isupper() or after in "-*#"):
        return at
    state.put("\n\n" if count > 1 or state.paragraph else "\n", *found.span())
    state.paragraph = state.heading = state.row = False
    state.line_start = True
    return found.end()


_SCHEME: Final = re.compile(r"(?<![\w:/])([a-z][a-z0-9+.-]{1,11})\Z")


def local_address(state: State, found: re.Match[str]) -> int:
    """Say the name of a file, or the host of a server, behind what kind of address it is: "file:/a/b.txt"."""
    at, body = found.start(), found.group().rstrip(".,;:!?")
    scheme = _SCHEME.search(state.buf[max(0, at - BEHIND) : at])
    if scheme is None or (scheme[1] not in ("file", "sandbox") and not body.startswith("://")):
        return at
    path = body.lstrip(":/").rstrip("/")
    path = path.rpartition("/")[2] if scheme[1] in ("file", "sandbox") else path.partition("/")[0].rpartition("@")[2]
    return state.put(f" {path}", at, at + len(body)) if path else at
