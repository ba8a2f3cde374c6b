"""How text is made fit to be spoken, as the settings want it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fields import Text

if TYPE_CHECKING:  # they take long to load
    from ..text.cleaner import Cleaner
    from ..text.fragmenter import Fragmenter
    from ..text.fragments import Policy

__all__ = ["cleaner", "fragmenter"]


def cleaner(text: Text) -> Cleaner:
    """Return a cleaner for one turn."""
    from ..text.cleaner import Cleaner, Rules

    return Cleaner(Rules(**dict.fromkeys(text.keep, False)), code_phrase=text.code_phrase, replace=text.replace)


def fragmenter(text: Text, policy: Policy) -> Fragmenter:
    """Return a fragmenter for one turn."""
    from ..text.fragmenter import Fragmenter

    return Fragmenter(
        policy,
        language=text.language or None,
        max_chars=text.max_chars,
        first_min_chars=text.first_min_chars,
        first_max_chars=text.first_max_chars,
    )
