"""What a model's stream holds besides text to be spoken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Aside"]


@dataclass(frozen=True, slots=True)
class Aside:
    """Something that is passed on and never spoken.

    `kind` is "finish" (`data`: reason, usage), "tool_call", "refusal" or what a source of your own says; `data` is JSON-like.
    """

    kind: str
    data: Mapping[str, object] = field(default_factory=dict)
