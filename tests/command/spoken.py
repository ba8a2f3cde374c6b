"""What the command is given to say."""

from __future__ import annotations

SENTENCE = "The quick brown fox jumps over the lazy dog, and then it rests. "
NULL = {"LLM2WS_PLAY__DEVICE": "null"}
