"""Marks of sources, as data: what "[3]", "[cite: 3]" and the like look like, whole and half arrived."""

from __future__ import annotations

from typing import Final

from .construct import beginnings, construct

__all__ = ["CITATIONS"]

_NUMBERS: Final = r"\d{1,3}(?:(?:, ?| ?[-–] ?)\d{1,3}){0,8}"
_NAMED: Final = (
    r"(?:cite|citations?|sources?|docs?|documents?|file|web|refs?|references?|memory|search|news|page|Sources?|Documents?)"
)
_NUMBERED: Final = rf"\[(?:{_NUMBERS}|\[\d{{1,3}}\])\](?:(?:[-–]|, ?)\[\d{{1,3}}\]){{0,8}}"
_NAMED_MARK: Final = (
    rf"\[(?:cite_(?:start|end)|{_NAMED}(?:: ?|[ #]?)\d{{1,3}}(?:[-:,;. ]{{1,2}}[\w:-]{{1,12}}){{0,8}}"
    rf"|\^\d{{1,3}}\^|turn\d[\w, ]{{3,60}}|\d{{1,3}}†[^\]\n]{{0,60}}|citation needed)\]"
)
_LINK: Final = r"\[[^\[\]\n]{1,120}\]\(https?://[^()\s]{1,400}\)"

CITATIONS: Final = (
    construct(
        "citation",
        "[",
        "footnotes",
        rf"(?P<mark>{_NUMBERED})(?P<after>\[(?=[\[\d])|\s{{0,8}}[^\s:(\w\[]|\s{{1,8}}\S|\s{{9}}|\s*\Z)",
        r"\[(?:[\d,; –-]{0,50}|\[\d{0,3}\]?)"
        r"(?:\](?:(?:[-–]|, ?)\[\d{1,3}\]){0,8}(?:\[|\s{0,9}|(?:[-–]|, ?)(?:\[\d{0,3})?)?)?\Z",
        "may be the mark of a source",
    ),
    construct(
        "citation",
        "[",
        "footnotes",
        rf"(?P<mark>{_NAMED_MARK})(?P<after>)",
        r"\[(?:\^\d{0,3}\^?|\d{0,3}(?:†[^\]\n]{0,60})?|[a-zSD_]{0,14}|[a-zSD]{3,9}[:# ]?[\w:;,. -]{0,100}"
        r"|turn\d[\w, ]{0,60})\Z",
        "may be the mark of a source",
    ),
    construct(
        "citation",
        "【",
        "footnotes",
        r"(?P<mark>【(?:\d[^】\n]{0,80}|[^】\n]{0,80}†[^】\n]{0,80})】)(?P<after>)",
        r"【[^】\n]{0,80}\Z",
        "may be the mark of a source",
    ),
    construct(  # OpenAI's web search
        "spaced",
        "\ue200\ue201\ue202",
        "footnotes",
        r"\ue200[^\ue201\n]{0,300}(?:\ue201|\Z)|[\ue200-\ue202]",
        r"\ue200[^\ue201\n]{0,300}\Z",
        "may be the mark of a source",
        bound=310,
    ),
    construct(
        "spaced",
        ":",
        "footnotes",
        r":contentReference\[[^\[\]\n]{1,40}\](?:\{[^{}\n]{1,20}\}|\{[^{}\n]{0,20}\Z)?|:contentReference(?:\[[^\[\]\n]{0,40})?\Z",
        rf"{beginnings(':contentReference')}|:contentReference(?:\[[^\[\]\n]{{0,40}}(?:\](?:\{{[^{{}}\n]{{0,20}})?)?)?\Z",
        "may be the mark of a source",
        paused=True,
    ),
    construct(
        "linked_source",
        "(",
        "footnotes",
        rf"\((?:{_LINK}[,; ]{{0,2}})+\)",
        rf"\((?:{_LINK}[,; ]{{0,2}})*(?:\[[^\[\]\n]{{0,120}}(?:\](?:\([^()\s]{{0,400}})?)?)?\Z",
        "may be the mark of a source",
        bound=1500,
        paused=True,
    ),
    construct(
        "raised",
        "<",
        "footnotes",
        r"<sup>(?P<what>\[?[-−+]?[\d,–]{1,8}\]?|[a-z]|\*{1,3})</sup>",
        r"<(?:s(?:u(?:p(?:>(?:[\[\d,–*+−-]{0,9}\]?|[a-z])(?:<(?:/(?:s(?:u(?:p)?)?)?)?)?)?)?)?)?\Z",
        "may be the mark of a source",
    ),
)
