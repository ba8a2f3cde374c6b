"""Answers of LLMs, and the settings with which the command finds them."""

from __future__ import annotations

from tests.sources.asking import chunk
from tests.sources.replay import End, Reply, Server

DONE = chunk(reason="stop") + b"data: [DONE]\n\n"
STORY = ("The quick brown fox jumps over the lazy dog. ", "Then it rests for a while. ", "Nobody saw it again.")


def answer(*texts: str, end: End = End.CHUNK) -> Reply:
    """Without its end, if that is held."""
    return Reply([chunk(text) for text in texts] + ([DONE] if end is End.CHUNK else []), end=end)


def llm(server: Server, kind: str = "openai", **settings: str) -> dict[str, str]:
    settings = {"KIND": kind, "BASE_URL": f"{server.url}/v1", "MODEL": "m", **settings}
    return {f"LLM2WS_LLM__IT__{name}": value for name, value in settings.items()}
