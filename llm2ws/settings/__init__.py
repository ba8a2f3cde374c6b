"""Settings: their fields, how they are loaded, which speech endpoint and which LLM they name."""

from __future__ import annotations

from .fields import Llm, Server, Settings, Speech
from .fields import TextSettings as Text

__all__ = ["Llm", "Server", "Settings", "Speech", "Text"]
