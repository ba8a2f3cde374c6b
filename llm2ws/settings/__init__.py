"""Settings: their fields, how they are loaded, which speech endpoint and which LLM they name."""

from __future__ import annotations
