"""For tests, yours and ours: a scripted LLM, a speech endpoint that misbehaves on command, a network that does.

All of it is real: an async generator, a WebSocket server that speaks Deepgram Speak v1 and enforces its limits, a TCP proxy.
What the endpoint says can be read back: `decode` turns its audio into the text again, so that a test sees which words arrived,
in which order and how often.
"""

from __future__ import annotations

from .faults import Drop, Faults, How
from .network import FaultyNetwork
from .server import Received
from .source import script, tokens
from .speech import FaultySpeech
from .voice import Coding, Renderer, decode

__all__ = [
    "Coding",
    "Drop",
    "Faults",
    "FaultyNetwork",
    "FaultySpeech",
    "How",
    "Received",
    "Renderer",
    "decode",
    "script",
    "tokens",
]
