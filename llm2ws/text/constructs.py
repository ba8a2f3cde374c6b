"""What becomes of each construct once it has arrived."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import Final

from .cited import citation, linked_source, raised
from .cleaning import Literal, More, State
from .enclosed import (
    bare_channel,
    channel,
    close,
    comment,
    element,
    fence,
    header,
    mark,
    marked_tag,
    removed,
    spaced,
    system,
    thought,
    token,
)
from .latex import JOINERS, LIMITS, SILENT, WORDS
from .machinery import CALLS, RAW_TAGS, THINKS
from .markup import BREAKING_TAGS, CJK, EMOJI, HOST, HTML_TAGS, STARRED, UNSEEN

__all__ = ["ACTS", "Act"]

Act = Callable[[State, "re.Match[str]"], int]
"""Takes what was found; returns the place after it, the place itself (it is text after all), or -1 (more must come first)."""


# --- lines -----------------------------------------------------------------------------------------------------------


def own_line(state: State, found: re.Match[str]) -> int:
    """Drop the mark of a heading, an item or a quotation; the line is a paragraph."""
    state.said.new_paragraph(state.base + found.start())
    state.paragraph = True
    state.heading = found.group().lstrip().startswith("#")
    state.line_start = False
    return removed(state, found)


def item(state: State, found: re.Match[str]) -> int:
    state.item = found.end("mark") - found.start() + 1
    return own_line(state, found)


def quote(state: State, found: re.Match[str]) -> int:
    state.quoted = True
    end = own_line(state, found)
    state.line_start = True  # a list may be quoted
    return end


def number(state: State, found: re.Match[str]) -> int:
    state.said.new_paragraph(state.base + found.start())
    state.paragraph = True
    state.line_start = False
    state.item = found.end("number") - found.start() + 1
    return state.say(*found.span("number"))


def row(state: State, found: re.Match[str]) -> int:
    state.row = True
    return own_line(state, found)


def rule_row(state: State, found: re.Match[str]) -> int:
    state.table = True
    return removed(state, found)


# --- within lines ------------------------------------------------------------------------------------------------------


def emphasis(state: State, found: re.Match[str]) -> int:
    """Decide by what stands before and after alone, so that no word waits for a marker that may never come."""
    at, end = found.span()
    mark = state.buf[at]
    is_open = state.open[mark]
    if is_open and _closes(state, at, end, is_open):
        state.open[mark] = max(0, is_open - (end - at))
    elif _opens(state, at, end):
        state.open[mark] += end - at
        _begin(state, end)
    elif end == len(state.buf) and state.more is More.LATER:
        return state.hold("emphasis may begin")
    else:
        return state.say(at, end)
    # "The end.**Next**": without the markers the two would be one word.
    state.said.drop(apart=state.before(at) in ".!?:;" and state.after(end).isalpha())
    return end


def _begin(state: State, at: int) -> None:
    """Note that markup opens before this place: a stop there begins a word, as in ".env", and ends none."""
    if state.after(at) in ".:!?":
        state.said.open()


def _closes(state: State, at: int, end: int, is_open: int) -> bool:
    size, before, after = end - at, state.before(at), state.after(end)
    if before.isspace():
        return size >= 2 and not after.isalnum()
    if before.isalnum() and after.isalnum() and (state.buf[at] == "_" or (before.isdigit() and after.isdigit())):
        return False
    return size > 1 or size % 2 == is_open % 2


def _opens(state: State, at: int, end: int) -> bool:
    mark, size, before, after = state.buf[at], end - at, state.before(at), state.after(end)
    if after.isspace() or (mark == "~" and size != 2):
        return size == 2 and before == "\n" and after in " \t"
    if mark != "_" and (CJK.match(before) or CJK.match(after)):
        return True
    if before.isalnum() and after.isalnum():  # un**believ**able, but not 2**8, x**2 or snake__case
        return mark != "_" and size > 1 and (state.buf[max(0, at - 2) : at] + after).isalpha() and at > 1
    if size > 1:
        return mark == "*" or not before.isalnum()
    return _opens_alone(state, end, mark, before)


def _opens_alone(state: State, end: int, mark: str, before: str) -> bool:
    """Return whether a single marker opens emphasis, and is no star of a wildcard, nor part of a path or a formula."""
    after = state.after(end)
    if before.isalnum() or before in "./\\^=&%" or (mark == "*" and state.buf.startswith(STARRED, end)):
        return False
    return after.isalnum() or after > "\x7f" or after in "\"'([{$`_~*\\#@<&"


def code_span(state: State, found: re.Match[str]) -> int:
    at, end = found.span()
    if state.ticks and end - at != state.ticks:
        if end == len(state.buf) and state.more is More.LATER:
            return state.hold("code may end")
        return state.say(at, end)
    if not state.ticks and end == len(state.buf):  # the end of the text: half a marker
        return state.say(at, end)
    state.ticks = 0 if state.ticks else end - at
    if state.ticks and state.rules.inline_code:
        _begin(state, end)
    return removed(state, found) if state.rules.inline_code else state.say(at, end)


_CITATION: Final = re.compile(r"\[?\d{1,3}\]?")


def link(state: State, found: re.Match[str]) -> int:
    """Take the opening bracket only: what stands between the brackets is markup in its turn."""
    at, number = found.start(), _CITATION.fullmatch(found[1])
    if found["reference"] and (state.before(at).isalnum() or state.before(at) in ")]"):
        return at  # x[0][1]
    if number and "](http" in found.group() and not (state.before(at).isspace() or state.before(at) in "([{"):
        return spaced(state, found)  # "It grew.[1](https://…)": a footnote mark
    state.link = (state.base + found.end(1), state.base + found.end())
    _begin(state, at + 1)
    state.said.drop()
    return at + 1


def link_end(state: State, found: re.Match[str]) -> int:
    if state.base + found.start() != state.link[0]:
        return found.start()
    state.ticks = 0
    state.said.drop()
    return state.link[1] - state.base


def escape(state: State, found: re.Match[str]) -> int:
    state.said.drop()
    return state.say(found.start() + 1, found.end())


_PRONOUNCED: Final = Literal(re.compile(r"\}|(?=\n)"), re.compile(r"(?!)"), said=True, end_said=True)


def pronounced(state: State, found: re.Match[str]) -> int:
    """Leave Deepgram's inline pronunciation as it is."""
    state.literal = _PRONOUNCED
    return state.say(*found.span())


_NOT_SAID: Final = re.compile(f"{UNSEEN}|[{EMOJI}]")


def entity(state: State, found: re.Match[str]) -> int:
    char = html.unescape(found.group())
    if char == found.group():
        return found.start()
    return state.put("" if _NOT_SAID.fullmatch(char) else char.replace("\xa0", " "), *found.span())


def tag(state: State, found: re.Match[str]) -> int:
    """Drop a tag, whatever its name: models wrap answers in tags of their own. Placeholders written like tags are lost, too."""
    at, name, attributes = found.start(), found["name"].lower(), found.group()[1 + len(found["name"]) :]
    thinks = THINKS.search(name) is not None or (name == "details" and 'type="reasoning"' in attributes)
    calls = CALLS.search(name) is not None
    if not (state.rules.think if thinks else state.rules.html) or (attributes[:1] == "=" and not calls):
        return at
    opens = found.group()[1] != "/" and not found.group().endswith("/>")
    if opens and not thinks and not calls and name not in HTML_TAGS and state.before(at).isalnum():
        return at  # List<int>
    if thinks or calls or name in RAW_TAGS:
        after = element(state, found, name) if opens else close(state, found)
        return after if after != at else state.put(found["name"], *found.span())  # only mentioned: its name is a word
    said = BREAKING_TAGS.get(name, "")
    if said and state.said.newlines == 0 and (opens or said != ", "):
        state.said.drop()
        state.put(said, *found.span())
    return removed(state, found) if name in HTML_TAGS else spaced(state, found)


_AFTER_URL: Final = ".,;:!?'_~#"


def address(state: State, found: re.Match[str]) -> int:
    """Say the host of a bare URL, or of one in angle brackets."""
    at, end = found.span()
    body = found.group().strip("<>")
    if end - at == len(body):
        body = body.rstrip(_AFTER_URL)
        while body.endswith(")") and body.count("(") < body.count(")"):
            body = body[:-1].rstrip(_AFTER_URL)
        end = at + len(body)
    host = HOST.match(body)
    return at if host is None else state.put(host["host"], at, end)


def mail(state: State, found: re.Match[str]) -> int:
    state.said.drop()
    state.say(*found.span("mail"))
    return removed(state, found)


def pipe(state: State, found: re.Match[str]) -> int:
    at, end = found.span()
    if not state.row:
        return at
    if state.after(end) not in "\r\n" and state.said.newlines == 0:
        state.said.drop()
        state.put(" " if state.said.last in ",.;:!?" else ", ", at, end)
    return removed(state, found)


_MATH_ENDS: Final = {"$$": "$$", "\\(": "\\)", "\\[": "\\]"}


def formula(state: State, found: re.Match[str]) -> int:
    """Take only what opens the formula; one in single dollars has been seen to its end."""
    state.math = _MATH_ENDS.get(found.group()[:2], "$")
    state.braces, state.joiner, state.limits = [], "", ""
    state.said.drop()
    return found.start() + (1 if state.math == "$" else 2)


def formula_end(state: State, found: re.Match[str]) -> int:
    if found.group() != state.math:
        return found.start()
    state.math = ""
    state.line_start = False
    return removed(state, found)


def _word(state: State, word: str, at: int, end: int) -> int:
    """Say a word with a space before it, and one behind it if a letter or a digit follows."""
    if state.said.last not in ("", " ", "\n", "(") and not state.said.waits:
        word = " " + word
    state.put(word, at, end)
    state.said.drop(apart=True)
    return end


def command(state: State, found: re.Match[str]) -> int:
    name = found.group()[1:]
    state.joiner = JOINERS.get(name, "")
    state.limits = "_^" if name in LIMITS else ""
    if state.joiner or name in SILENT:
        state.said.drop(apart=True)
        return found.end()
    return _word(state, WORDS.get(name, name), *found.span())


def brace(state: State, found: re.Match[str]) -> int:
    opens = found.group() == "{"
    if opens and len(state.braces) < 50:
        state.braces.append(state.joiner)
        state.joiner = ""
    joiner = "" if opens or not state.braces else state.braces.pop()
    if joiner and state.after(found.end()) == "{":
        return _word(state, joiner, *found.span())
    return removed(state, found)


def script(state: State, found: re.Match[str]) -> int:
    """Say an index, a power, or the limit of a sum."""
    at, end = found.span()
    mark, what = found.group()[0], found["braced"] or found["bare"]
    limit = mark in state.limits and (mark == "_" or state.before(at) == "}" or state.buf[max(0, at - 2)] == "_")
    if limit:
        state.limits = state.limits.replace(mark, "")
        return _word(state, "from" if mark == "_" else "to", at, at + 1)
    if mark == "_":
        state.said.drop(apart=True)
        return at + 1
    if what:
        return _word(state, _POWERS[what], at, end)
    signed = state.buf[at + 1 : at + 3].lstrip("{")[:1] in ("+", "-")
    return _word(state, "to the power of " if signed else "to the power of", at, at + 1)


_POWERS: Final = {"2": "squared", "3": "cubed", "\\circ": "degrees"}


def heading_end(state: State, found: re.Match[str]) -> int:
    return removed(state, found) if state.heading else found.start()


ACTS: Final[Mapping[str, Act]] = {
    act.__name__: act
    for act in (
        *(address, brace, code_span, command, comment, emphasis, entity, escape, fence, formula, formula_end, heading_end),
        *(header, item, link, link_end, mail, number, own_line, pipe, pronounced, quote, removed, row, rule_row, script),
        *(bare_channel, channel, citation, linked_source, mark, marked_tag, raised, spaced, system, tag, thought, token),
    )
}
