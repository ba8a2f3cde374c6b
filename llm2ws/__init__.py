"""llm2ws: LLM stream in, speech out.

The public names, and the only ones to rely on; `docs/python.md` shows each in use. A name is loaded when it is first used
(PEP 562), so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .audio import AudioFormat, Encoding
    from .errors import (
        ConfigError,
        ConnectFailed,
        Llm2wsError,
        LocalProtocolError,
        SinkError,
        SlowConsumerError,
        SourceError,
        SpeechError,
        TurnLost,
        UnknownName,
    )
    from .service import connect
    from .settings.text import TextOptions
    from .sinks.device import Player
    from .sinks.raw import RawFile
    from .sinks.wav import WavFile
    from .sources.anthropic import anthropic_messages
    from .sources.aside import Aside
    from .sources.inlet import Inlet
    from .sources.model import ModelOptions
    from .sources.openai import openai_chat
    from .sources.prompt import Message, Prompt
    from .sources.responses import openai_responses
    from .sources.sdk_stream import from_sdk_stream
    from .sources.text import ByteReader, echo, from_iterable, from_stream, from_text
    from .speech.dialect import Limits
    from .speech.utterance.heard import Heard, Spoken
    from .speech.utterance.pacing import Pace
    from .text.fragments import Policy
    from .turn import Audio, Conversation, Done, Notice, NoticeKind, Outcome, Said, Source, Turn, TurnEvent, TurnStats

# The module of the package in which each public name is defined.
_HOME = {
    "Aside": "sources.aside",
    "Audio": "turn",
    "AudioFormat": "audio",
    "ByteReader": "sources.text",
    "ConfigError": "errors",
    "ConnectFailed": "errors",
    "Conversation": "turn",
    "Done": "turn",
    "Encoding": "audio",
    "Heard": "speech.utterance.heard",
    "Inlet": "sources.inlet",
    "Limits": "speech.dialect",
    "Llm2wsError": "errors",
    "LocalProtocolError": "errors",
    "Message": "sources.prompt",
    "ModelOptions": "sources.model",
    "Notice": "turn",
    "NoticeKind": "turn",
    "Outcome": "turn",
    "Pace": "speech.utterance.pacing",
    "Player": "sinks.device",
    "Policy": "text.fragments",
    "Prompt": "sources.prompt",
    "RawFile": "sinks.raw",
    "Said": "turn",
    "SinkError": "errors",
    "SlowConsumerError": "errors",
    "Source": "turn",
    "SourceError": "errors",
    "SpeechError": "errors",
    "Spoken": "speech.utterance.heard",
    "TextOptions": "settings.text",
    "Turn": "turn",
    "TurnEvent": "turn",
    "TurnLost": "errors",
    "TurnStats": "turn",
    "UnknownName": "errors",
    "WavFile": "sinks.wav",
    "anthropic_messages": "sources.anthropic",
    "connect": "service",
    "echo": "sources.text",
    "from_iterable": "sources.text",
    "from_sdk_stream": "sources.sdk_stream",
    "from_stream": "sources.text",
    "from_text": "sources.text",
    "openai_chat": "sources.openai",
    "openai_responses": "sources.responses",
}

__all__ = [
    "Aside",
    "Audio",
    "AudioFormat",
    "ByteReader",
    "ConfigError",
    "ConnectFailed",
    "Conversation",
    "Done",
    "Encoding",
    "Heard",
    "Inlet",
    "Limits",
    "Llm2wsError",
    "LocalProtocolError",
    "Message",
    "ModelOptions",
    "Notice",
    "NoticeKind",
    "Outcome",
    "Pace",
    "Player",
    "Policy",
    "Prompt",
    "RawFile",
    "Said",
    "SinkError",
    "SlowConsumerError",
    "Source",
    "SourceError",
    "SpeechError",
    "Spoken",
    "TextOptions",
    "Turn",
    "TurnEvent",
    "TurnLost",
    "TurnStats",
    "UnknownName",
    "WavFile",
    "anthropic_messages",
    "connect",
    "echo",
    "from_iterable",
    "from_sdk_stream",
    "from_stream",
    "from_text",
    "openai_chat",
    "openai_responses",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
