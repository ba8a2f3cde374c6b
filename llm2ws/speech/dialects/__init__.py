"""The conversation with speech endpoints, without I/O. A new vendor is a file and a line or two here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..dialect import Dialect, Setup
from . import cartesia, deepgram, deepgram_v2, elevenlabs

__all__ = ["ACCOUNTS", "DIALECTS", "OPENAI_VOICES"]

DIALECTS: dict[str, Callable[[Setup], Dialect]] = {
    "deepgram": deepgram.Deepgram,
    "deepgram-v2": deepgram_v2.DeepgramV2,
    "elevenlabs": elevenlabs.ElevenLabs,
    "cartesia": cartesia.Cartesia,
}

# Whose key a dialect takes, where that is another's.
ACCOUNTS = {"deepgram-v2": "deepgram"}

# OpenAI's names of voices, and a dialect's voices that stand for them: its usual one for those that are missing.
OPENAI_VOICES: dict[str, Mapping[str, str]] = {
    "deepgram": deepgram.VOICES,
    "deepgram-v2": deepgram_v2.VOICES,
    "elevenlabs": elevenlabs.VOICES,
    "cartesia": cartesia.VOICES,
}
