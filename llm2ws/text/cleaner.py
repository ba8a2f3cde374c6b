"""Markdown, think blocks, links, emoji in; text fit to be spoken out. Incremental: holding is bounded, words are not held."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Final, NamedTuple

from .fragments import Held, Hold, Piece
from .markup import BREAKING_TAGS, EMOJI, FORMAT, HTML_TAGS, INVISIBLE, RAW_TAGS, THINK_TAGS

__all__ = ["Cleaner", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is done with markup. A rule that is off leaves its construct as it is; all off: output equals input."""

    code: bool = True  # fenced code blocks are dropped; a short phrase is said in place of each
    emoji: bool = True  # dropped; the digit of a keycap stays
    emphasis: bool = True  # *, _, **, ***, ~~ are dropped, what they enclose is said
    entities: bool = True  # &amp; becomes &
    escapes: bool = True  # \* becomes *
    footnotes: bool = True  # marks and definitions are dropped
    headings: bool = True  # # and underlines are dropped; the line is a paragraph
    html: bool = True  # tags and comments are dropped, and what <script> and <style> enclose
    images: bool = True  # dropped
    inline_code: bool = True  # backticks are dropped, what they enclose is said
    invisible: bool = True  # characters without width are dropped
    links: bool = True  # the text is said, the address is dropped
    lists: bool = True  # marks are dropped, numbers stay; each item is a paragraph
    math: bool = True  # $, $$, \(, \[ are dropped
    quotes: bool = True  # > is dropped; each line is a paragraph
    separators: bool = True  # lines of ---, ***, ___ are dropped
    tables: bool = True  # cells are said with commas between; each row is a paragraph
    think: bool = True  # dropped with all that they enclose, to the end of the text if unclosed
    urls: bool = True  # only the host is said

    @classmethod
    def none(cls) -> Rules:
        """All rules off."""
        return cls(**{field.name: False for field in fields(cls)})


class _More(Enum):
    """What may come after the end of the buffer."""

    LIKELY = 1
    PAUSE = 2  # the model paused: what is most likely complete is taken as complete
    NOTHING = 3  # the end of the turn


_NOTHING: Final = Held(Hold.NOTHING, "nothing is held")
_SPACE: Final = Held(Hold.SURE, "a space before the next word")
_NEVER: Final = re.compile(r"(?!)")
_TAIL: Final = 80  # characters: the longest closer of a dropped block
_BEHIND: Final = 2  # characters that stay in the buffer for looking back


class _Construct(NamedTuple):
    """Markup beginning with one certain character."""

    first: str  # the characters it may begin with
    rule: str  # the field of Rules that switches it
    whole: re.Pattern[str]
    half: re.Pattern[str]  # matches to the end of the buffer while `whole` may still come
    act: Callable[[Cleaner, re.Match[str]], int]  # to the place after what it took; the place itself: this is text
    bound: int = 300  # characters within which it must be whole
    hold: Hold = Hold.DOUBT
    why: str = "may be markup"
    grows: bool = False  # a match that touches the end of the buffer may become longer
    paused: bool = False  # at a pause decided as if nothing followed


class Cleaner:
    """Cleans one turn after another.

    `code_phrase` is said once for each code block, "" for nothing. `replace` maps words, as they are spelled in the model's
    text, to what is said instead; the longest key wins, and what was replaced is not looked at again.
    """

    def __init__(
        self,
        rules: Rules = Rules(),
        *,
        code_phrase: str = "The code is on your screen.",
        replace: Mapping[str, str] | None = None,
    ) -> None:
        self._rules = rules
        self._code_phrase = code_phrase
        self._replace = {key: value for key, value in (replace or {}).items() if key}
        self._inline: dict[str, list[_Construct]] = {}
        for construct in _INLINE:
            if getattr(rules, construct.rule):
                for char in construct.first:
                    self._inline.setdefault(char, []).append(construct)
        self._blocks = [construct for construct in _BLOCKS if getattr(rules, construct.rule)]
        self._block_firsts = frozenset("".join(construct.first for construct in self._blocks))
        self._trigger = self._compile()
        self._reset()

    def _compile(self) -> re.Pattern[str]:
        """Finds the next place that is not plain text."""
        parts = []
        if self._replace:
            keys = sorted(self._replace, key=len, reverse=True)
            parts.append("(?P<key>" + "|".join(map(_bounded, keys)) + ")")
            parts.append("(?P<half_key>" + "|".join(map(_half, keys)) + ")")
        if self._rules.urls:
            parts.append(r"(?P<url>(?<![\w@])(?:(?i:https?://|www\.)|(?i:h(?:t(?:t(?:ps?:?/?)?)?)?|ww?w?)\Z))")
        if self._inline:
            chars = "".join(re.escape(char) for char in self._inline)
            parts.append(f"(?P<mark>[{chars}\n])")
        drops = (EMOJI if self._rules.emoji else "") + (INVISIBLE + FORMAT if self._rules.invisible else "")
        if drops:
            parts.append(f"(?P<drop>[{drops}]+)")
        if self._inline or drops:
            parts.append(r"(?P<space> +\Z)")
        return re.compile("|".join(parts)) if parts else _NEVER

    def _reset(self) -> None:
        self._buf = ""  # two characters to look back at, then what is not decided yet
        self._at = 0  # where in `_buf` the undecided begins
        self._base = 0  # where `_buf` begins in the model's text
        self._out: list[Piece] = []
        self._held = _NOTHING
        self._more = _More.LIKELY
        self._plain = False  # nothing is open: a token without markup may pass as it is
        self._line_start = True
        self._structural = False  # the end of this line is the end of a paragraph
        self._row = False  # within a table row
        self._cells = False  # something was said in this row
        self._skip: re.Pattern[str] | None = None  # all up to its match is dropped
        self._verbatim: re.Pattern[str] | None = None  # all up to its match is said as it is
        self._open = dict.fromkeys("*_~", 0)  # emphasis: markers that are open
        self._link = (-1, -1)  # where the text of the link ends, and where the link does
        self._gap: tuple[int, int] | None = None  # spaces that have not been said yet
        self._cut = False  # something was dropped since the last word
        self._apart = False  # what was dropped stood between two words
        self._last = ""  # the last character said
        self._newlines = 2  # said in a row

    def feed(self, text: str) -> list[Piece]:
        """What can be said for certain now."""
        buf = self._buf + text
        if self._plain and text and self._trigger.search(buf, self._at) is None:
            start = self._base + self._at
            self._base += len(buf) - _BEHIND
            self._buf, self._at = buf[-_BEHIND:], _BEHIND
            self._last = text[-1]
            return [Piece(text, start, start + len(text))]
        self._buf = buf
        return self._run(_More.LIKELY)

    def finish(self) -> list[Piece]:
        """The rest, at the end of the turn: half a marker is text. Then ready for another turn, positions from 0."""
        pieces = self._run(_More.NOTHING)
        if self._gap is not None and not self._cut:
            self._put_gap()
            pieces = self._out
        self._reset()
        return pieces

    @property
    def holding(self) -> Held:
        """What is held back, and why."""
        if self._held.hold is Hold.NOTHING and self._gap is not None:
            return _SPACE
        return self._held

    def release(self) -> list[Piece]:
        """The model paused: what is most likely complete is said. Never half of a link, tag, address or think block."""
        pieces = self._run(_More.PAUSE)
        if self._gap is not None and not self._cut:
            self._put_gap()
            pieces = self._out
        return pieces

    # --- the loop --------------------------------------------------------------------------------------------------

    def _run(self, more: _More) -> list[Piece]:
        self._out = []
        self._more = more
        self._held = _NOTHING
        at = self._at
        while at < len(self._buf):
            following = self._step(at)
            if following < 0:
                break
            at = following
        keep = max(0, at - _BEHIND)
        self._buf = self._buf[keep:]
        self._base += keep
        self._at = at - keep
        self._plain = not (
            self._at < len(self._buf)
            or self._at < _BEHIND
            or self._line_start
            or self._cut
            or self._gap is not None
            or self._skip is not None
            or self._verbatim is not None
        )
        return self._out

    def _step(self, at: int) -> int:
        """Takes what begins at `at`; returns the place after it, -1 for "more must come first"."""
        buf = self._buf
        if self._skip is not None:
            return self._skipped(at, self._skip)
        if self._verbatim is not None:
            found = self._verbatim.search(buf, at)
            end = found.start() if found else len(buf)
            if end > at:
                self._say(at, end)
                return end
            self._verbatim = None
        if self._line_start:
            after = self._start_line(at)
            if after != at:
                return after
            self._line_start = False
        found = self._trigger.search(buf, at)
        if found is None:
            self._say(at, len(buf))
            return len(buf)
        if found.start() > at:
            self._say(at, found.start())
            return found.start()
        return self._special(found)

    def _skipped(self, at: int, until: re.Pattern[str]) -> int:
        found = until.search(self._buf, at)
        if found is not None:
            self._skip = None
            return found.end()
        if self._more is _More.NOTHING:
            return len(self._buf)
        return max(at, len(self._buf) - _TAIL) if len(self._buf) - at > _TAIL else -1

    def _special(self, found: re.Match[str]) -> int:
        at, kind = found.start(), found.lastgroup
        match kind:
            case "space":
                self._say(at, found.end())
                return found.end()
            case "drop":
                return self._dropped(found)
            case "key":
                self._put(self._replace[found.group()], at, found.end())
                return found.end()
            case "half_key":
                return self._half_key(found)
            case "url":
                return self._try((_URL,), at)
        if self._buf[at] == "\n":
            return self._newline(at)
        return self._try(self._inline.get(self._buf[at], ()), at)

    def _try(self, constructs: tuple[_Construct, ...] | list[_Construct], at: int) -> int:
        """The first construct that begins at `at`; otherwise the character is text."""
        buf = self._buf
        for construct in constructs:
            open_end = self._more is _More.LIKELY or (self._more is _More.PAUSE and not construct.paused)
            open_end = open_end and len(buf) - at < construct.bound
            found = construct.whole.match(buf, at, at + construct.bound)
            if (
                open_end
                and (found is None or (construct.grows and found.end() == len(buf)))
                and construct.half.match(buf, at) is not None
            ):
                self._held = Held(construct.hold, construct.why)
                return -1
            if found is not None:
                after = construct.act(self, found)
                if after != at:
                    return after
        if self._line_start:
            return at
        self._say(at, at + 1)
        return at + 1

    # --- what is said ----------------------------------------------------------------------------------------------

    def _say(self, at: int, end: int) -> None:
        """Says the characters as they are. Spaces at their end wait: what follows may be dropped."""
        text = self._buf[at:end]
        body = text.rstrip(" ")
        if self._cut and body and (self._gap is not None or self._newlines):
            body = body.lstrip(" ")
            at += len(text.rstrip(" ")) - len(body)
        if body:
            self._put(body, at, at + len(body))
            at += len(body)
        if at < end:
            if self._gap is None:
                self._gap = (self._base + at, self._base + end)
            elif self._gap[1] == self._base + at:
                self._gap = (self._gap[0], self._base + end)

    def _put(self, text: str, at: int, end: int) -> None:
        """Says `text` for what stands at the place."""
        if not text:
            self._drop()
            return
        first = text[0]
        if self._gap is not None:
            if self._cut and (first in ",.;:!?)\n"):
                self._gap = None
            else:
                self._put_gap()
        elif self._apart and self._last.isalnum() and first.isalnum():
            self._out.append(Piece(" ", self._base + at, self._base + at))
        self._cut = self._apart = False
        self._out.append(Piece(text, self._base + at, self._base + end))
        self._last = text[-1]
        body = text.rstrip("\n")
        self._newlines = len(text) - len(body) + (0 if body else self._newlines)

    def _put_gap(self) -> None:
        if self._gap is not None:
            start, end = self._gap
            self._out.append(Piece(" " * (end - start), start, end))
            self._gap = None
            self._last = " "
            self._newlines = 0

    def _drop(self, *, apart: bool = False) -> None:
        self._cut = True
        self._apart = self._apart or apart

    def _break(self, at: int) -> None:
        """What comes is a paragraph of its own."""
        if self._newlines < 2:
            self._drop()
            self._put("\n" * (2 - self._newlines), at, at)

    # --- lines -----------------------------------------------------------------------------------------------------

    def _start_line(self, at: int) -> int:
        """Takes the mark of the line, if it has one; `at` itself if it has none."""
        indent = _INDENT.match(self._buf, at)
        first = indent.end() if indent else at
        if first == len(self._buf):
            if self._more is _More.LIKELY and first - at < 100 and self._block_firsts:
                self._held = Held(Hold.DOUBT, "a mark of a line may follow")
                return -1
            return at
        if self._buf[first] not in self._block_firsts:
            return at
        return self._try(self._blocks, at)

    def _newline(self, at: int) -> int:
        structural = self._structural
        self._structural = self._row = self._cells = False
        self._line_start = True
        if structural or self._newlines:
            self._open = dict.fromkeys("*_~", 0)
        self._put("\n\n" if structural else "\n", at, at + 1)
        return at + 1

    def _own_line(self, found: re.Match[str]) -> int:
        """The mark is dropped, the line is a paragraph."""
        self._break(found.start())
        self._structural = True
        self._line_start = False
        self._drop()
        return found.end()

    def _quote(self, found: re.Match[str]) -> int:
        end = self._own_line(found)
        self._line_start = True
        return end

    def _number(self, found: re.Match[str]) -> int:
        self._structural = True
        self._line_start = False
        self._say(found.start(), found.end())
        return found.end()

    def _dropped_line(self, found: re.Match[str]) -> int:
        self._drop()
        return found.end()

    def _table_row(self, found: re.Match[str]) -> int:
        end = self._own_line(found)
        self._row, self._cells = True, False
        return end

    def _fence(self, found: re.Match[str]) -> int:
        mark = found["fence"]
        end = found.end()
        if self._code_phrase and not found["closed"]:
            self._break(found.start())
            self._put(self._code_phrase, found.start(), end)
            if end < len(self._buf):
                self._put("\n\n", end, end + 1)
        self._drop()
        if not found["closed"]:
            self._skip = re.compile(r"\n[ \t>]{0,16}" + mark[0] + "{%d,40}[ \t\r]{0,16}\n" % min(len(mark), 20))
        return end

    # --- within lines ----------------------------------------------------------------------------------------------

    def _emphasis(self, found: re.Match[str]) -> int:
        at, end, mark = found.start(), found.end(), found.group()[0]
        size = end - at
        before = self._buf[at - 1] if at else "\n"
        after = self._buf[end] if end < len(self._buf) else "\n"
        if mark == "~" and size != 2:
            self._say(at, end)
            return end
        inside = before.isalnum() and after.isalnum()
        cjk = inside and (_CJK.match(before) is not None or _CJK.match(after) is not None)
        if inside and not cjk and (mark == "_" or (before.isdigit() and after.isdigit())):
            self._say(at, end)
            return end
        is_open = self._open[mark]
        if is_open and not before.isspace() and (size <= is_open and (size % 2 == is_open % 2 or size > 1)):
            self._open[mark] -= size
            self._drop()
            return end
        if not after.isspace() and not (inside and not cjk) and (after.isalnum() or after not in ".,;:!?)]}/=%+-*"):
            self._open[mark] += size
            self._drop()
            return end
        self._say(at, end)
        return end

    def _code_span(self, found: re.Match[str]) -> int:
        self._drop()
        self._verbatim = re.compile("(?<!`)" + found.group() + "(?!`)|\n")
        return found.end()

    def _bracket(self, found: re.Match[str]) -> int:
        self._link = (self._base + found.end(1), self._base + found.end())
        self._drop()
        return found.start() + 1

    def _bracket_end(self, found: re.Match[str]) -> int:
        at = found.start()
        if self._base + at != self._link[0]:
            return at
        self._drop()
        return self._link[1] - self._base

    def _removed(self, found: re.Match[str]) -> int:
        self._drop()
        return found.end()

    def _escape(self, found: re.Match[str]) -> int:
        self._drop()
        self._say(found.start() + 1, found.end())
        return found.end()

    def _pronounced(self, found: re.Match[str]) -> int:
        self._say(found.start(), found.end())
        self._verbatim = re.compile(r"(?<=\})|\n")
        return found.end()

    def _entity(self, found: re.Match[str]) -> int:
        char = html.unescape(found.group())
        if char == found.group():
            return found.start()
        self._put("" if re.fullmatch(f"[{INVISIBLE}{FORMAT}]", char) else char.replace("\u00a0", " "), *found.span())
        return found.end()

    def _tag(self, found: re.Match[str]) -> int:
        at, name = found.start(), found["name"].lower()
        closing = found.group().startswith("</")
        if self._rules.think and name in THINK_TAGS:
            self._drop()
            if not closing:
                self._skip = re.compile(f"</{name}\\s{{0,8}}>", re.IGNORECASE)
            return found.end()
        if not self._rules.html or (name not in HTML_TAGS and at and self._buf[at - 1].isalnum()):
            return at
        if name in RAW_TAGS and not closing:
            self._drop()
            self._skip = re.compile(f"</{name}\\s{{0,8}}>", re.IGNORECASE)
            return found.end()
        said = BREAKING_TAGS.get(name, "")
        if said and self._newlines == 0:
            self._drop()
            self._put(said, at, found.end())
        self._drop()
        return found.end()

    def _comment(self, found: re.Match[str]) -> int:
        self._drop()
        self._skip = re.compile("-->")
        return found.end()

    def _address(self, found: re.Match[str]) -> int:
        """A bare URL, or one in angle brackets: its host."""
        body = found.group().strip("<>")
        body = body.rstrip(".,;:!?'_~)")
        host = _HOST.match(body)
        if host is None or not host["host"]:
            return found.start()
        end = found.end() if found.group().endswith(">") else found.start() + len(body)
        self._put(host["host"], found.start(), end)
        return end

    def _mail(self, found: re.Match[str]) -> int:
        self._drop()
        self._say(found.start() + 1, found.end() - 1)
        self._drop()
        return found.end()

    def _pipe(self, found: re.Match[str]) -> int:
        if not self._row:
            return found.start()
        at, end = found.span()
        if end < len(self._buf) and self._buf[end] not in "\r\n" and self._newlines == 0:
            self._drop()
            self._put(" " if self._last in ".,;:!?" else ", ", at, end)
        self._drop()
        return end

    def _math(self, found: re.Match[str]) -> int:
        self._drop()
        self._say(found.start() + 1, found.end() - 1)
        self._drop()
        return found.end()

    def _dropped(self, found: re.Match[str]) -> int:
        self._drop(apart=True)
        return found.end()

    def _half_key(self, found: re.Match[str]) -> int:
        at = found.start()
        if self._more is _More.LIKELY:
            self._held = Held(Hold.DOUBT, "may be a word to be replaced")
            return -1
        word = found.group()
        if word in self._replace:
            self._put(self._replace[word], at, found.end())
            return found.end()
        self._say(at, at + 1)
        return at + 1


def _bounded(key: str) -> str:
    """A pattern for the key as a whole word."""
    return (r"(?<!\w)" if key[0].isalnum() else "") + re.escape(key) + (r"(?=\W)" if key[-1].isalnum() else "")


def _half(key: str) -> str:
    """A pattern for the key's beginning at the end of the buffer."""
    pattern = r"\Z" if key[-1].isalnum() else r"(?!)"
    for char in reversed(key[1:]):
        pattern = rf"(?:\Z|{re.escape(char)}{pattern})"
    return (r"(?<!\w)" if key[0].isalnum() else "") + re.escape(key[0]) + pattern


_INDENT: Final = re.compile(r"[ \t]*")
_CJK: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_HOST: Final = re.compile(r"(?i:https?://)?(?:[^/?#@]*@)?(?i:www\.)?(?P<host>[^/?#:]+)")
_ATTRIBUTES: Final = r"""(?:\s+[\w:@.-]+\s*=\s*(?:"[^"\n]*"|'[^'\n]*'|[^\s"'=<>`]+)|\s+(?:%s))*""" % "|".join(
    ("async", "autoplay", "checked", "controls", "defer", "disabled", "hidden", "loop", "multiple", "muted", "open", "readonly")
)
_LINK_TEXT: Final = r"(?:[^\[\]\\\n]|\\.|\[[^\[\]\n]*\])*"
_LINK_TARGET: Final = (
    r"""\([ \t]*(?:<[^<>\n]*>|[^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)(?:\s+(?:"[^"\n]*"|'[^'\n]*'))?[ \t]*\)"""
)
_HALF_TARGET: Final = r"""\([^\n"'()]*(?:\([^\n"'()]*\)?[^\n"'()]*)?(?:\s["'][^\n]*)?\Z"""
_HALF_LINK: Final = rf"\[{_LINK_TEXT}(?:\\?\Z|\[[^\[\]\n]*\Z|\](?:\Z|{_HALF_TARGET}|\[[^\[\]\n]*\Z))"


_URL: Final = _Construct(
    "",
    "urls",
    re.compile(r"""(?i:https?://|www\.)[^\s<>"`*|\]\\^{}，。！？、；：）」』】]+"""),
    re.compile(r"(?i:h(?:t(?:t(?:ps?:?/?)?)?)?\Z|ww?w?\Z|https?://|www\.)"),
    Cleaner._address,
    bound=1000,
    why="an address may go on",
    grows=True,
)


def _c(
    first: str,
    rule: str,
    whole: str,
    half: str,
    act: Callable[[Cleaner, re.Match[str]], int],
    **more: object,
) -> _Construct:
    return _Construct(first, rule, re.compile(whole), re.compile(half), act, **more)  # type: ignore[arg-type]


_INLINE: Final = (
    _c("*_~", "emphasis", r"([*_~])\1*", ".", Cleaner._emphasis, grows=True, paused=True, hold=Hold.SURE),
    _c("`", "inline_code", r"`+", ".", Cleaner._code_span, grows=True, hold=Hold.SURE),
    _c("[", "footnotes", r"\[\^[^\]\s]{1,40}\]", r"\[(?:\^[^\]\s]{0,40})?\Z", Cleaner._removed),
    _c("[", "links", rf"\[({_LINK_TEXT})\](?:{_LINK_TARGET}|\[[^\[\]\n]*\])", _HALF_LINK, Cleaner._bracket),
    _c("]", "links", r"\]", r"(?!)", Cleaner._bracket_end),
    _c(
        "!",
        "images",
        rf"!\[({_LINK_TEXT})\](?:{_LINK_TARGET}|\[[^\[\]\n]*\])",
        rf"(?<!\w)!(?:\Z|{_HALF_LINK})",
        Cleaner._removed,
    ),
    _c("\\", "math", r"\\[()\[\]]", r"\\\Z", Cleaner._removed),
    _c("\\", "escapes", r"\\[!-/:-@\[-`|}~]", r"\\\Z", Cleaner._escape),
    _c("\\", "escapes", r"\\\{\s*\"", r"\\(?:\{\s*)?\Z", Cleaner._pronounced),
    _c(
        "&",
        "entities",
        r"&(?:[a-zA-Z]\w{1,30}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});",
        r"&[#\w]{0,8}\Z",
        Cleaner._entity,
        paused=True,
    ),
    _c("<", "html", r"<!--", r"<(?:!-?)?\Z", Cleaner._comment),
    _c("<", "html", r"<\|[\w ]+\|>", r"<(?:\|[\w ]*\|?)?\Z", Cleaner._removed),
    _c("<", "urls", r"<https?://[^\s<>]+>", r"<(?:h|ht|htt|https?|https?:/?|https?://[^\s<>]*)?\Z", Cleaner._address),
    _c("<", "links", r"<[\w.+-]+@[\w-]+\.[\w.-]+>", r"<(?:[\w.+-]+(?:@[\w.-]*)?)?\Z", Cleaner._mail),
    _c(
        "<",
        "think",
        rf"</?(?P<name>[a-zA-Z][\w:-]*){_ATTRIBUTES}\s*/?>",
        r"<(?:/?(?:[a-zA-Z][\w:-]*(?:\s+[\w:@.-]*(?:=[^<>\n]*)?)*/?)?)?\Z",
        Cleaner._tag,
    ),
    _c("|", "tables", r"\|[ \t|]*", ".", Cleaner._pipe, grows=True),
    _c("$", "math", r"\$(?=\S)[^$\n]*(?<=[\w)}\]])\$(?!\d)", r"\$(?:[^\s\d$][^$\n]{0,2})?\Z", Cleaner._math),
)

_BLOCKS: Final = (
    _c(
        "`~",
        "code",
        r"[ \t]*(?P<fence>`{3,}(?=[^`\n]*(?:\n|\Z))|~{3,})[^\n]*(?P<closed>(?!))?",
        r"[ \t]*(?:`+[^`\n]*|~+|~~~[^\n]*)\Z",
        Cleaner._fence,
        grows=True,
    ),
    _c("#", "headings", r"[ \t]*#{1,6}(?:[ \t]+|(?=\n))", r"[ \t]*#{1,6}\Z", Cleaner._own_line),
    _c(
        "-*_=",
        "separators",
        r"[ \t]*([-*_=])[ \t]*(?:\1[ \t]*){2,}(?=\r?\n|\Z)",
        r"[ \t]*([-*_=])(?:[ \t]*\1)*[ \t]*\Z",
        Cleaner._dropped_line,
    ),
    _c(
        "|:-",
        "tables",
        r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*(?=\n)",
        r"[ \t]*[|: \t-]*\Z",
        Cleaner._dropped_line,
    ),
    _c("|", "tables", r"[ \t]*\|[ \t]*", r"[ \t]*\|[ \t]*\Z", Cleaner._table_row),
    _c(
        "-*+",
        "lists",
        r"[ \t]*[-*+][ \t]+(?:\[[ xX]\][ \t]+)?",
        r"[ \t]*[-*+](?:[ \t]+(?:\[(?:[ xX](?:\][ \t]*)?)?)?)?\Z",
        Cleaner._own_line,
    ),
    _c("0123456789", "lists", r"[ \t]*\d{1,4}[.)](?=[ \t])", r"[ \t]*\d{1,4}[.)]?\Z", Cleaner._number, paused=True),
    _c(">", "quotes", r"[ \t]*>(?!=)[ \t]?", r"[ \t]*>\Z", Cleaner._quote, grows=True),
    _c(
        "[",
        "footnotes",
        r"[ \t]*\[\^[^\]\s]{1,40}\]:[^\n]*",
        r"[ \t]*\[(?:\^[^\]\s]{0,40}(?:\](?::[^\n]*)?)?)?\Z",
        Cleaner._removed,
        grows=True,
    ),
)
