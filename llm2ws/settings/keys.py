"""Keys of endpoints, LLMs and clients: from the settings, or from a file that holds one alone."""

from __future__ import annotations

from pathlib import Path

from ..address import is_key
from ..errors import ConfigError
from .fields import Llm, Speech

__all__ = ["key_of", "read_key"]


def read_key(path: str) -> str:
    """Return the key that a file holds alone. Raises ConfigError when it cannot be read."""
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"key file {path}: {getattr(exc, 'strerror', None) or 'not text'}", hint="name a file that holds the key"
        ) from None
    if not is_key(key):
        what = f"key file {path}: not one line of visible ASCII characters"
        raise ConfigError(what, hint="write the key into it, and nothing else")
    return key


def key_of(entry: Speech | Llm) -> str:
    """Return the key of an endpoint or LLM, read from `api_key_file` where `api_key` is not set; "" for none.

    Raises ConfigError when the file cannot be read.
    """
    return read_key(entry.api_key_file) if entry.api_key_file and not entry.api_key else entry.api_key.reveal()
