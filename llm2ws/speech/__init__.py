"""The conversation with speech endpoints, without I/O. A new vendor is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from .deepgram import Deepgram
from .deepgram_v2 import DeepgramV2
from .dialect import Dialect, Setup

__all__ = ["DIALECTS"]

DIALECTS: dict[str, Callable[[Setup], Dialect]] = {
    "deepgram": Deepgram,
    "deepgram-v2": DeepgramV2,
}
