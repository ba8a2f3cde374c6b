"""What other programs leave in the text: sequences of terminals, line feeds that were escaped twice, addresses of files."""

from __future__ import annotations

import re
from typing import Final

from .cleaning import More, State
from .construct import beginnings, construct

__all__ = ["LEFTOVERS", "LOCAL", "LOCAL_BEGINS", "escaped_newline", "local_address", "terminal"]

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
)
_SCHEMES: Final = "file:/", "ftp://", "mailto:", "s3://", "sandbox:/", "sftp://", "ssh://"
LOCAL_BEGINS: Final = "|".join([*_SCHEMES, *map(beginnings, _SCHEMES)])
LOCAL: Final = construct(
    "local_address",
    "fms",
    "urls",
    rf"(?:{'|'.join(_SCHEMES)}){_ADDRESS}+",
    rf"(?:{'|'.join(_SCHEMES)}){_ADDRESS}*\Z|{'|'.join(map(beginnings, _SCHEMES))}",
    "an address may go on",
    bound=1000,
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
    behind = state.buf[max(0, at - 24) : at]
    stops = _TEXT_BEFORE.search(behind) is not None or behind == ""
    if _PATH_BEFORE.search(behind) or not (count > 1 or (stops and not after.islower()) or after.isupper() or after in "-*#"):
        return at
    state.put("\n\n" if count > 1 or state.paragraph else "\n", *found.span())
    state.paragraph = state.heading = state.row = False
    state.line_start = True
    return found.end()


def local_address(state: State, found: re.Match[str]) -> int:
    """Say the name of a file, the host of a server, or an address of mail."""
    at, body = found.start(), found.group().rstrip(".,;:!?")
    scheme, _, rest = body.partition(":")
    path = rest.strip("/")
    if scheme in ("file", "sandbox"):
        path = path.rpartition("/")[2]
    elif scheme != "mailto":
        path = path.partition("/")[0].rpartition("@")[2]
    return state.put(path or "file", at, at + len(body))
