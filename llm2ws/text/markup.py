"""What markup looks like, as data: each construct of markdown, HTML and LaTeX, whole and half arrived.

The Cleaner tries constructs in the order of the tables. `half` must match to the end of the buffer for as long as more text
could change what `whole` says; that alone makes the result independent of how the text is chunked.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

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
    "IN_MATH",
    "LITERALS",
    "PRICE_ENDS",
    "RAW_TAGS",
    "STARRED",
    "THINK_MARKS",
    "THINK_TAGS",
    "UNSEEN",
    "UNSEEN_CHARS",
    "URL",
    "Construct",
]


class Construct(NamedTuple):
    """Markup that begins with certain characters."""

    name: str  # of the function in constructs.py that takes it
    first: str  # the characters it may begin with, after the indentation if it is a block
    rule: str  # the fields of Rules that switch it
    whole: re.Pattern[str]
    half: re.Pattern[str]
    why: str
    bound: int  # characters within which it must be whole
    paused: bool  # when the model pauses it is decided as at the end of the text


def _construct(
    name: str, first: str, rule: str, whole: str, half: str, why: str, *, bound: int = 300, paused: bool = False
) -> Construct:
    return Construct(name, first, rule, re.compile(whole), re.compile(half), why, bound, paused)


def _beginnings(mark: str) -> str:
    """Return a pattern for the beginnings of the mark at the end of the buffer."""
    return f"(?:{'|'.join(re.escape(mark[:size]) for size in range(1, len(mark)))})\\Z"


# --- tags ------------------------------------------------------------------------------------------------------------

THINK_TAGS: Final = frozenset(
    {"analysis", "reasoning", "reflection", "scratchpad", "seed:think", "think", "thinking", "thought", "thoughts"}
)

# The marks of Mistral's, Kimi's, Cohere's and OpenThinker's templates.
THINK_MARKS: Final = {
    "[THINK]": "[/THINK]",
    "◁think▷": "◁/think▷",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}

# What stands before each message of gpt-oss, in its "harmony" format: who speaks, to whom, and on which channel.
_HEADER: Final = r"(?:<\|start\|>[^<>\n]{0,80})?(?:<\|channel\|>[^<>\n]{0,80})?(?:<\|constrain\|>[^<>\n]{0,40})?"

# Elements whose content is not text.
RAW_TAGS: Final = frozenset(
    {"function_call", "function_calls", "script", "style", "svg", "template", "tool_call", "tool_calls", "tool_response"}
)

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

# Characters without width: soft hyphen, spaces of width zero, marks of writing direction, byte order mark. The two joiners are
# part of the spelling in Arabic and Indic scripts and stay there.
_WITHOUT_WIDTH: Final = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
UNSEEN: Final = f"(?:[{_WITHOUT_WIDTH}]|(?<![\u0600-\u109f\u1780-\u18af])[\u200c\u200d])+"
UNSEEN_CHARS: Final = _WITHOUT_WIDTH + "\u200c\u200d"  # that it may begin with

# Scripts without spaces between words: emphasis begins and ends there within a "word".
_UNSPACED: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
CJK: Final = re.compile(f"[{_UNSPACED}]")

# A star before these is a wildcard.
STARRED: Final = ("nix", "BSD")

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
URL: Final = _construct(
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
    r"|(?:arg|cos|det|exp|gcd|lim|log|max|min|mod|sin|tan|[a-zA-Z]{1,2})(?![a-zA-Z]))"
)
# A whole price and the end of its sentence: no formula goes on like this.
PRICE_ENDS: Final = re.compile(r"\$\d[\d,]*(?:\.\d+[.!?]|[!?])[\"'”’)\]*_]*\s*\Z")
_HALF_FORMULA: Final = rf"(?:\\[a-zA-Z]*+|{_HALF_BRACES}|[a-zA-Z]{{1,3}}|[.!?;:])?"

# --- within lines ------------------------------------------------------------------------------------------------------

INLINE: Final = (
    *(_construct("thought", mark[0], "think", re.escape(mark), _beginnings(mark), "may be a thought") for mark in THINK_MARKS),
    _construct(
        "emphasis", "*_~", "emphasis", r"([*_~])\1*", r"(?:\*+(?:n|ni|B|BS)?|_+|~+)\Z", "emphasis may begin or end", paused=True
    ),
    _construct(
        "fence",
        "`",
        "code",
        r"(?P<fence>`{3,})[\w+#.-]{0,20}[ \t\r]*+(?=\n)",
        r"(?:`{1,2}|`{3,}[\w+#.-]{0,20}[ \t\r]*)\Z",
        "code may begin",
    ),
    _construct("code_span", "`", "inline_code", "`+", r"`+\Z", "code may begin"),
    _construct("removed", "[", "footnotes", r"\[\^[^\]\s]{1,40}\]", r"\[(?:\^[^\]\s]{0,40})?\Z", "may be a footnote"),
    _construct("removed", "【", "footnotes", r"【[^】\n]{0,80}†[^】\n]{0,80}】", r"【[^】\n]{0,80}\Z", "may be a citation"),
    _construct("link", "[", "links", rf"\[({_TEXT})\](?:{_TARGET}|(?P<reference>{_REFERENCE}))", _HALF_LINK, "may be a link"),
    _construct("link_end", "]", "links", r"\]", r"(?!)", ""),
    _construct(
        "removed",
        "!",
        "images",
        rf"""(?<![\w!?.,;:"'”’…])!\[{_TEXT}\](?:{_TARGET}|{_REFERENCE})""",
        rf"""(?<![\w!?.,;:"'”’…])!(?:\Z|{_HALF_LINK})""",
        "may be an image",
        paused=True,
    ),
    _construct("pronounced", "\\", "escapes", r'\\\{[ \t]{0,2}"', r"\\(?:\{[ \t]{0,2})?\Z", "may be an escape"),
    _construct("formula", "\\", "math", r"\\[(\[]", r"\\\Z", "may be an escape"),
    _construct("removed", "\\", "math", r"\\[)\]]", r"\\\Z", "may be an escape"),
    _construct("removed", "\\", "escapes", r"\\(?=\r?\n)", r"\\\r?\Z", "may be an escape"),
    _construct("escape", "\\", "escapes", r"\\[!-/:-@\[-`|}~]", r"\\\Z", "may be an escape"),
    _construct(
        "entity",
        "&",
        "entities",
        r"&(?:[a-zA-Z]\w{1,7}|#\w{1,7});",
        r"&(?:#\w{0,7}|[a-zA-Z]\w{0,7})?\Z",
        "may be a character",
        paused=True,
    ),
    _construct("comment", "<", "html", r"<!--", r"<(?:!-?)?\Z", "may be a comment"),
    _construct(
        "header", "<", "think", rf"{_HEADER}<\|message\|>", rf"{_HEADER}(?:<(?:\|[a-z]{{0,9}}\|?)?)?\Z", "a message may begin"
    ),
    _construct(  # who speaks, in the templates of Llama 3, Granite and ChatML
        "removed",
        "<",
        "html",
        r"<\|start_(header_id|of_role)\|>[^<>\n]{0,40}<\|end_\1\|>|<\|im_start\|>\w{1,20}(?=\r?\n)",
        r"<(?:\|(?:\w{0,20}\|?|start_(?:header_id|of_role)\|>[^<>\n]{0,40}(?:<[|\w]{0,20})?|im_start\|>\w{0,20}\r?))?\Z",
        "a message may begin",
    ),
    _construct(
        "removed",
        "<",
        "html",
        r"<[|｜][\w /▁]{1,40}[|｜]>|<[!?][a-zA-Z][^<>\n]{0,200}>",
        r"<(?:[|｜](?:[\w /▁]{1,40}[|｜]?)?|[!?](?:[a-zA-Z][^<>\n]{0,200})?)?\Z",
        "may be a tag",
    ),
    _construct(
        "address",
        "<",
        "urls",
        r"<https?://[^\s<>]+>",
        r"<(?:h|ht|htt|https?:?|https?:/|https?://[^\s<>]*+)?\Z",
        "may be an address",
    ),
    _construct(
        "mail",
        "<",
        "links",
        r"<(?:mailto:)?(?P<mail>[\w.+-]++@[\w.-]++)>",
        r"<(?:(?:mailto:)?[\w.+-]++(?:@[\w.-]*+)?|mailto:)?\Z",
        "may be an address",
    ),
    _construct(
        "tag",
        "<",
        "html think",
        rf"</?(?P<name>[a-zA-Z][\w:-]*+){_ATTRIBUTES}[ \t]*+/?>",
        rf"<(?:/?(?:[a-zA-Z][\w:-]*+{_ATTRIBUTES}{_HALF_ATTRIBUTE}[ \t]*+/?)?)?\Z",
        "may be a tag",
    ),
    _construct("pipe", "|", "tables", r"\|[ \t|]*+", r"\|[ \t|]*\Z", "a cell may follow"),
    _construct(
        "formula",
        "$",
        "math",
        rf"\$\$(?=[ \t]*\r?\n|[ \t]*{_FORMULA}++\$\$)",
        rf"\$\$?\Z|\$\$[ \t]*(?:\r?|{_FORMULA}*+{_HALF_FORMULA}\$?)\Z",
        "may be a formula",
        bound=600,
    ),
    _construct(
        "formula",
        "$",
        "math",
        rf"\${_FORMULA}++(?<!\s)\$(?!\d)",
        rf"\${_FORMULA}*+{_HALF_FORMULA}(?:(?<=[^\s$])\$)?\Z|\$[\d.,]+ ?\Z",
        "may be a formula",
        bound=120,
        paused=True,
    ),
    _construct("removed", "\r", "unseen", r"\r(?=\n)", r"\r\Z", "a line may end"),
    _construct(
        "heading_end", "#", "headings", r"(?<=[ \t])#+[ \t]*+(?=\r?\n|\Z)", r"(?<=[ \t])#+[ \t]*\r?\Z", "a heading may end"
    ),
)

# What these enclose is not markup, even if their own rule is off.
LITERALS: Final = frozenset({"code_span", "fence"})

# Within a formula: LaTeX.
IN_MATH: Final = (
    _construct("formula_end", "$", "math", r"\$\$?", r"\$\Z", "a formula may end", paused=True),
    _construct("formula_end", "\\", "math", r"\\[)\]]", r"\\\Z", "a formula may end"),
    _construct(
        "removed",
        "\\",
        "math",
        r"\\(?:begin|end)\{[a-z]{1,20}\*?\}|\\(?:left|right)\.",
        r"\\[a-z]{0,5}(?:\{[a-z]{0,20}\*?)?\Z",
        "a command",
    ),
    _construct("command", "\\", "math", r"\\[a-zA-Z]{1,30}", r"\\[a-zA-Z]{0,29}\Z", "a command"),
    _construct("spaced", "\\", "math", r"\\[,;:!> \\]", r"\\\Z", "a command"),
    _construct("escape", "\\", "math", r"\\[{}%$#&_|]", r"\\\Z", "a command"),
    _construct("spaced", "&~", "math", r"[&~]", r"(?!)", ""),
    _construct("brace", "{}", "math", r"[{}]", r"\}\Z", "a fraction may go on", paused=True),
    _construct(
        "script",
        "^_",
        "math",
        r"\^\{(?P<braced>[23]|\\circ)\}|\^(?P<bare>[23](?![\d.])|\\circ(?![a-zA-Z]))|[\^_]",
        r"\^\{?(?:[23]|\\[circ]{0,4})?\Z",
        "a power may follow",
    ),
)

# What is markup even between backticks.
IN_CODE: Final = tuple(construct for construct in INLINE if construct.name in ("code_span", "link_end"))

# --- at the start of lines -----------------------------------------------------------------------------------------------

_INDENT: Final = "[ \t\u200b\ufeff]{0,40}"
INDENT: Final = re.compile(_INDENT)
_END: Final = r"[ \t]*+(?=\r?\n|\Z)"

BLOCKS: Final = tuple(
    construct._replace(
        whole=re.compile(_INDENT + construct.whole.pattern),
        half=re.compile(f"{_INDENT}(?:{construct.half.pattern})"),
    )
    for construct in (
        _construct(  # between paragraphs, a break of scene: no code begins with a blank line
            "removed",
            "~",
            "separators",
            r"~(?:[ \t]++~){2,}[ \t]*+(?=\r?\n|\Z)|~{3,}[ \t]*+(?=(?:\r?\n[ \t]*+){2}|\Z)",
            r"~(?:[ \t]*+~)*+[ \t]*+(?:\r?\n[ \t]*+)?\r?\Z",
            "may be a line",
        ),
        _construct(
            "fence",
            "`~",
            "code",
            r"(?P<fence>`{3,}(?=[^`\n]*+(?:\n|\Z))|~{3,})[^\n]*",
            r"(?:`{1,2}|`{3,}[^`\n]*+|~{1,2}|~{3,}[^\n]*+)\Z",
            "code may begin",
        ),
        _construct("own_line", "#", "headings", r"#{1,6}(?:[ \t]++|(?=\r?\n))", r"#{1,6}[ \t]*\r?\Z", "may be a heading"),
        _construct("removed", "=", "headings", rf"={{3,}}{_END}", r"=+[ \t]*\r?\Z", "may be a heading's underline"),
        _construct(
            "removed",
            "-*_",
            "separators",
            rf"([-*_])(?:[ \t]*+\1){{2,}}{_END}",
            r"([-*_])(?:[ \t]*+\1)*+[ \t]*\r?\Z",
            "may be a line",
        ),
        _construct(
            "rule_row",
            "|:-",
            "tables",
            rf"(?=[^|\n]*\|)\|?(?:[ \t]*+:?-++:?[ \t]*+(?:\||(?=\r?\n|\Z)))++{_END}",
            r"[|: \t-]+\r?\Z",
            "may be a table",
        ),
        _construct("row", "|", "tables", r"\|[ \t]*+", r"\|[ \t]*\Z", "may be a table"),
        _construct(
            "item",
            "-*+•‣◦●∙",
            "lists",
            r"(?P<mark>[-*+•‣◦●∙])(?:[ \t]++(?:\[[ xX]\][ \t]++)?|(?=\r?\n))",
            r"[-*+•‣◦●∙](?:\r?|[ \t]++(?:\[(?:[ xX](?:\][ \t]*)?)?)?)\Z",
            "may be a list item",
        ),
        _construct(
            "number",
            "0123456789",
            "lists",
            r"(?P<number>\d{1,3}[.)])(?=[ \t])",
            r"\d{1,3}[.)]?\Z",
            "may be a list item",
            paused=True,
        ),
        _construct("quote", ">", "quotes", r">(?!=)[ \t]?", r">\Z", "may be a quote"),
        _construct(
            "removed",
            "[",
            "footnotes",
            r"\[\^[^\]\s]{1,40}\]:[^\n]*+",
            r"\[(?:\^[^\]\s]{0,40}(?:\](?::[^\n]*+)?)?)?\Z",
            "may be a footnote",
            bound=2000,
        ),
        _construct(
            "removed",
            "[",
            "links",
            rf"\[[^\[\]\n]+\]:[ \t]*+\S++{_TITLE}{_END}",
            rf"\[(?:[^\[\]\n]+(?:\](?::[ \t]*+\S*+{_TITLE}[ \t]*\r?(?:[ \t][\"'][^\n]*)?)?)?)?\Z",
            "may be a definition",
        ),
    )
)
