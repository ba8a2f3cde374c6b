"""What markup looks like, as data: the constructs of markdown, HTML and LaTeX, in the order in which the Cleaner tries them."""

from __future__ import annotations

import re
from typing import Final

from .citations import CITATIONS
from .construct import beginnings, construct
from .leftovers import LEFTOVERS
from .machinery import MACHINERY, RAW_TAGS

__all__ = [
    "BLOCKS",
    "BREAKING_TAGS",
    "CJK",
    "EMOJI",
    "HOST",
    "HTML_TAGS",
    "INDENT",
    "INLINE",
    "IN_CODE",
    "LITERALS",
    "PRICE_ENDS",
    "STARRED",
    "UNSEEN",
    "UNSEEN_CHARS",
    "URL",
]


# --- tags ------------------------------------------------------------------------------------------------------------

# Elements at whose edges a line ends, and what is said there.
BREAKING_TAGS: Final = {"br": "\n", "td": ", ", "th": ", "} | dict.fromkeys(
    (
        *("address", "article", "aside", "blockquote", "caption", "center", "dd", "details", "div", "dl", "dt", "figcaption"),
        *("figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "option"),
        *("p", "pre", "section", "select", "summary", "table", "tbody", "tfoot", "thead", "title", "tr", "ul"),
    ),
    "\n\n",
)

# Dropped even right behind a word; other names are there more likely a type: `List<int>`.
HTML_TAGS: Final = frozenset(
    (
        *BREAKING_TAGS,
        *RAW_TAGS,
        *("a", "abbr", "audio", "b", "bdi", "bdo", "big", "body", "button", "cite", "code", "col", "colgroup", "data", "del"),
        *("dfn", "em", "font", "head", "html", "i", "iframe", "img", "input", "ins", "kbd", "label", "link", "mark", "meta"),
        *("meter", "object", "output", "picture", "progress", "q", "rp", "rt", "ruby", "s", "samp", "small", "source", "span"),
        *("strike", "strong", "sub", "sup", "textarea", "time", "tt", "u", "var", "video", "wbr"),
    )
)

_BARE: Final = "async|autoplay|checked|controls|defer|disabled|hidden|loop|multiple|muted|open|readonly|required|selected"
_VALUE: Final = r"""(?:"[^"\n]*+"|'[^'\n]*+'|[^\s"'=<>`]++)"""
_ATTRIBUTES: Final = rf"(?:[ \t]++(?:[\w:@.-]++[ \t]*+=[ \t]*+{_VALUE}|(?:{_BARE})\b))*+"
_HALF_VALUE: Final = r"""(?:"[^"\n]*+|'[^'\n]*+|[^\s"'=<>`]++)?"""
_HALF_ATTRIBUTE: Final = rf"(?:[ \t]++(?:[\w:@.-]++(?:[ \t]*+=[ \t]*+{_HALF_VALUE})?)?)?"

# --- characters ------------------------------------------------------------------------------------------------------

# Pictographs and what modifies them, as the inside of a character class. Not the digits of keycaps: they are words.
EMOJI: Final = (
    "\u20e3\u231a\u231b\u2328\u23cf\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u27bf\u2934\u2935"
    "\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\u3297\u3299\ufe0e\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f"
)

# Controls, characters of private use, and such without width: soft hyphen, spaces of width zero, marks of writing direction,
# byte order mark. The two joiners are part of the spelling in Arabic and Indic scripts and stay there.
_WITHOUT_WIDTH: Final = (
    "\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9a\x9c-\x9f"
    "\ue000-\uf8ff\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
)
UNSEEN: Final = f"(?:[{_WITHOUT_WIDTH}]|(?<![\u0600-\u109f\u1780-\u18af])[\u200c\u200d])+"
UNSEEN_CHARS: Final = _WITHOUT_WIDTH + "\u200c\u200d"  # that it may begin with

# Scripts without spaces between words: emphasis begins and ends there within a "word".
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
CJK: Final = re.compile(f"[{_UNSPACED}]")

# A star before these is a wildcard.
STARRED: Final = ("nix", "BSD", "args", "kwargs")

# --- links -----------------------------------------------------------------------------------------------------------

_TEXT: Final = r"(?:[^\[\]\\\n]++|\\[^\n]|\[[^\[\]\n]*+\](?:\([^()\n]*+\))?)*+"
_TITLE: Final = r"""(?:[ \t]++(?:"[^"\n]*+"|'[^'\n]*+'))?"""
_DESTINATION: Final = r"(?:<[^<>\n]*+>|[^\s()<>]*+(?:\([^\s()<>]*+\)[^\s()<>]*+)*+)"
_TARGET: Final = rf"\([ \t]*+{_DESTINATION}{_TITLE}[ \t]*+\)"
_HALF_DESTINATION: Final = r"(?:<[^<>\n]*+>?|[^\s()<>]*+(?:\([^\s()<>]*+\)[^\s()<>]*+)*+(?:\([^\s()<>]*+)?)"
_HALF_TARGET: Final = rf"""\([ \t]*+{_HALF_DESTINATION}(?:[ \t]++(?:"[^"\n]*+"?|'[^'\n]*+'?)?)?[ \t]*+\Z"""
_REFERENCE: Final = r"\[[^\[\]\n]*+\]"
_HALF_LINK: Final = rf"\[{_TEXT}(?:\\?\Z|\[[^\[\]\n]*+(?:\Z|\]\([^()\n]*+\Z)|\](?:\Z|{_HALF_TARGET}|\[[^\[\]\n]*+\Z))"

# Typographic marks, and the words of a script without spaces, are no part of an address: the sentence goes on with them. But
# for Chinese characters and katakana where a part of the path begins.
_URL_CHARS: Final = rf"""(?:[^\s<>"`*|\]\\^{{}}“”„‘’«»‹›…—{_UNSPACED}]|(?<=[/=_-])[\u3005\u30a0-\u30ff\u3400-\u9fff]++)"""
HOST: Final = re.compile(r"(?i:https?://(?:[^/?#@]*+@)?(?:www\.)?|www\.)(?P<host>[^/?#:]+)")
URL: Final = construct(
    "address",
    "hw",
    "urls",
    rf"(?i:https?://|www\.){_URL_CHARS}+",
    rf"(?i:h(?:t(?:t(?:p(?:s?:?|s?:/)?)?)?)?\Z|ww?w?\Z|(?:https?://|www\.){_URL_CHARS}*+\Z)",
    "an address may go on",
    bound=1000,
)

# --- mathematics: $ is a price unless what follows can be nothing but a formula -----------------------------------------

_FLAT: Final = r"\{[^{}$\n]*+\}"
_NESTED: Final = rf"\{{(?:[^{{}}$\n]|{_FLAT})*+\}}"
_BRACES: Final = rf"\{{(?:[^{{}}$\n]|{_NESTED})*+\}}"
_HALF_BRACES: Final = rf"\{{(?:[^{{}}$\n]|{_NESTED})*+(?:\{{(?:[^{{}}$\n]|{_FLAT})*+(?:\{{[^{{}}$\n]*+)?)?"
_FORMULA: Final = (
    r"(?![\s$])(?:[\d.,]*\d(?:(?=\$)|(?= ?[-+*/^=<>\\_])|(?=[a-zA-Z](?![a-zA-Z]))(?![kKMB])))?"
    rf"(?:\\[a-zA-Z]++|\\[^a-zA-Z\n]|{_BRACES}|(?![.!?;:] )[^$\n\\a-zA-Z{{]|(?:(?<=\$[a-zA-Z])|(?<= )): "
    r"|(?:[a-zA-Z]{1,2}|[A-Z]{3,6}|(?!(?i:and|are|but|day|for|has|its|now|off|our|out|per|the|was|you))[a-zA-Z]{3})(?![a-zA-Z]))"
)
# A whole price and the end of its sentence: no formula goes on like this.
PRICE_ENDS: Final = re.compile(r"\$\d[\d,]*(?:\.\d+[.!?]|[!?])[\"'”’)\]*_]*\s*\Z")
_HALF_FORMULA: Final = rf"(?:\\[a-zA-Z]*+|{_HALF_BRACES}|[a-zA-Z]{{1,3}}|[.!?;:])?"

_END: Final = r"[ \t]*+(?=\r?\n|\Z)"
_RULE_ROW: Final = rf"(?=[^|\n]*\|)\|?(?:[ \t]*+:?-++:?[ \t]*+(?:\||(?=\r?\n|\Z)))++{_END}"

# --- within lines ------------------------------------------------------------------------------------------------------

INLINE: Final = (
    *MACHINERY,
    *CITATIONS,
    *LEFTOVERS,
    construct(
        "emphasis",
        "*_~",
        "emphasis",
        r"([*_~])\1*",
        rf"(?:\*+(?:{'|'.join(map(beginnings, STARRED))}|\Z)|_+\Z|~+\Z)",
        "emphasis may begin or end",
        paused=True,
    ),
    construct(
        "fence",
        "`",
        "code",
        r"(?P<fence>`{3,})[\w+#.-]{0,20}[ \t\r]*+(?=\n)",
        r"(?:`{1,2}|`{3,}[\w+#.-]{0,20}[ \t\r]*)\Z",
        "code may begin",
    ),
    construct("highlight", "=", "emphasis", r"(?<!=)==(?!=)", r"==?\Z", "emphasis may begin or end", paused=True),
    construct("code_span", "`", "inline_code", "`+", r"`+\Z", "code may begin"),
    construct("removed", "[", "footnotes", r"\[\^[^\]\s]{1,40}\]", r"\[(?:\^[^\]\s]{0,40})?\Z", "may be a footnote"),
    construct("link", "[", "links", rf"\[({_TEXT})\](?:{_TARGET}|(?P<reference>{_REFERENCE}))", _HALF_LINK, "may be a link"),
    construct("link_end", "]", "links", r"\]", r"(?!)", ""),
    construct(
        "removed",
        "!",
        "images",
        rf"""(?<![\w!?.,;:"'”’…])!\[{_TEXT}\](?:{_TARGET}|{_REFERENCE})""",
        rf"""(?<![\w!?.,;:"'”’…])!(?:\Z|{_HALF_LINK})""",
        "may be an image",
        paused=True,
    ),
    construct("pronounced", "\\", "escapes", r'\\\{[ \t]{0,2}"', r"\\(?:\{[ \t]{0,2})?\Z", "may be an escape"),
    construct("display", "\\", "math", r"\\[(\[]", r"\\\Z", "may be an escape"),
    construct("removed", "\\", "math", r"\\[)\]]", r"\\\Z", "may be an escape"),
    construct(
        "environment",
        "\\",
        "math",
        r"\\begin\{(?P<name>[a-zA-Z]{0,2}(?:align|alignat|array|cases|equation|gather|matrix|multline|split)[a-z]{0,2}\*?)\}",
        r"\\[a-z]{0,5}(?:\{[a-zA-Z]{0,16}\*?)?\Z",
        "may be a formula",
    ),
    construct(
        "bare_formula",
        "\\",
        "math",
        rf"(?<![\w:\\/.])\\(?:(?:[dtc]?frac|d?binom|textcolor|overset|underset){_BRACES}{_BRACES}"
        rf"|(?:sqrt(?:\[[^\[\]\n]{{1,9}}\])?|boxed|text|text[bi][ft]|math[a-z]{{2,4}}|overline|underline|vec|hat|bar|tilde|ce){_BRACES}"
        r"|(?P<symbol>[a-zA-Z]{2,20})(?![\w\\{]))",
        rf"\\(?:[a-zA-Z]{{0,20}}(?:\[[^\[\]\n]{{0,9}}\]?)?(?:{_BRACES}){{0,2}}(?:{_HALF_BRACES})?)?\Z",
        "may be a formula",
    ),
    construct("removed", "\\", "escapes", r"\\(?=\r?\n)", r"\\\r?\Z", "may be an escape"),
    construct("escape", "\\", "escapes", r"\\[!-/:-@\[-`|}~]", r"\\\Z", "may be an escape"),
    construct(
        "entity",
        "&",
        "entities",
        r"&(?:[a-zA-Z]\w{1,7}|#\w{1,7});",
        r"&(?:#\w{0,7}|[a-zA-Z]\w{0,7})?\Z",
        "may be a character",
        paused=True,
    ),
    construct("comment", "<", "html", r"<!--", r"<(?:!-?)?\Z", "may be a comment"),
    construct(
        "removed",
        "<",
        "html",
        r"<[!?][a-zA-Z][^<>\n]{0,200}>",
        r"<(?:[!?](?:[a-zA-Z][^<>\n]{0,200})?)?\Z",
        "may be a tag",
    ),
    construct(
        "address",
        "<",
        "urls",
        r"<https?://[^\s<>]+>",
        r"<(?:h|ht|htt|https?:?|https?:/|https?://[^\s<>]*+)?\Z",
        "may be an address",
    ),
    construct(
        "mail",
        "<",
        "links",
        r"<(?:mailto:)?(?P<mail>[\w.+-]++@[\w.-]++)>",
        r"<(?:(?:mailto:)?[\w.+-]++(?:@[\w.-]*+)?|mailto:)?\Z",
        "may be an address",
    ),
    construct(
        "placeholder",
        "<",
        "html",
        r"<(?P<words>(?:a|an|any|enter|file|insert|my|new|path|project|some|the|user|your)(?: [\w'’-]{1,20}){1,5})>",
        r"<(?:[a-z]{0,8}|[a-z]{1,8}(?: [\w'’-]{0,20}){1,5})\Z",
        "may be a placeholder",
    ),
    construct(
        "tag",
        "<",
        "html think",
        rf"</?(?P<name>[a-zA-Z][\w:.-]*+)(?:=[^<>\s]{{1,80}}|{_ATTRIBUTES})[ \t]*+/?>",
        rf"<(?:/?(?:[a-zA-Z][\w:.-]*+(?:=[^<>\s]{{0,80}}|{_ATTRIBUTES}{_HALF_ATTRIBUTE})[ \t]*+/?)?)?\Z",
        "may be a tag",
    ),
    construct(  # the head of a table without outer bars: the row below it tells
        "head",
        "|",
        "tables",
        rf"\|(?=[^\n]{{0,200}}\n{_RULE_ROW})",
        r"\|[^\n]{0,200}(?:\n[|: \t-]{0,100}\r?)?\Z",
        "may be the head of a table",
        paused=True,
    ),
    construct("pipe", "|", "tables", r"\|[ \t|]*+", r"\|[ \t|]*\Z", "a cell may follow"),
    construct("display", "$", "math", r"\$\$", r"\$\Z", "may be a formula"),
    construct(
        "formula",
        "$",
        "math",
        rf"\$(?P<formula>{_FORMULA}++)(?<!\s)\$(?!\w)",
        rf"\${_FORMULA}*+{_HALF_FORMULA}(?:(?<=[^\s$])\$)?\Z|\$[\d.,]+ ?\Z",
        "may be a formula",
        bound=120,
        paused=True,
    ),
    construct("removed", "\r", "unseen", r"\r(?=\n)", r"\r\Z", "a line may end"),
    construct(
        "heading_end", "#", "headings", r"(?<=[ \t])#+[ \t]*+(?=\r?\n|\Z)", r"(?<=[ \t])#+[ \t]*\r?\Z", "a heading may end"
    ),
)

# What these enclose is not markup, even if their own rule is off.
LITERALS: Final = frozenset({"code_span", "fence"})

# What is markup even between backticks.
IN_CODE: Final = (
    *(inline for inline in INLINE if inline.name in ("code_span", "link_end")),
    construct("cell_bar", "\\", "tables", r"\\\|", r"\\\Z", "may be a bar"),
)

# --- at the start of lines -----------------------------------------------------------------------------------------------

_DEFINED: Final = r"(?:(?:\n[ \t]*+\r?+)?\n[ \t]{2,}[^\s][^\n]*+)*+"  # the other lines of a definition
_INDENT: Final = "[ \t\u200b\ufeff]{0,40}"
INDENT: Final = re.compile(_INDENT)

BLOCKS: Final = tuple(
    block._replace(
        whole=re.compile(_INDENT + block.whole.pattern),
        half=re.compile(f"{_INDENT}(?:{block.half.pattern})"),
    )
    for block in (
        construct(  # between paragraphs, a break of scene: no code begins with a blank line
            "removed",
            "~",
            "separators",
            r"~(?:[ \t]++~){2,}[ \t]*+(?=\r?\n|\Z)|~{3,}[ \t]*+(?=(?:\r?\n[ \t]*+){2}|\Z)",
            r"~(?:[ \t]*+~)*+[ \t]*+(?:\r?\n[ \t]*+)?\r?\Z",
            "may be a line",
        ),
        construct(
            "fence",
            "`~",
            "code",
            r"(?P<fence>`{3,}(?=[^`\n]*+(?:\n|\Z))|~{3,})[^\n]*",
            r"(?:`{1,2}|`{3,}[^`\n]*+|~{1,2}|~{3,}[^\n]*+)\Z",
            "code may begin",
        ),
        construct("own_line", "#", "headings", r"#{1,6}(?:[ \t]++|(?=\r?\n))", r"#{1,6}[ \t]*\r?\Z", "may be a heading"),
        construct("removed", "=", "headings", rf"={{3,}}{_END}", r"=+[ \t]*\r?\Z", "may be a heading's underline"),
        construct(
            "removed",
            "-*_",
            "separators",
            rf"([-*_])(?:[ \t]*+\1){{2,}}{_END}",
            r"([-*_])(?:[ \t]*+\1)*+[ \t]*\r?\Z",
            "may be a line",
        ),
        construct(
            "removed",
            "⸺⸻⁂—–·◆◇■□§",
            "separators",
            rf"([⸺⸻⁂—–·◆◇■□§])(?:[ \t]*+\1)*+{_END}",
            r"([⸺⸻⁂—–·◆◇■□§])(?:[ \t]*+\1)*+[ \t]*\r?\Z",
            "may be a line",
        ),
        construct(
            "removed",
            ":",
            "separators",
            rf":{{3,}}[ \t]*+[\w-]{{0,20}}{_END}",
            r":+[ \t]*[\w-]{0,20}[ \t]*\r?\Z",
            "may be a line",
        ),
        construct(
            "callout",
            "[",
            "quotes",
            r"\[!(?P<kind>[A-Za-z]{2,20})\][-+]?",
            r"\[(?:!(?:[A-Za-z]{0,20}(?:\][-+]?)?)?)?\Z",
            "may be a callout",
        ),
        construct(
            "rule_row",
            "|:-",
            "tables",
            _RULE_ROW,
            r"[|: \t-]+\r?\Z",
            "may be a table",
        ),
        construct("removed", "+", "tables", rf"\+(?:[-=]{{2,}}\+)+{_END}", r"\+(?:[-=]+\+?)*[ \t]*\r?\Z", "may be a table"),
        construct("row", "|", "tables", r"\|[ \t]*+", r"\|[ \t]*\Z", "may be a table"),
        construct(
            "item",
            "-*+•‣◦●∙",
            "lists",
            r"(?P<mark>[-*+•‣◦●∙])(?:[ \t]++(?:\[[ xX]\][ \t]++)?|(?=\r?\n))",
            r"[-*+•‣◦●∙](?:\r?|[ \t]++(?:\[(?:[ xX](?:\][ \t]*)?)?)?)\Z",
            "may be a list item",
        ),
        construct(
            "number",
            "0123456789",
            "lists",
            r"(?P<number>\d{1,3}[.)])(?=[ \t])",
            r"\d{1,3}[.)]?\Z",
            "may be a list item",
            paused=True,
        ),
        construct("quote", ">", "quotes", r">(?!=)[ \t]?", r">\Z", "may be a quote"),
        construct(
            "removed",
            "[",
            "footnotes",
            rf"\[\^[^\]\s]{{1,40}}\]:[^\n]*+{_DEFINED}",
            rf"\[(?:\^[^\]\s]{{0,40}}(?:\](?::[^\n]*+{_DEFINED}(?:\n[ \t]*+\r?+){{0,2}})?)?)?\Z",
            "may be a footnote",
            bound=2000,
        ),
        construct(
            "removed",
            "[",
            "links",
            rf"\[[^\[\]\n]+\]:[ \t]*+\S++{_TITLE}{_END}",
            rf"\[(?:[^\[\]\n]+(?:\](?::[ \t]*+\S*+{_TITLE}[ \t]*\r?(?:[ \t][\"'][^\n]*)?)?)?)?\Z",
            "may be a definition",
        ),
    )
)
