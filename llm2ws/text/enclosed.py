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
from .machinery import CALLS, CLOSES, THINKS
from .markup import CJK

__all__ = [
    "NEAR",
    "bare_call",
    "bare_channel",
    "channel",
    "close",
    "comment",
    "element",
    "fence",
    "header",
    "mark",
    "marked_tag",
    "near_end",
    "removed",
    "spaced",
    "system",
    "thought",
    "token",
]

NEAR: Final = 2000  # characters: within a line, what is enclosed must end within so many
_PARAGRAPH_END: Final = re.compile(r"\n[ \t>]*\r?\n")
_CONTENT: Final = re.compile(r"\n|[A-Za-z0-9(<\"]| ?[{\[]")
_WORD: Final = re.compile(r" (?:[^\W\d_]|\Z)|\Z")
_LOWER: Final = re.compile(r" [a-zа-яα-ω]")
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


def _begin(state: State, found: re.Match[str], literal: Literal) -> int:
    """Drop what follows, up to the end of the literal. At the start of a line it leaves the line at its start."""
    state.line_start = state.first == state.base + found.start()
    state.literal = literal._replace(begin=state.base + found.end())
    state.said.drop(apart=True)
    return found.end()


def _drop_enclosed(state: State, found: re.Match[str], literal: Literal, *, words: bool = True) -> int:
    """Drop the construct with what it encloses; return its own place if it is only mentioned, -1 if more must come first."""
    at, end = found.span()
    if _opens(state, found, words=words):
        return _begin(state, found, literal)
    after = at if _is_mentioned(state, found) else near_end(state, end, literal)
    if after <= end:
        return at if after else state.hold("may be only a mention of what is not said")
    state.said.drop(apart=True)
    return after


def _is_mentioned(state: State, found: re.Match[str]) -> bool:
    """Return whether a tag stands among the words of a sentence: "the <think> tag"."""
    before = state.buf[max(0, found.start() - 2) : found.start()]
    named = "name" in found.re.groupindex and found.group()[0] == "<"
    return named and before[:1].isalnum() and before[1:] == " " and _LOWER.match(state.buf, found.end()) is not None


def _opens(state: State, found: re.Match[str], *, words: bool) -> bool:
    """Return whether the construct opens here, whatever follows.

    `words`: what it encloses may be words, and not only code. If not, "<script> tags load code." opens nothing, though the tag
    begins its line.
    """
    at, end = found.span()
    at_end = state.more is More.NEVER and len(state.buf) < end + 2
    if state.first != state.base + at:
        follows = at_end or _CONTENT.match(state.buf, end) is not None
        return follows and _STOPS.search(state.buf, max(0, at - 2), at) is not None
    return words or at_end or _WORD.match(state.buf, end) is None


def near_end(state: State, at: int, end: Literal | str) -> int:
    """Return where the end that comes within the paragraph ends; `at` itself if there is none, 0 if more must come first."""
    text, limit = state.buf, at + NEAR
    ends = re.compile(end) if isinstance(end, str) else end.end
    if state.more is More.NEVER:
        text += "\n"
    close, depth = None, 1
    for found in ends.finditer(text, at, limit):
        if found.lastgroup == "nested":
            depth += found.start() > at + 3
            continue
        close, depth = found, depth - 1
        if depth == 0:
            break
    paragraph = _PARAGRAPH_END.search(text, at, limit)
    if depth and paragraph is None and len(text) < limit and state.more is not More.NEVER:
        return 0
    if close is None or (paragraph is not None and paragraph.start() <= close.start()):
        return at
    mentioned = text[at - 1] == ">" and close.start() > at and _ONLY_BETWEEN.match(text, at, close.start()) is not None
    return at if mentioned else close.end()


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
        after = near_end(state, end, plain)
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


def _named(begin: str, name: str, end: str) -> str:
    """Return a pattern for the name between the two, with its separators as models write them."""
    return begin + re.sub(r"[_▁ ]", "[_▁ ]", re.escape(name).replace(r"\ ", " ")) + end


def _literal(ends: Iterable[str], half: str) -> Literal:
    return Literal(re.compile("|".join(ends), re.IGNORECASE), re.compile(half))


_HALF_TAG: Final = r"<[/|｜]{0,2}[\w▁:.| ｜-]{0,60}[ \t]{0,8}\Z"
# A model may close another tag than it has opened. A thought within a thought begins where a sentence does.
_THOUGHT_NAME: Final = r"[\w:.-]{0,20}(?:think|thought|reason|reflect|scratch|monologue|cot|analysis)[\w:.-]{0,20}"
_THOUGHT: Final = _literal(
    (rf"</{_THOUGHT_NAME}[ \t]{{0,8}}>", rf"(?P<nested>(?:(?<=[.!?…。\n] )|(?<=[.!?…。\n]))<{_THOUGHT_NAME}>)"), _HALF_TAG
)
_THINK_MARK: Final = _literal(["◁/think▷"], r"◁[/\w]{0,6}\Z")
# Ends a call that has no mark of an end: a paragraph that begins with a word, or a mark of the template.
_PROSE: Final = r"(?=\n[ \t]{0,40}\r?\n\s{0,40}[^\W\d_])"
_HALF_PROSE: Final = r"\n\s{0,80}\Z"
_TURN_ENDS: Final = r"<[|｜](?:e[a-z]{2}_id|end|im_end|endoftext|call|return|end[_▁]of[_▁]\w{1,20})[|｜]>"


def element(state: State, found: re.Match[str], name: str) -> int:
    """Drop a thought, or an element that holds no text."""
    if THINKS.search(name) is not None:
        return _drop_enclosed(state, found, _THOUGHT)
    return _drop_enclosed(state, found, _until_closed(name), words=CALLS.search(name) is not None)


def close(state: State, found: re.Match[str]) -> int:
    """Drop the end of a thought or a call; return its own place if it is only mentioned, -1 if more must come first."""
    if state.more is More.LIKELY and len(state.buf) < found.end() + 2 and state.before(found.start()) == " ":
        return state.hold("may be only a mention")
    return found.start() if _is_mentioned(state, found) else spaced(state, found)


@cache
def _until_closed(name: str) -> Literal:
    return _literal([_named("</", name, "[ \t]{0,8}>")], _HALF_TAG)


def thought(state: State, found: re.Match[str]) -> int:
    """Drop a thought between the marks of Kimi's template."""
    return _drop_enclosed(state, found, _THINK_MARK)


def mark(state: State, found: re.Match[str]) -> int:
    """Drop what is marked in capitals, as in the templates of Mistral: "[THINK]", "[TOOL_CALLS]"; and "[/INST]"."""
    name = found["name"].lower()
    thinks, calls = THINKS.search(name) is not None, CALLS.search(name) is not None
    if not (state.rules.think if thinks else state.rules.html) or not (thinks or calls or name.strip("/") in ("inst", "args")):
        return found.start()
    if not (thinks or calls) or name.startswith("/"):
        return spaced(state, found)
    return _drop_enclosed(state, found, _until_marked(name, endless=calls))


@cache
def _until_marked(name: str, *, endless: bool) -> Literal:
    ends = [rf"\[(?:/|END_){name}\]", *([_PROSE, "</s>"] if endless else [])]
    return _literal(ends, rf"(?:\[[/\w]{{0,40}}|</?s?{'|' + _HALF_PROSE[:-2] if endless else ''})\Z")


def token(state: State, found: re.Match[str]) -> int:
    """Drop a special token of a template; if it opens a thought or a call, with what it encloses."""
    name = (found["token"] or found["after"]).lower().replace("▁", "_").replace(" ", "_")
    thinks, calls = THINKS.search(name) is not None, CALLS.search(name) is not None
    if not (state.rules.think if thinks else state.rules.html):
        return found.start()
    if not (thinks or calls) or found["after"] is not None or CLOSES.search(name):
        return spaced(state, found)
    after = _drop_enclosed(state, found, _until_token(name, endless=calls))
    return after if after != found.start() else spaced(state, found)


@cache
def _until_token(name: str, *, endless: bool) -> Literal:
    """Return what ends what the special token opens: its counterpart, or the end of the turn."""
    closing = name.replace("begin", "end").replace("start", "end")
    if closing != name:
        return _literal([_named("<[|｜]", closing, "[|｜]>")], _HALF_TAG)
    ends = [_named("<[|｜]?/?(?:end[_▁](?:of[_▁])?)?", name, "(?:[_▁]end)?[|｜]>"), _TURN_ENDS, *([_PROSE] if endless else [])]
    return _literal(ends, rf"(?:{_HALF_TAG}|{_HALF_PROSE})" if endless else _HALF_TAG)


def marked_tag(state: State, found: re.Match[str]) -> int:
    """Drop a tag with a mark before its name, as in DeepSeek's calls: "<｜DSML｜invoke>"."""
    if found["close"]:
        return spaced(state, found)
    literal = _literal([_named(r"</[|｜]{1,2}\w{1,20}[|｜]{1,2}", found["name"], r"[ \t]{0,8}>")], _HALF_TAG)
    after = _drop_enclosed(state, found, literal)
    return after if after != found.start() else spaced(state, found)


def system(state: State, found: re.Match[str]) -> int:
    """Drop the system prompt of Llama 2's template."""
    if not found["name"].startswith("/"):
        after = near_end(state, found.end(), _literal([rf"<</{found['name']}>>"], _HALF_TAG))
        if after == 0:
            return state.hold("may be a mark of a template")
        state.said.drop(apart=True)
        return after
    return spaced(state, found)


_CHANNEL: Final = _literal(["<channel[|]>"], _HALF_TAG)


def channel(state: State, found: re.Match[str]) -> int:
    """Drop what Gemma thinks on a channel; of other channels only the mark."""
    if THINKS.search(found["name"].lower()) is None:
        return spaced(state, found)
    return _begin(state, found, _CHANNEL)


_BARE: Final = _literal(["assistantfinal", r"assistantcommentary(?=\s?[^\st])"], r"a[a-z]{0,20}\s?\Z")


def bare_channel(state: State, found: re.Match[str]) -> int:
    """Drop what gpt-oss thinks, decoded without its special tokens."""
    return _begin(state, found, _BARE) if found.group().endswith("analysis") else removed(state, found)


_BARE_CALL: Final = _literal([_PROSE], rf"(?:{_HALF_PROSE})")


def bare_call(state: State, found: re.Match[str]) -> int:
    """Drop a call that is written as JSON, without a mark, up to a paragraph that begins with a word."""
    return _begin(state, found, _BARE_CALL)


_MESSAGE: Final = Literal(re.compile(r"<\|(?:call|end|return)\|>|(?=<\|(?:channel|start)\|>)"), re.compile(r"<[|\w]{0,20}\Z"))


def header(state: State, found: re.Match[str]) -> int:
    """Drop what gpt-oss says on its channel of analysis, or to a tool; of other messages only what stands before them."""
    if "<|channel|>analysis" in found.group() or " to=" in found.group():
        return _begin(state, found, _MESSAGE)
    state.line_start = state.said.newlines > 0
    return spaced(state, found)
