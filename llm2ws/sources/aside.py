"""What an LLM's stream holds besides text to be spoken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Aside"]


@dataclass(frozen=True, slots=True)
class Aside:
    """Part of an answer that is passed on and never spoken.

    `kind` is "finish" (`data`: reason, usage), "tool_call", "refusal", or a word of a source of your own. `data` is JSON-like.
    """

    kind: str
    data: Mapping[str, object] = field(default_factory=dict)
