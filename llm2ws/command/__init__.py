"""The command: llm2ws say, check, serve and what they print."""

from __future__ import annotations
