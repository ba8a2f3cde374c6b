"""llm2ws: LLM stream in, speech out.

The public names. Each is loaded when it is first used (PEP 562), so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .audio import AudioFormat, Encoding
    from .errors import (
        ConfigError,
        Llm2wsError,
        SinkError,
        SourceError,
        SpeechError,
    )
    from .service import connect
    from .sinks.device import Player
    from .sinks.raw import RawFile
    from .sinks.wav import WavFile
    from .sources.anthropic import anthropic_messages
    from .sources.aside import Aside
    from .sources.inlet import Inlet
    from .sources.openai import openai_chat
    from .sources.responses import openai_responses
    from .sources.text import echo, from_iterable, from_text
    from .speech.dialect import Limits
    from .speech.utterance.pacing import Pace
    from .text.fragments import Policy
    from .turn import Conversation, Outcome, Turn

_HOME = {
    "Aside": "sources.aside",
    "AudioFormat": "audio",
    "ConfigError": "errors",
    "Conversation": "turn",
    "Encoding": "audio",
    "Inlet": "sources.inlet",
    "Limits": "speech.dialect",
    "Llm2wsError": "errors",
    "Outcome": "turn",
    "Pace": "speech.utterance.pacing",
    "Player": "sinks.device",
    "Policy": "text.fragments",
    "RawFile": "sinks.raw",
    "SinkError": "errors",
    "SourceError": "errors",
    "SpeechError": "errors",
    "Turn": "turn",
    "WavFile": "sinks.wav",
    "anthropic_messages": "sources.anthropic",
    "connect": "service",
    "echo": "sources.text",
    "from_iterable": "sources.text",
    "from_text": "sources.text",
    "openai_chat": "sources.openai",
    "openai_responses": "sources.responses",
}

__all__ = [
    "Aside",
    "AudioFormat",
    "ConfigError",
    "Conversation",
    "Encoding",
    "Inlet",
    "Limits",
    "Llm2wsError",
    "Outcome",
    "Pace",
    "Player",
    "Policy",
    "RawFile",
    "SinkError",
    "SourceError",
    "SpeechError",
    "Turn",
    "WavFile",
    "anthropic_messages",
    "connect",
    "echo",
    "from_iterable",
    "from_text",
    "openai_chat",
    "openai_responses",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
