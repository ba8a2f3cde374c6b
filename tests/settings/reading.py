"""Settings read from a file's text and an environment."""

from __future__ import annotations

from llm2ws.settings import loading
from llm2ws.settings.fields import Settings

__all__ = ["load"]


def load(text: str = "", **environ: str) -> Settings:
    return loading.load(environ=environ, config=text or None).settings
