"""What becomes of each construct once it has arrived."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import Final

from .abbreviations import words_of
from .cited import citation, linked_source, raised
from .cleaning import BEHIND, Literal, More, State
from .enclosed import (
    bare_call,
    bare_channel,
    channel,
    comment,
    fence,
    header,
    mark,
    marked_tag,
    near_end,
    removed,
    spaced,
    system,
    thought,
    token,
)
from .latex import SYMBOLS, spoken
from .leftovers import escaped_newline, local_address, terminal
from .markup import CJK, EMOJI, HOST, STARRED, UNSEEN
from .tags import placeholder, tag

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


def head(state: State, found: re.Match[str]) -> int:
    """Note that the line is a row; the bar itself is taken as any other."""
    state.row = state.paragraph = True
    return found.start()


def callout(state: State, found: re.Match[str]) -> int:
    """Say the kind of a callout: "Note:"."""
    state.said.new_paragraph(state.base + found.start())
    state.paragraph = True
    state.line_start = False
    return state.put(f"{found['kind'].capitalize()}:", *found.span())


def rule_row(state: State, found: re.Match[str]) -> int:
    state.table = True
    return removed(state, found)


# --- within lines ------------------------------------------------------------------------------------------------------


_SENTENCE_ENDS: Final = ("", "\n", ".", "!", "?", "…")
_NEXT_WORD: Final = re.compile(r" ?((?:[^\W\d_a-z][\w'’]*)?)")
_STARTERS: Final = words_of(None).starters


def emphasis(state: State, found: re.Match[str]) -> int:
    """Decide by what stands before and after alone, so that no word waits for a marker that may never come."""
    at, end = found.span()
    mark = state.buf[at]
    is_open = state.open[mark]
    if is_open and _closes(state, at, end, is_open):
        if state.opener >= 0 and (word := _runs_on(state, at, end)):
            return state.hold("a sentence may follow") if word is More.LIKELY else _stop(state, at, end)
        state.opener = -1
        state.open[mark] = max(0, is_open - (end - at))
    elif _opens(state, at, end):
        if not is_open and (state.said.last in _SENTENCE_ENDS or state.said.newlines):
            state.opener = state.base + end
        state.open[mark] += end - at
        _begin(state, end)
    elif end == len(state.buf) and state.more is More.LATER:
        return state.hold("emphasis may begin")
    else:
        return state.say(at, end)
    # "The end.**Next**": without the markers the two would be one word.
    state.said.drop(apart=state.before(at) in ".!?:;" and state.after(end).isalpha())
    return end


def _runs_on(state: State, at: int, end: int) -> More | None:
    """Return whether an emphasised phrase that begins a sentence stands for itself, and another sentence follows.

    NEVER: so it is; LIKELY: more must come first.
    """
    phrase = state.buf[max(0, at - BEHIND, state.opener - state.base) : at]
    *before, last = phrase.split(" ")
    if not last[-1:].isalnum() or state.after(end) not in " \n" or (end < len(state.buf) and state.buf[end] == "\n"):
        return None
    following = _NEXT_WORD.match(state.buf, end)
    if following is None:
        return None
    if following.end() == len(state.buf) and state.more is More.LIKELY:
        return More.LIKELY
    word = following[1]
    starts = word.lower().replace("’", "'") in _STARTERS
    return More.NEVER if word and ((before and last.islower()) or starts) and (len(phrase) > 1 or starts) else None


def _stop(state: State, at: int, end: int) -> int:
    """Say a full stop where an emphasised phrase ends."""
    state.open[state.buf[at]] = 0
    state.opener = -1
    state.said.drop()
    return state.put(".", at, end)


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
        return (mark == "*" and not state.buf.startswith(STARRED, end)) or (mark != "*" and not before.isalnum())
    return _opens_alone(state, end, mark, before)


def _opens_alone(state: State, end: int, mark: str, before: str) -> bool:
    """Return whether a single marker opens emphasis, and is no star of a wildcard, nor part of a path or a formula."""
    after = state.after(end)
    if before.isalnum() or before in "./\\^=&%" or (mark == "*" and state.buf.startswith(STARRED, end)):
        return False
    return after.isalnum() or after > "\x7f" or after in "\"'([{$`_~*\\#@<&"


def highlight(state: State, found: re.Match[str]) -> int:
    """Drop the marks of highlighted text, "==so=="."""
    at, end = found.span()
    before, after = state.before(at), state.after(end)
    opens = not before.isalnum() and (after.isalnum() or after in "*_\"'(`")
    if not (opens or (state.open["="] and not before.isspace())):
        return at
    state.open["="] = int(opens)
    return removed(state, found)


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


def cell_bar(state: State, found: re.Match[str]) -> int:
    """Say the bar that is escaped within code in a cell."""
    return state.put("|", *found.span()) if state.row else found.start()


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


def formula(state: State, found: re.Match[str]) -> int:
    """Say a formula in single dollars, which has been seen to its end."""
    return _say_formula(state, found["formula"], *found.span())


def bare_formula(state: State, found: re.Match[str]) -> int:
    """Say a command of LaTeX that stands in the text, with its arguments."""
    if found["symbol"] and found["symbol"] not in SYMBOLS:
        return found.start()
    return _say_formula(state, found.group(), *found.span())


_DISPLAY_ENDS: Final = {"$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_FORMULA_SIGNS: Final = re.compile(r"[\\^_=<>]|\A\s*[\w(+-][\w\s+*/(),.-]{0,12}\Z")


def display(state: State, found: re.Match[str]) -> int:
    """Say a formula on a line of its own, or in brackets, if it ends within the paragraph."""
    close = _DISPLAY_ENDS[found.group()]
    return _say_enclosed(state, found, re.escape(close))


def environment(state: State, found: re.Match[str]) -> int:
    """Say an environment of formulas that stands in the text."""
    return _say_enclosed(state, found, re.escape(f"\\end{{{found['name']}}}"))


def _say_enclosed(state: State, found: re.Match[str], close: str) -> int:
    at, begin = found.span()
    after = near_end(state, begin, close) if state.before(at) != "$" else begin
    if after <= begin:
        return at if after else state.hold("may be a formula")
    body = state.buf[begin:after]
    body = body[: re.search(f"{close}\\Z", body).start()]  # type: ignore[union-attr]
    if not body.strip() or (close == "\\$\\$" and body[:1] != "\n" and _FORMULA_SIGNS.search(body) is None):
        return at
    if state.first == state.base + at:
        state.paragraph = True
        state.said.new_paragraph(state.base + at)
    rows = found.group() + body if "name" in found.re.groupindex else body
    return _say_formula(state, rows, at, after)


def _say_formula(state: State, source: str, at: int, end: int) -> int:
    state.said.drop(apart=True)
    words = spoken(source)
    if len(words) == end - at:  # it only happens to be as long: the span is not divided
        state.put(words[:1], at, at)
    state.put(words[1:] if len(words) == end - at else words, at, end)
    state.said.drop(apart=True)
    return end


def heading_end(state: State, found: re.Match[str]) -> int:
    return removed(state, found) if state.heading else found.start()


ACTS: Final[Mapping[str, Act]] = {
    act.__name__: act
    for act in (
        *(
            address,
            bare_formula,
            code_span,
            comment,
            display,
            emphasis,
            entity,
            environment,
            escape,
            fence,
            formula,
            heading_end,
        ),
        *(header, item, link, link_end, mail, number, own_line, pipe, pronounced, quote, removed, row, rule_row),
        *(callout, cell_bar, escaped_newline, head, highlight, local_address, placeholder, terminal),
        *(
            bare_call,
            bare_channel,
            channel,
            citation,
            linked_source,
            mark,
            marked_tag,
            raised,
            spaced,
            system,
            tag,
            thought,
            token,
        ),
    )
}
