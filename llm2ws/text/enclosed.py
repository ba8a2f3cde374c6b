"""Constructs that are dropped together with what they enclose: code blocks, thoughts, comments, elements that hold no text.

Dropping without an end needs certainty: at the start of a line such a construct opens, and if its end never comes, all that
follows is dropped. Within a line it must end within the same paragraph, else it is only mentioned, and is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from .cleaning import Literal, More, State
from .markup import CJK, THINK_MARKS, THINK_TAGS

__all__ = ["comment", "element", "fence", "header", "removed", "spaced", "thought"]

_NEAR: Final = 2000  # characters: within a line, what is enclosed must end within so many
_PARAGRAPH_END: Final = re.compile(r"\n[ \t>]*\r?\n")
_WORD: Final = re.compile(r" (?:[^\W\d_]|\Z)|\Z")
_STOPS: Final = re.compile(r"[.!?…。！？][ \t]?\Z")
# "<think> and </think>": two marks that are mentioned, with what stands between them in a list.
_ONLY_BETWEEN: Final = re.compile(r"[ \t]*(?:[,/&+]|\.\.\.|…|[ \t][^\W\d_]{1,4})?[ \t]*\Z")


def removed(state: State, found: re.Match[str]) -> int:
    """Drop what was found."""
    if state.first == state.base + found.start():
        state.first = state.base + found.end()
    state.said.drop()
    return found.end()


def spaced(state: State, found: re.Match[str]) -> int:
    """Drop what was found, which held two words apart."""
    state.said.drop(apart=True)
    return found.end()


def _drop_enclosed(state: State, found: re.Match[str], literal: Literal, *, words: bool = True) -> int:
    """Drop the construct with what it encloses; return its own place if it is only mentioned, -1 if more must come first."""
    at, end = found.span()
    if _opens(state, found, words=words):
        state.literal = literal
        state.line_start = True  # a thought at the start of a line leaves the line at its start
        state.said.drop()
        return end
    after = _near_end(state, end, literal)
    if after <= end:
        return at if after else state.hold("may be only a mention of what is not said")
    state.said.drop()
    return after


def _opens(state: State, found: re.Match[str], *, words: bool) -> bool:
    """Return whether the construct opens here, whatever follows.

    `words`: what it encloses may be words, and not only code. If not, "<script> tags load code." opens nothing, though the tag
    begins its line.
    """
    at, end = found.span()
    if state.first != state.base + at:
        return state.buf.startswith("\n", end) and _STOPS.search(state.buf, max(0, at - 2), at) is not None
    return words or _WORD.match(state.buf, end) is None or (state.more is More.NEVER and len(state.buf) < end + 2)


def _near_end(state: State, at: int, literal: Literal) -> int:
    """Return where the end that comes within the paragraph ends; `at` itself if there is none, 0 if more must come first."""
    text, limit = state.buf, at + _NEAR
    if state.more is More.NEVER:
        text += "\n"
    close = literal.end.search(text, at, limit)
    if close is not None and _PARAGRAPH_END.search(text, at, close.start() + 1) is None:
        mentioned = text[at - 1] == ">" and close.start() > at and _ONLY_BETWEEN.match(text, at, close.start()) is not None
        return at if mentioned else close.end()
    if close is None and state.more is not More.NEVER and len(text) < limit and _PARAGRAPH_END.search(text, at) is None:
        return 0
    return at


# --- code ------------------------------------------------------------------------------------------------------------


@cache
def _fence_end(
    mark: str, size: int, indent: int, *, quoted: bool, item: int, said: bool
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return what ends a block of code, and what may become it.

    As CommonMark has it, that is a fence of at least the same size, or the end of the quotation or list item that holds the
    block. Models also go on behind the fence, on its line.
    """
    lead = rf"\n[ \t{'>' if quoted else ''}]{{0,{indent + (11 if quoted else 3)}}}"
    close = rf"{lead}{mark}{{{size},40}}"
    ends = [rf"{close}[ \t]{{0,40}}\r?(?=\n)"]
    halves = [rf"{lead}(?:{mark}{{1,40}}[ \t]{{0,40}}\r?)?\Z"]
    if mark == "`" and not said:
        ends.append(rf"{close}(?:[ \t]{{1,40}}|(?=[A-Z]))(?={CJK.pattern}|[^\s`]{{1,40}}[ \t]{{1,40}}[^\s`])")
        halves.append(rf"{close}[ \t]{{0,40}}[^\s`]{{1,40}}[ \t]{{0,40}}\Z")
    if quoted:
        ends.append(rf"(?=\n[ \t]{{0,{indent + 11}}}[^ \t>])")
    elif item:
        ends.append(rf"(?=\n {{0,{item - 1}}}[^ \t\r\n])")
    return re.compile("|".join(ends)), re.compile("|".join(halves))


def fence(state: State, found: re.Match[str]) -> int:
    """Say the phrase for code, and drop the block."""
    at, end = found.span()
    mark, size = found["fence"][0], min(len(found["fence"]), 20)
    said, quoted, own_line = not state.rules.code, state.quoted, state.line_start
    indent = found.start("fence") - at if own_line else state.item
    item = min(state.item, indent) if not quoted else 0
    plain = Literal(*_fence_end(mark, size, indent, quoted=quoted, item=0, said=said), said=said, end_said=said)
    literal = plain
    if item:  # but for code that is not indented as it should be
        literal = plain._replace(end=_fence_end(mark, size, indent, quoted=False, item=item, said=said)[0])
        literal = literal._replace(begin=state.base + end, otherwise=plain)
    if not own_line and not said and not _begins_block(state, found):
        after = _near_end(state, end, plain)
        if after <= end:
            return at if after else state.hold("code may begin")
    state.literal = literal
    state.line_start = False
    if said:
        return state.say(at, end)
    if end < len(state.buf) and state.code_phrase:
        state.said.new_paragraph(state.base + at)
        state.put(state.code_phrase, at, end)
        state.put("\n\n", end, end + 1)  # now, and not only when the block ends
    return removed(state, found)


def _begins_block(state: State, found: re.Match[str]) -> bool:
    """Return whether a fence at the end of a line opens for certain: with a language, behind a colon, or the line's first."""
    at, end = found.span()
    introduced = state.buf[max(0, at - 2) : at].rstrip(" ").endswith((":", "："))
    return introduced or state.said.newlines > 0 or state.buf[found.end("fence") : end].strip() != ""


# --- elements and thoughts ---------------------------------------------------------------------------------------------

_COMMENT: Final = Literal(re.compile("-->"), re.compile(r"--?\Z"))


def comment(state: State, found: re.Match[str]) -> int:
    """Drop a comment."""
    return _drop_enclosed(state, found, _COMMENT)


def _until_closed(names: Iterable[str]) -> Literal:
    ways = "|".join(map(re.escape, sorted(names)))
    return Literal(re.compile(rf"</(?:{ways})[ \t]{{0,8}}>", re.IGNORECASE), re.compile(r"<(?:/[\w:]{0,20}[ \t]{0,8})?\Z"))


_THOUGHT: Final = _until_closed(THINK_TAGS)  # a model may close another tag than it has opened
_THOUGHTS: Final = {
    begin: Literal(re.compile(re.escape(end)), re.compile(f"{re.escape(end[0])}[/|\\w]{{0,20}}\\Z"))
    for begin, end in THINK_MARKS.items()
}


def element(state: State, found: re.Match[str], name: str) -> int:
    """Drop a thought, or an element that holds no text."""
    thinks = name in THINK_TAGS
    return _drop_enclosed(state, found, _THOUGHT if thinks else _until_closed((name,)), words=thinks)


def thought(state: State, found: re.Match[str]) -> int:
    """Drop a thought between the marks of a model's template."""
    return _drop_enclosed(state, found, _THOUGHTS[found.group()])


_MESSAGE: Final = Literal(re.compile(r"<\|(?:call|end|return)\|>|(?=<\|(?:channel|start)\|>)"), re.compile(r"<[|\w]{0,20}\Z"))


def header(state: State, found: re.Match[str]) -> int:
    """Drop what gpt-oss says on its channel of analysis, or to a tool; of other messages only what stands before them."""
    if "<|channel|>analysis" in found.group() or " to=" in found.group():
        state.literal = _MESSAGE
        state.line_start = state.before(found.start()) == "\n"
        return removed(state, found)
    state.line_start = state.said.newlines > 0
    return spaced(state, found)
