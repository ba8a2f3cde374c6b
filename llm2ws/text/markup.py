"""Data of the Cleaner: what each construct of markdown, HTML and LaTeX looks like, whole and half arrived."""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "BREAKING_TAGS",
    "EMOJI",
    "FORMAT",
    "HTML_TAGS",
    "INVISIBLE",
    "RAW_TAGS",
    "THINK_TAGS",
]

THINK_TAGS: Final = frozenset({"analysis", "reasoning", "think", "thinking", "thought"})

# Elements whose content is not text.
RAW_TAGS: Final = frozenset({"script", "style", "template", "svg"})

# Elements around which a line ends, and what is said there.
BREAKING_TAGS: Final = {
    "br": "\n",
    "td": ", ",
    "th": ", ",
} | dict.fromkeys(
    (
        *("address", "article", "aside", "blockquote", "caption", "center", "dd", "details", "div", "dl", "dt", "figcaption"),
        *("figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "option"),
        *("p", "pre", "section", "select", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul"),
    ),
    "\n\n",
)

# Elements that are dropped even right behind a word; other names are there more likely a type: `List<int>`.
HTML_TAGS: Final = (
    frozenset(BREAKING_TAGS)
    | RAW_TAGS
    | frozenset(
        (
            *(
                "a",
                "abbr",
                "audio",
                "b",
                "bdi",
                "bdo",
                "big",
                "body",
                "button",
                "cite",
                "code",
                "col",
                "colgroup",
                "data",
                "del",
            ),
            *(
                "dfn",
                "em",
                "font",
                "head",
                "html",
                "i",
                "iframe",
                "img",
                "input",
                "ins",
                "kbd",
                "label",
                "link",
                "mark",
                "meta",
            ),
            *(
                "meter",
                "object",
                "output",
                "picture",
                "progress",
                "q",
                "rp",
                "rt",
                "ruby",
                "s",
                "samp",
                "small",
                "source",
                "span",
            ),
            *("strike", "strong", "sub", "sup", "textarea", "time", "tt", "u", "var", "video", "wbr"),
        )
    )
)

# Pictographs, their modifiers and what joins them. Digits of keycaps are not among them: they are words.
EMOJI: Final = (
    (
        "\u00a9\u00ae\u203c\u2049\u20e3\u2139\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa\u24c2\u25aa\u25ab\u25b6\u25c0"
        "\u25fb-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\ufe0e\ufe0f"
        "\U0001f000-\U0001faff\U000e0020-\U000e007f"
    )
    .replace("\u00a9\u00ae\u203c\u2049", "")
    .replace("\u2139", "")
    .replace("\u24c2", "")
)

# Characters without width: spaces of width zero, soft hyphen, marks of writing direction, byte order mark.
INVISIBLE: Final = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
FORMAT: Final = "\u200c\u200d"  # joiners: part of the spelling in Persian and in Indic scripts, invisible elsewhere

_ = re
