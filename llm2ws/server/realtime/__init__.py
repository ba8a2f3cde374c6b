"""OpenAI's Realtime API over a WebSocket: text in, speech and its transcript out."""

from __future__ import annotations

from .session import API

__all__ = ["API"]
