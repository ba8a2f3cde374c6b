"""What the Cleaner does with each kind of markup."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A rule that is off leaves its kind of markup as it is. All off: what is said equals the model's text.

    Indented lines are no code, as most of them continue a list.
    """

    code: bool = True  # fenced blocks are dropped, to the end of the text if unclosed; a phrase is said in place of each
    emoji: bool = (
        True  # dropped, but for those that are words; arrows and other signs are said in words; a keycap's digit stays
    )
    emphasis: bool = True  # *, _, **, ***, ~~ are dropped, what they enclose is said
    entities: bool = True  # &amp; becomes &
    escapes: bool = True  # \* becomes *; Deepgram's \{"word": …} stays as it is
    footnotes: bool = True  # marks, definitions and 【4†source】 are dropped
    headings: bool = True  # # and underlines are dropped; the line is a paragraph
    html: bool = True  # tags and comments are dropped, <script> and <style> with what they enclose
    images: bool = True  # dropped
    inline_code: bool = True  # backticks are dropped, what they enclose is said as it is
    links: bool = True  # the text is said, the address is dropped
    lists: bool = True  # marks are dropped, numbers stay; each item is a paragraph
    math: bool = True  # $, $$, \(, \[ are dropped, the LaTeX that they enclose is said in words
    quotes: bool = True  # > is dropped; each line is a paragraph
    separators: bool = True  # lines of ---, ***, ___ are dropped
    tables: bool = True  # cells are said with commas between; each row is a paragraph
    think: bool = True  # dropped with all that it encloses, to the end of the text if unclosed; a lone end tag is dropped
    unseen: bool = True  # characters without width are dropped
    urls: bool = True  # only the host is said

    @classmethod
    def none(cls) -> Rules:
        """All rules off."""
        return cls(**{field.name: False for field in fields(cls)})
