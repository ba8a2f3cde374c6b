"""How text is made fit to be spoken, as the settings want it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from .fields import Markup, TextSettings

if TYPE_CHECKING:  # they take long to load
    from ..text.cleaner import Cleaner
    from ..text.fragmenter import Fragmenter
    from ..text.fragments import Policy

__all__ = ["TextOptions", "cleaner", "fragmenter"]


class TextOptions(TypedDict, total=False):
    """How `connect` makes text fit to be spoken: settings of [text], with the same defaults.

    `language`: whose abbreviations are known, such as "de"; "" for all that are. `max_chars`: the longest fragment.
    `first_min_chars`, `first_max_chars`: where the first fragment may and where it must be cut.
    `token_s`: after how many seconds without text a source has failed. `code_phrase`: what is said for a block of code.
    `keep`: markup that is said as it is written. `replace`: words that are said differently.
    """

    language: str
    max_chars: int
    first_min_chars: int
    first_max_chars: int
    token_s: float
    code_phrase: str
    keep: Sequence[Markup]
    replace: Mapping[str, str]


def cleaner(text: TextSettings) -> Cleaner:
    """Return a cleaner for one turn."""
    from ..text.cleaner import Cleaner, Rules

    return Cleaner(Rules(**dict.fromkeys(text.keep, False)), code_phrase=text.code_phrase, replace=text.replace)


def fragmenter(text: TextSettings, policy: Policy) -> Fragmenter:
    """Return a fragmenter for one turn."""
    from ..text.fragmenter import Fragmenter

    return Fragmenter(
        policy,
        language=text.language or None,
        max_chars=text.max_chars,
        first_min_chars=text.first_min_chars,
        first_max_chars=text.first_max_chars,
    )
