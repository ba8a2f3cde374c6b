"""The conversation with speech endpoints, without I/O. A new vendor is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable

from .deepgram import Deepgram
from .dialect import Dialect, Setup

__all__ = ["DIALECTS"]

DIALECTS: dict[str, Callable[[Setup], Dialect]] = {
    "deepgram": Deepgram,
}
